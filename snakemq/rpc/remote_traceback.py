"""Tracebacks that cross the wire: as text beside the exception."""

from __future__ import annotations

import logging
import sys
import traceback
from typing import Final

__all__ = ["REMOTE_TRACEBACK_ATTR", "RemoteTraceback", "attach", "describe", "format_remote"]

#: Attribute of a remote exception that has the remote traceback, a string.
REMOTE_TRACEBACK_ATTR: Final = "__remote_traceback__"

_HEADING: Final = "Remote traceback"

_log = logging.getLogger("snakemq.rpc")


class RemoteTraceback(Exception):
    """What a remote exception is shown with on Python 3.10: its remote traceback."""


def format_remote(exc: BaseException) -> str:
    """The traceback of an exception that a served method raised.

    Without the frame of the server that called it, unless that is all.
    """
    frames = exc.__traceback__
    if frames is not None and frames.tb_next is not None:
        frames = frames.tb_next
    try:
        return "".join(traceback.format_exception(type(exc), exc, frames))
    except Exception:
        # There are exceptions that can't even be printed.
        _log.debug("no traceback of a %s", type(exc), exc_info=True)
        return "".join(traceback.format_tb(frames)) + describe(exc)


def describe(exc: BaseException) -> str:
    """Its representation; of the class alone if it has none that works."""
    try:
        return repr(exc)
    except Exception:
        _log.debug("no repr() of a %s", type(exc), exc_info=True)
        return repr(type(exc))


def attach(exc: Exception, text: str, remote_ident: str) -> None:
    """Give an exception that came over the wire its remote traceback.

    It is shown wherever the exception is printed: by a note, and on Python
    3.10, which has none, by a cause.
    """
    # Not by setattr and add_note: a class may forbid both (frozen dataclass).
    attributes = exc.__dict__
    attributes[REMOTE_TRACEBACK_ATTR] = text
    if sys.version_info >= (3, 11):
        notes = attributes.get("__notes__")
        # It may have crossed another wire before; the text tells that already.
        kept = [
            note
            for note in (notes if isinstance(notes, list) else ())
            if not (isinstance(note, str) and note.startswith(_HEADING))
        ]
        if text:
            kept.append(f"{_HEADING} ({remote_ident}):\n{text.rstrip()}")
        if kept or notes is not None:
            attributes["__notes__"] = kept
    elif text:
        cause = RemoteTraceback(f"\n{_HEADING} ({remote_ident}):\n{text.rstrip()}")
        BaseException.__setattr__(exc, "__cause__", cause)
