"""Sees what a piece of code asks of the interpreter: imports, files, programs."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

__all__ = ["nothing_happens"]

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
