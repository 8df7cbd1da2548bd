"""How large a value is for those who do not see which of its parts are the same.

A list of two references to a list of two references to a list, and so on 60 times, takes
some hundred bytes. It is harmless until somebody prints it, compares it, copies it
to JSON or walks through it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from itertools import chain
from types import MemberDescriptorType
from typing import Any, Final

from snakemq.rpc._known_types import BadData

__all__ = ["check_sharing"]

#: So many parts a value may have, and so many more for each byte of its pickle.
_FREE: Final = 1_000_000
_PER_BYTE: Final = 1000

_PLAIN: Final = frozenset({type(None), bool, int, float, complex, str, bytes, bytearray})
#: By whose methods their parts are listed: those of a class that is derived from them
#: may do anything.
_SEQUENCES: Final[tuple[Any, ...]] = (list, tuple, set, frozenset, deque)


def check_sharing(value: Any, size: int) -> None:
    """Look at a value that came.

    :param size: of the pickle, in bytes
    :raises BadData: as a tree it would be far larger than that
    """
    if type(value) in _PLAIN:
        return
    most = _FREE + _PER_BYTE * size
    #: how many parts each has that was looked at; 1 while that goes on, as if a part
    #: that has itself as a part were printed: "[...]"
    counts: dict[int, int] = {id(value): 1}
    # One that was made to list the parts of another has to live as long as its
    # identity is used; values themselves do.
    kept: list[Any] = []
    path: list[tuple[int, Iterator[Any]]] = [(id(value), _parts(value, kept))]
    while path:
        key, parts = path[-1]
        for part in parts:
            kind = type(part)
            if kind in _PLAIN:
                counts[key] += 1
                continue
            count = counts.get(id(part))
            if count is None and _is_flat(part, kind):
                count = counts[id(part)] = 1 + 2 * len(part)
            if count is None:
                counts[id(part)] = 1
                path.append((id(part), _parts(part, kept)))
                break
            counts[key] += count
        else:
            path.pop()
            if counts[key] > most:
                raise BadData("parts that are shared so often that nobody could look at all of it")
            if path:
                counts[path[-1][0]] += counts[key]


def _is_flat(value: Any, kind: type) -> bool:
    """Whether it has no parts that have parts: most have none."""
    if kind is dict:
        return _PLAIN.issuperset(map(type, value.values())) and _PLAIN.issuperset(map(type, value))
    return (kind is list or kind is tuple) and _PLAIN.issuperset(map(type, value))


def _parts(value: Any, kept: list[Any]) -> Iterator[Any]:
    found: list[Iterable[Any]] = []
    if isinstance(value, dict):
        found += (dict.keys(value), dict.values(value))
    else:
        for cls in _SEQUENCES:
            if isinstance(value, cls):
                found.append(cls.__iter__(value))
    kind = type(value)
    if kind.__module__ != "builtins" or isinstance(value, BaseException):
        if isinstance(value, BaseException):
            kept.append(value.args)
            found.append(value.args)
        attributes = getattr(value, "__dict__", None)
        if type(attributes) is dict:
            found.append(attributes.values())
        found.append(_slots(value))
    return chain.from_iterable(found)


def _slots(value: Any) -> Iterator[Any]:
    for cls in type(value).__mro__[:-1]:
        for descriptor in vars(cls).values():
            if isinstance(descriptor, MemberDescriptorType):
                try:
                    yield descriptor.__get__(value)
                except AttributeError:
                    continue  # it has no value
