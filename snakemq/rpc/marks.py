"""What a served function says about itself: decorators, and how to read them.

Each mark is one attribute of the function. They go together with one another,
and with ``staticmethod`` and ``classmethod`` in any order. Put them above other
decorators: the mark has to be visible on what callers reach in the end.
"""

from __future__ import annotations

from types import FunctionType, MethodType
from typing import Final, NamedTuple, TypeVar

__all__ = [
    "METHOD_RPC_AS_SIGNAL_ATTR",
    "Marks",
    "as_signal",
    "at_most_once",
    "marks_of",
    "quick",
    "transactional",
]

#: Attribute of a method that is marked as a signal; the value is 1.6's.
METHOD_RPC_AS_SIGNAL_ATTR: Final = "__snakemw_rpc_as_signal"

_QUICK_ATTR: Final = "__snakemq_rpc_quick"
_AT_MOST_ONCE_ATTR: Final = "__snakemq_rpc_at_most_once"

_TRANSACTIONAL_ATTR: Final = "__snakemq_rpc_transactional"


class Marks(NamedTuple):
    """How a function is marked."""

    is_signal: bool
    is_quick: bool
    at_most_once: bool
    is_transactional: bool


_NONE: Final = Marks(False, False, False, False)

_F = TypeVar("_F")


def as_signal(method: _F) -> _F:
    """Mark a method as a signal on the side of the server. A decorator.

    The caller does not wait for a signal and gets nothing back; it says so
    with :meth:`RemoteMethod.as_signal`. Put it above other decorators: the
    mark has to be visible on what the object has in the end.

    :param method: a function or method
    :return: the same object
    :raises TypeError: it is of a kind that can't be marked
    """
    _mark(method, METHOD_RPC_AS_SIGNAL_ATTR)
    return method


def quick(method: _F) -> _F:
    """Mark a method that may run in the thread of the loop. A decorator.

    That saves two changes of thread for each call. While it runs, nothing is
    received or sent and no ping is answered: it must return in far less than a
    millisecond, and must not wait for anything: no lock that is held for long,
    no file, no other peer.

    :param method: a function or method
    :return: the same object
    :raises TypeError: it is of a kind that can't be marked
    """
    _mark(method, _QUICK_ATTR)
    return method


def at_most_once(method: _F) -> _F:
    """Mark a method that is not run again if the server is restarted in mid-call. A decorator.

    The caller gets :class:`CallInterrupted` then, and finds out by itself how
    far the method came. Without the mark it is run again, from its beginning.

    :param method: a function or method
    :return: the same object
    :raises TypeError: it is of a kind that can't be marked
    """
    _mark(method, _AT_MOST_ONCE_ATTR)
    return method


def transactional(method: _F) -> _F:
    """Mark a method that runs in a transaction of the storage. A decorator.

    What it writes by way of ``current_call().transaction.db``, the messages
    that it sends with ``current_call().transaction.send_message()``, and the
    answer to the call are stored together or not at all. So whatever is killed
    when, the effect of each call is there exactly once. If it raises, nothing of it is.

    The server has to keep its answers (``durable=True``), in an SQLite file.
    Everybody else who wants to store something waits until the method returns.

    :param method: a function or method
    :return: the same object
    :raises TypeError: it is of a kind that can't be marked
    """
    _mark(method, _TRANSACTIONAL_ATTR)
    return method


def marks_of(method: object) -> Marks:
    """How a function or method is marked."""
    if type(method) is MethodType or type(method) is FunctionType:
        # Most have no attributes at all, and this is asked at every call.
        # A function in C that is bound has not even a place for them.
        found = getattr(method, "__dict__", None)
        if not found:
            return _NONE
        get = found.get
        return Marks(
            get(METHOD_RPC_AS_SIGNAL_ATTR) is True,
            get(_QUICK_ATTR) is True,
            get(_AT_MOST_ONCE_ATTR) is True,
            get(_TRANSACTIONAL_ATTR) is True,
        )
    # Only what was put there: an object that makes up attributes when it is
    # asked for them has them all.
    return Marks(
        getattr(method, METHOD_RPC_AS_SIGNAL_ATTR, None) is True,
        getattr(method, _QUICK_ATTR, None) is True,
        getattr(method, _AT_MOST_ONCE_ATTR, None) is True,
        getattr(method, _TRANSACTIONAL_ATTR, None) is True,
    )


def _mark(method: object, attribute: str) -> None:
    # What static methods, class methods and bound methods show of their
    # attributes is those of the function inside.
    marked = getattr(method, "__func__", method)
    try:
        setattr(marked, attribute, True)
    except (AttributeError, TypeError):
        raise TypeError(f"{method!r} can't be marked: put a function of yours around it") from None
