"""The default serializer: pickle's format, of which nothing is executed.

It writes what :mod:`pickle` writes, protocol 4, as 1.6 does. It reads every
pickle, but makes only

* plain data: ``None``, ``bool``, ``int``, ``float``, ``complex``, ``str``, ``bytes``,
  ``bytearray``, ``list``, ``tuple``, ``dict``, ``set``, ``frozenset``, ``...`` and
  ``NotImplemented``;
* standard values: ``date``, ``time``, ``datetime``, ``timedelta`` and ``timezone`` of
  :mod:`datetime`, ``Decimal``, ``Fraction``, ``UUID``, ``OrderedDict``, ``defaultdict``
  of a plain type, ``Counter``, ``deque``, ``SimpleNamespace``;
* exceptions: the builtin ones, and those of :mod:`snakemq.exceptions` and
  :mod:`snakemq.rpc`;
* objects of the classes that the program has registered.

Classes are told by their exact names. Nothing is imported or looked up, and a class
or function is never a value. What else comes is an :class:`UnknownType`; what is no
pickle, or takes more time or memory than its size justifies, a ``ValueError``.

A class that is registered is trusted with what others send: its ``__new__`` and
``__setstate__`` are called, and so is the class itself if it has a ``__reduce__``, is
an enumeration, or one of exceptions. The ``__init__`` of an ordinary class or
dataclass is not.
"""

from __future__ import annotations

import pickle
import re
import sys
from collections.abc import Iterable
from typing import Any, Final, TypeVar

from snakemq.rpc._known_types import BadData, KnownTypes, UnknownType
from snakemq.rpc._pickle_instructions import read_pickle
from snakemq.rpc._pickle_machine import MAX_DEPTH
from snakemq.rpc._pickle_sharing import check_sharing

__all__ = ["SAFE_PICKLE", "BadData", "SafePickle", "UnknownType", "register_type"]

_T = TypeVar("_T", bound=type[Any])

#: What 1.6 writes with the Pythons that it runs on best, and all of them read.
_PROTOCOL: Final = 4


#: Every level of nesting takes two bytes, so these can't be nested too deep.
_SMALL: Final = 2 * MAX_DEPTH

#: So many references, in so few bytes, can't make much of little.
_FREE_REFERENCES: Final = 24


def _harmless_pickles() -> tuple[re.Pattern[bytes], re.Pattern[bytes]]:
    """What small pickles match that pickle itself can read without harm.

    They have only instructions that push plain data and put it together. Parts
    can be shared so that they are a lot of work to hash; therefore those of the first
    kind read from the memo at most four times, and the second have no tuples,
    without which nothing is hashed that has parts.

    No two alternatives begin with the same byte. So there is only one way to
    match, and the time is linear; where Python can be told that it need not
    remember others, it takes a quarter less.
    """
    # Before 3.11.5 it then takes an alternative that fails half-way for a match.
    can_be_told = sys.version_info >= (3, 11) and not re.fullmatch(b"(?:ab?c)*+", b"a")
    many = b"*+" if can_be_told else b"*"
    sized = b"|".join(
        re.escape(bytes([size])) + (b".{%d}" % size if size else b"") for size in range(256)
    )
    flat = (
        rb"\x8c(?:" + sized + rb")\x94|C(?:" + sized + rb")\x94"  # a text, bytes; to the memo
        rb"|[()aesuN\x88\x89\x90]"  # mark, empty tuple, additions; constants
        rb"|K.|M..|J.{4}|G.{8}|\x8a(?:" + sized + rb")"  # integers, a float
        rb"|[\]}\x8f]\x94"  # containers; to the memo
    )
    nested = flat + rb"|[\x85-\x87t]\x94"  # tuples
    start = rb"\x80[\x02-\x05](?:\x95.{8})?"
    return (
        re.compile(
            b"%b(?:%b)%b(?:h.(?:%b)%b){0,4}\\." % (start, nested, many, nested, many), re.DOTALL
        ),
        re.compile(b"%b(?:%b|h.)%b\\." % (start, flat, many), re.DOTALL),
    )


_FEW_SHARED, _WITHOUT_TUPLES = (pattern.fullmatch for pattern in _harmless_pickles())


class SafePickle:
    """A serializer of this kind, with registered types of its own.

    :param types: the types that others may send, beside the standard ones
    """

    #: Reading runs no code but that of registered types, and takes no more time
    #: than the size of the data justifies.
    is_safe: Final = True

    def __init__(self, types: Iterable[type] = ()) -> None:
        self._known = KnownTypes(types)

    def register_type(self, cls: _T) -> _T:
        """Let objects of a class come from other peers. A decorator, from any thread.

        For ordinary classes, dataclasses, enumerations, named tuples and
        exceptions. It has to have the same full name on both sides.

        :return: the class
        :raises TypeError: it is no class, or a class of classes
        """
        return self._known.register(cls)

    def dumps(self, obj: Any, /) -> bytes:
        """The pickle of an object.

        It may be one that this reader refuses: the other side decides what it accepts.
        """
        return pickle.dumps(obj, _PROTOCOL)

    def loads(self, data: bytes, /) -> Any:
        """The object again.

        :raises UnknownType: it has a part of a class that is not registered
        :raises ValueError: this is no pickle, or one that is refused
        """
        # A call of 214 bytes, in turn with pickle.loads, the best of seven: 1.5
        # microseconds, 0.65 of them in pickle.loads. What the machine reads takes
        # longer: an exception with its traceback 18 microseconds (pickle: 2), 1000
        # small dictionaries 5 milliseconds (pickle: 0.3).
        if len(data) > _SMALL:
            return read_pickle(_checked(data), self._known)
        has_few_shared = _FEW_SHARED(data)
        if not has_few_shared and not _WITHOUT_TUPLES(data):
            return read_pickle(_checked(data), self._known)
        try:
            value = pickle.loads(data)
        except Exception as exc:
            raise BadData(f"the pickle is malformed: {exc!r}") from exc
        # The letter comes at least as often as the instruction.
        if not has_few_shared and data.count(b"h") > _FREE_REFERENCES:
            check_sharing(value, len(data))
        return value

    def loads_with_stand_ins(self, data: bytes, /) -> Any:
        """The same of a record whose ``"exception"`` may be of an unknown class.

        It becomes a :class:`RemoteError` with the name of the class, and the
        arguments and attributes of the exception.

        :raises UnknownType: something else is of a class that is not registered
        :raises ValueError: this is no pickle, or one that is refused
        """
        return read_pickle(_checked(data), self._known, stand_ins=True)

    def __repr__(self) -> str:
        return f"<SafePickle {self._known!r}>"


def _checked(data: bytes) -> bytes:
    if data[:1] in (b"{", b"[") and data[-1:] in (b"}", b"]"):
        raise BadData("this looks like JSON, and pickle is read here")
    return data if isinstance(data, bytes) else bytes(data)


#: What :class:`RpcClient` and :class:`RpcServer` use if they are not told otherwise.
SAFE_PICKLE: Final = SafePickle()


def register_type(cls: _T) -> _T:
    """Let objects of a class come from other peers, by default. A decorator, from any thread.

    For clients and servers without a ``pickler`` of their own: see
    :meth:`SafePickle.register_type`. It has to be called on each side that receives them.

    :return: the class
    """
    return SAFE_PICKLE.register_type(cls)
