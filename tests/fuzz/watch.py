"""Sees what a piece of code asks of the interpreter, and what it logs."""

from __future__ import annotations

import logging
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

__all__ = ["no_faults", "nothing_happens"]

#: What anything may do to what it has.
_HARMLESS = frozenset({"builtins.id", "object.__getattr__", "object.__setattr__"})

_watched: set[int] = set()
_seen: list[str] = []
_installed = False


def _hook(event: str, args: tuple[Any, ...]) -> None:
    if _watched and threading.get_ident() in _watched and event not in _HARMLESS:
        _seen.append(f"{event} {args!r:.200}")


@contextmanager
def nothing_happens() -> Iterator[None]:
    """Fails if what runs inside imports, opens, compiles or looks up anything.

    It sees what Python tells an audit hook: for instance the names that
    :class:`pickle.Unpickler` looks up.
    """
    global _installed
    if not _installed:
        # The codecs that there are in pickles. Python imports each when it is needed first.
        for codec in ("utf-8", "latin-1", "ascii", "raw_unicode_escape"):
            "".encode(codec)
        # It can't be removed again.
        sys.addaudithook(_hook)
        _installed = True
    _seen.clear()
    _watched.add(threading.get_ident())
    try:
        yield
    finally:
        _watched.discard(threading.get_ident())
    assert not _seen, _seen


class _Faults(logging.Handler):
    """Keeps tracebacks in the log: nothing that a stranger says may cause one."""

    def __init__(self, expected: str) -> None:
        super().__init__(logging.DEBUG)
        self._expected = expected
        self.found: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        text = record.getMessage()
        if record.exc_info and self._expected not in text:
            self.found.append(self.format(record))
        elif not text.isprintable():
            self.found.append(f"not for a log: {text!r}")
        elif len(text) > 4000:
            self.found.append(f"too long for a log: {text[:100]!r}")


@contextmanager
def no_faults(expected: str = "\0") -> Iterator[None]:
    """Fails if what runs inside logs a traceback, or something that does not belong in a log.

    :param expected: what is in a line whose traceback is all right
    """
    logger = logging.getLogger("snakemq")
    faults = _Faults(expected)
    level, propagate = logger.level, logger.propagate
    logger.addHandler(faults)
    logger.setLevel(logging.INFO)
    logger.propagate = False
    try:
        yield
    finally:
        logger.removeHandler(faults)
        logger.setLevel(level)
        logger.propagate = propagate
    assert not faults.found, faults.found[0]
