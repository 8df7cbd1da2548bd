"""The machine that reads pickles without doing what they say.

A pickle is a program for a machine with a stack, and Python's own machine will
import and call whatever the program names. This one builds data. It knows all
instructions of protocols 0 to 5 and refuses those that have no place in data:
persistent identifiers, extension codes, buffers beside the pickle.

A few bytes can also be a lot of work, and that is refused before it is done:

* sizes and memo indices beyond the data;
* what is nested deeper than :data:`MAX_DEPTH` levels. Only tuples are a danger, whose
  hash is computed in recursion on the C stack, and those can't be changed
  afterwards; so it is enough to look at what a container holds when it is filled;
* keys that share parts over and over: the hash of a tuple of two references to the same
  tuple of two references, 40 times, takes days. Every value has a *weight*, the
  number of values in it if nothing were shared, and the keys of a pickle may weigh
  so much per byte;
* many keys with the same hash in one dictionary;
* many copies of one large value, which a dictionary that is made of another one is, or
  the attributes of an object: 40 kB could become 400 MB;
* parts that are shared over and over, of the value as a whole: see
  :mod:`snakemq.rpc._pickle_sharing`.
"""

from __future__ import annotations

import types
import uuid
from collections import Counter, OrderedDict, defaultdict, deque
from typing import Any, Final

from snakemq.rpc._known_types import BadData, Hashes, KnownTypes, UnknownType, shown
from snakemq.rpc._pickle_globals import (
    Arguments,
    ExceptionClass,
    Global,
    PlainClass,
    RegisteredClass,
    UnknownClass,
    find_standard,
    update_exception,
)
from snakemq.rpc._pickle_sharing import check_sharing
from snakemq.rpc.errors import RemoteError

__all__ = ["MAX_DEPTH", "Machine", "text_keys"]

#: Levels of nesting. What Python itself can pickle ends at some hundred levels.
MAX_DEPTH: Final = 256

#: Bits from which on the length of an integer counts for its weight.
_LONG_INT: Final = 4096
#: So much may keys weigh: in any pickle, and for each of its bytes.
_FREE_WEIGHT: Final = 10_000
_WEIGHT_PER_BYTE: Final = 32
#: So much may be copied from values to others, in parts or bytes, beside as much as the
#: size of the pickle. What pickle writes is copied once.
_FREE_COPIES: Final = 20_000
#: So many references to values that have parts can't make much of little.
_FREE_REFERENCES: Final = 12
#: Classes that are not known here, of exceptions that came.
_MAX_UNKNOWN: Final = 100
#: Doubling again and again must not make the weights themselves expensive.
_MAX_WEIGHT: Final = 1 << 60

_CHEAP: Final = frozenset({type(None), bool, float, str, bytes, bytearray, complex})
_COPIED: Final = (str, bytes, bytearray, list, tuple, dict)
_CHEAP_AND_INT: Final = _CHEAP | {int}
_NAMES: Final = frozenset(
    {Arguments, ExceptionClass, PlainClass, RegisteredClass, UnknownClass}
    | set(Global.__subclasses__())
    | {sub for cls in Global.__subclasses__() for sub in cls.__subclasses__()}
)
_RANDOM_HASHES: Final = frozenset({str, bytes, bool, type(None)})
_DICTIONARIES: Final = frozenset({dict, OrderedDict, defaultdict, Counter})


