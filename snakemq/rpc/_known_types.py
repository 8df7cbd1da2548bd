"""The classes that may come out of what another peer has sent, by their exact names."""

from __future__ import annotations

import builtins
from collections.abc import Collection, Iterable
from typing import Any, Final, TypeVar

import snakemq.exceptions
from snakemq.rpc import errors
from snakemq.rpc.errors import Error, RemoteError

__all__ = [
    "BadData",
    "Hashes",
    "KnownTypes",
    "UnknownType",
    "full_name",
    "make_exception",
    "shown",
    "stand_in",
]

_T = TypeVar("_T", bound=type[Any])

#: Characters of a remote name that an error message shows.
_SHOWN: Final = 200

#: So many keys may have the hash of another one in the same container.
_MAX_COLLISIONS: Final = 500


class BadData(ValueError):
    """What came is not what the serializer reads, or is something that it refuses."""


class UnknownType(Error, ValueError):
    """What came has an object of a class that this program has not registered.

    :ivar class_name: full name of the class
    """

    __module__ = "snakemq.rpc"

    class_name = ""

    @classmethod
    def named(cls, module: str, name: str) -> UnknownType:
        """The error for this class; it says how to allow it."""
        class_name = shown(f"{module}.{name}")
        error = cls(
            f"{class_name} is not a type that is known here; if it is a class, and may come from "
            f"other peers, allow it with: snakemq.rpc.register_type({class_name})"
        )
        error.class_name = class_name
        return error

    def __reduce__(self) -> tuple[Any, ...]:
        # An unknown class would break a 1.6 peer.
        return Error, self.args


class Hashes:
    """The hashes of the keys of one container, as it is filled.

    Everybody can make numbers and tuples with the same hash, and filling a container
    with them takes time that grows with the square of their number. With texts
    nobody can.
    """

    __slots__ = ("_collisions", "_hashes")

    def __init__(self) -> None:
        self._hashes: set[int] = set()
        self._collisions = 0

    def add(self, keys: Collection[Any]) -> None:
        """These are about to be put into it.

        :raises BadData: too many have the hash of another one
        :raises TypeError: they have no hash
        """
        before = len(self._hashes)
        self._hashes.update(map(hash, keys))
        self._collisions += len(keys) - (len(self._hashes) - before)
        if self._collisions > _MAX_COLLISIONS:
            raise BadData(f"more than {_MAX_COLLISIONS} keys have the hash of another one")


def shown(name: str) -> str:
    """A remote name as it may stand in a log: without what is not printable, and cut."""
    if len(name) > _SHOWN:
        name = name[:_SHOWN] + "..."
    return name if name.isascii() and name.isprintable() else ascii(name)


def full_name(cls: type) -> str:
    """Module and name of a class, with a dot between them."""
    return f"{cls.__module__}.{cls.__qualname__}"


def stand_in(module: str, name: str) -> type[RemoteError]:
    """A class that stands for a remote exception class that is not known here."""
    return type(
        name.rpartition(".")[2],
        (RemoteError,),
        {"__module__": module, "class_name": f"{module}.{name}", "__doc__": None},
    )


def make_exception(cls: type[BaseException], args: tuple[Any, ...]) -> BaseException:
    """Make an exception from what came.

    :raises BadData: its class does not take these arguments
    """
    try:
        made = cls(*args)
    except Exception as exc:
        raise BadData(f"{full_name(cls)} can't be made from what came: {exc!r}") from exc
    if not isinstance(made, BaseException):
        raise BadData(f"{full_name(cls)} makes a {type(made).__name__} and no exception")
    return made


def _standard_exceptions() -> dict[tuple[str, str], type[BaseException]]:
    found: dict[tuple[str, str], type[BaseException]] = {
        # With those that have an old name, such as IOError.
        ("builtins", name): value
        for name, value in vars(builtins).items()
        if isinstance(value, type) and issubclass(value, BaseException)
    }
    for module, names in (
        (snakemq.exceptions, snakemq.exceptions.__all__),
        (errors, errors.__all__),
    ):
        for name in names:
            value = getattr(module, name)
            if isinstance(value, type):
                found[value.__module__, name] = value
    found["snakemq.rpc", UnknownType.__name__] = UnknownType
    # Where they were in older versions of Python.
    found["socket", "timeout"] = TimeoutError
    found["socket", "error"] = found["select", "error"] = OSError
    found["builtins", "StandardError"] = Exception
    return found


_STANDARD: Final = _standard_exceptions()


class KnownTypes:
    """The exceptions that everybody knows, and the types that a program has registered.

    :param types: to be registered at once
    """

    def __init__(self, types: Iterable[type] = ()) -> None:
        # Replaced, never changed: reading goes on in other threads.
        self._by_name: dict[tuple[str, str], type] = {}
        self._registered: frozenset[type] = frozenset()
        for cls in types:
            self.register(cls)

    def register(self, cls: _T) -> _T:
        """Let objects of a class come from other peers. From any thread.

        :return: the class
        :raises TypeError: it is no class, or a class of classes
        """
        if not isinstance(cls, type) or issubclass(cls, type) or cls is object:
            raise TypeError(f"a class can be registered, and {cls!r} is none whose objects travel")
        name = (cls.__module__, cls.__qualname__)
        self._by_name = {**self._by_name, name: cls}
        self._registered = frozenset(self._by_name.values())
        return cls

    def find(self, module: str, name: str) -> type | None:
        """The registered class of this name."""
        return self._by_name.get((module, name))

    def find_exception(self, module: str, name: str) -> type[BaseException] | None:
        """The class of exceptions of this name: a standard one, or a registered one."""
        cls = self._by_name.get((module, name))
        if cls is not None:
            return cls if issubclass(cls, BaseException) else None
        return _STANDARD.get((module, name))

    def has(self, cls: type) -> bool:
        """Whether a class is registered."""
        return cls in self._registered

    def __repr__(self) -> str:
        return f"<KnownTypes registered={sorted(map(full_name, self._registered))}>"