class Machine:
    """Reads one pickle.

    :param data: the pickle
    :param known: what may be in it
    :param stand_ins: whether unknown classes become :class:`RemoteError`
    """

    __slots__ = (
        "_cheap",
        "_copied",
        "_costs",
        "_fetched",
        "_hashed",
        "_hashes",
        "_kept",
        "_known",
        "_references",
        "_stand_ins",
        "_unknown",
        "_with_stand_ins",
        "data",
        "marks",
        "memo",
        "stack",
    )

    def __init__(self, data: bytes, known: KnownTypes, *, stand_ins: bool = False) -> None:
        self.data = data
        self._known = known
        self._with_stand_ins = stand_ins
        self._stand_ins: list[RemoteError] = []
        self._unknown: dict[tuple[str, str], UnknownClass] = {}
        self._copied = self._references = 0
        self.stack: list[Any] = []
        self.marks: list[int] = []
        self.memo: dict[int, Any] = {}
        #: depth and weight of what is not cheap, by identity; and those objects,
        #: so that no other gets the identity of one of them
        self._costs: dict[int, tuple[int, int]] = {}
        self._kept: list[Any] = []
        #: what costs nothing; integers too, until a long one comes
        self._cheap = _CHEAP_AND_INT
        self._hashed = 0
        self._hashes: dict[int, Hashes] = {}
        #: deques that were taken from the memo
        self._fetched: set[int] = set()

    def result(self) -> Any:
        """What was made, at the end.

        :raises BadData: it is no data
        :raises UnknownType: it has an object of an unknown class
        """
        value = self.stack[-1]
        if type(value) in _NAMES:
            raise BadData("a class or function is no data")
        if self._stand_ins:
            self._check_stand_ins(value)
        if self._references > _FREE_REFERENCES:
            check_sharing(value, len(self.data))
        return value

    def _check_stand_ins(self, value: Any) -> None:
        exception = value.get("exception") if type(value) is dict else None
        for found in self._stand_ins:
            if found is not exception:
                raise UnknownType.named(type(found).__module__, type(found).__name__)

    # What things cost.

    def _measure(self, items: Any) -> tuple[int, int]:
        """Depth and weight of a container with these items."""
        kinds = set(map(type, items))
        weight = len(items) + 1
        if kinds <= self._cheap:
            return 1, weight
        if not kinds.isdisjoint(_NAMES):
            raise BadData("a class or function is no data")
        depth = 0
        costs = self._costs
        for item in items:
            cost = costs.get(id(item))
            if cost is not None:
                weight += cost[1]
                if cost[0] > depth:
                    depth = cost[0]
        if depth >= MAX_DEPTH:
            raise BadData(f"nested deeper than {MAX_DEPTH} levels")
        return depth + 1, min(weight, _MAX_WEIGHT)

    def _note(self, value: Any, items: Any) -> None:
        """Something was made of these items."""
        self._costs[id(value)] = self._measure(items)
        self._kept.append(value)

    def _note_more(self, value: Any, items: Any) -> None:
        """These items came into something."""
        depth, weight = self._measure(items)
        old = self._costs.get(id(value))
        if old is None:
            self._kept.append(value)
        else:
            depth = max(depth, old[0])
            weight = min(weight + old[1], _MAX_WEIGHT)
        self._costs[id(value)] = depth, weight

    def _note_copies(self, values: Any) -> None:
        """These are about to be copied into something."""
        for value in values:
            if isinstance(value, _COPIED):
                self._copied += len(value)
            elif type(value) is int:
                self._copied += value.bit_length() // 8
        if self._copied > _FREE_COPIES + len(self.data):
            raise BadData("large values are copied over and over")

    def _note_keys(self, container: Any, keys: Any) -> None:
        """These are about to be hashed, for this container, which has been noted."""
        if set(map(type, keys)) <= _RANDOM_HASHES:
            return
        costs = self._costs
        for key in keys:
            cost = costs.get(id(key))
            self._hashed += 1 if cost is None else cost[1]
        if self._hashed > _FREE_WEIGHT + _WEIGHT_PER_BYTE * len(self.data):
            raise BadData("keys that share so many parts that it takes too long to hash them")
        hashes = self._hashes.get(id(container))
        if hashes is None:
            hashes = self._hashes[id(container)] = Hashes()
        hashes.add(keys)

    # What is on the stack.

    def since_mark(self) -> list[Any]:
        stack = self.stack
        mark = self.marks.pop()
        items = stack[mark:]
        del stack[mark:]
        return items

    def push_int(self, value: int) -> None:
        if value.bit_length() > _LONG_INT:
            self._cheap = _CHEAP
            self._costs[id(value)] = 0, value.bit_length() // 64
            self._kept.append(value)
        self.stack.append(value)

    def push_tuple(self, items: Any) -> None:
        if not items:
            self.stack.append(())
            return
        made = tuple(items)
        if not _NAMES.isdisjoint(map(type, made)):
            self.stack.append(Arguments(made))
            return
        self._note(made, made)
        self.stack.append(made)

    def extend(self, target: Any, items: list[Any]) -> None:
        kind = type(target)
        if kind is list:
            self._note_more(target, items)
            target.extend(items)
        elif kind is deque:
            if id(target) in self._fetched:
                # A chain of them, which is made in this way, ends the process
                # when it is freed.
                raise BadData("a deque that is referred to before it is complete")
            self._note_more(target, items)
            target.extend(items)
        elif isinstance(target, list) and self._known.has(kind):
            self._note_more(target, items)
            for item in items:
                target.append(item)
        else:
            raise BadData(f"a {kind.__name__} gets no items")

    def set_items(self, target: Any, items: list[Any]) -> None:
        kind = type(target)
        if not (kind in _DICTIONARIES or (isinstance(target, dict) and self._known.has(kind))):
            raise BadData(f"a {kind.__name__} gets no items with keys")
        if len(items) % 2:
            raise BadData("a key without a value")
        keys = items[::2]
        self._note_more(target, items)
        self._note_keys(target, keys)
        if kind is dict:
            target.update(zip(keys, items[1::2], strict=True))
            return
        for key, value in zip(keys, items[1::2], strict=True):
            target[key] = value

    def add_items(self, target: Any, items: list[Any]) -> None:
        if not (type(target) is set or (isinstance(target, set) and self._known.has(type(target)))):
            raise BadData(f"a {type(target).__name__} gets no members")
        self._note_more(target, items)
        self._note_keys(target, items)
        target.update(items)

    def note_fetched(self, value: Any) -> None:
        """This was taken from the memo."""
        kind = type(value)
        if kind in _CHEAP_AND_INT or kind in _NAMES:
            return
        self._references += 1
        if kind is deque:
            self._fetched.add(id(value))

    def frozen(self, items: list[Any]) -> frozenset[Any]:
        self._note(items, items)
        self._note_keys(items, items)
        made = frozenset(items)
        self._note(made, items)
        return made

    # Objects.

    def find(self, module: Any, name: Any) -> Any:
        if type(module) is not str or type(name) is not str:
            raise BadData("a name that is no text")
        found = find_standard(self._known, module, name)
        if found is not None:
            return found
        if self._with_stand_ins:
            return self._unknown_class(module, name)
        raise UnknownType.named(module, name)

    def _unknown_class(self, module: str, name: str) -> UnknownClass:
        unknown = self._unknown.get((module, name))
        if unknown is None:
            if len(self._unknown) >= _MAX_UNKNOWN:
                raise BadData(f"more than {_MAX_UNKNOWN} classes that are not known here")
            unknown = self._unknown[module, name] = UnknownClass(module, name)
        return unknown

    def make(self, callee: Any, args: Any, kwargs: dict[str, Any] | None = None) -> Any:
        """:param kwargs: ``None``: call it, else make it by its ``__new__``"""
        if not isinstance(callee, Global):
            raise BadData(f"a {type(callee).__name__} is not to be called")
        if not isinstance(args, tuple):
            raise BadData("arguments that are no tuple")
        if isinstance(args, Arguments) and not callee.takes_names:
            raise BadData("a class or function is no data")
        if callee.copies:
            self._note_copies((*args, *kwargs.values()) if kwargs else args)
        if isinstance(callee, PlainClass) and callee.cls in (set, frozenset):
            return self._make_set(callee.cls, args)
        made = callee.call(args) if kwargs is None else callee.new(args, kwargs)
        if isinstance(callee, UnknownClass):
            self._stand_ins.append(made)
        values = [arg for arg in args if not isinstance(arg, Global)]
        if kwargs:
            values += kwargs.values()
        self._note(made, values)
        # A long text or number in it may be hashed, too.
        depth, weight = self._costs[id(made)]
        weight += sum(len(value) // 8 for value in values if isinstance(value, (str, bytes)))
        self._costs[id(made)] = depth, min(weight, _MAX_WEIGHT)
        return made

    def _make_set(self, cls: type, args: tuple[Any, ...]) -> Any:
        if not args:
            return cls()
        (items,) = args
        if type(items) is not list:
            raise BadData("a set is made of a list")
        if cls is frozenset:
            return self.frozen(items)
        made: set[Any] = set()
        self.add_items(made, items)
        return made

    def build(self, target: Any, state: Any) -> None:
        """Give an object its state."""
        self._note_copies(
            [state, *(part for part in state if type(part) is dict)]
            if type(state) is tuple
            else [state]
        )
        self._note_more(target, (state,))
        kind = type(target)
        registered = self._known.has(kind)
        if registered and getattr(kind, "__setstate__", None) not in (
            None,
            BaseException.__setstate__,
        ):
            target.__setstate__(state)
        elif isinstance(target, RemoteError) and type(state) is not dict:
            return  # whatever it means to the class that this stands for
        elif isinstance(target, BaseException):
            update_exception(target, text_keys(state))
        elif registered:
            _set_state(target, state)
        elif kind is uuid.UUID:
            number = text_keys(state).get("int")
            if type(number) is not int or not 0 <= number < 1 << 128:
                raise BadData("a UUID is a number of 128 bits")
            object.__setattr__(target, "int", number)
        elif kind is types.SimpleNamespace:
            target.__dict__.update(text_keys(state))
        else:
            raise BadData(f"a {kind.__name__} has no state")


def text_keys(state: Any) -> dict[str, Any]:
    """The state as a dictionary of attributes.

    :raises BadData: it is none
    """
    if type(state) is not dict or not all(type(key) is str for key in state):
        raise BadData("a state that is no dictionary of attributes")
    return state


def _set_state(target: Any, state: Any) -> None:
    if type(state) is tuple and len(state) == 2:
        state, slots = state
        for name, value in text_keys({} if slots is None else slots).items():
            descriptor = getattr(type(target), name, None)
            if not isinstance(descriptor, types.MemberDescriptorType):
                raise BadData(f"a {type(target).__name__} has no slot {shown(name)}")
            descriptor.__set__(target, value)
    if state is not None:
        target.__dict__.update(text_keys(state))
