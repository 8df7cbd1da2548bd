"""What a name in a pickle stands for, where it may stand for anything.

A name is never looked up in a module. It stands for one of the objects here,
which know how to make values of one class and of what. They are not callable, and
never get into a value.
"""

from __future__ import annotations

import builtins
import datetime
import decimal
import enum
import fractions
import types
import uuid
from collections import Counter, OrderedDict, defaultdict, deque
from collections.abc import Callable
from typing import Any, Final

from snakemq.rpc._known_types import BadData, KnownTypes, full_name, make_exception, stand_in
from snakemq.rpc.errors import RemoteError

__all__ = [
    "Arguments",
    "ExceptionClass",
    "Global",
    "PlainClass",
    "RegisteredClass",
    "UnknownClass",
    "find_standard",
    "update_exception",
]

#: The greatest common divisor of two numbers takes time that grows with the
#: square of their lengths. With this many bits, a fraction of a millisecond.
_MAX_FRACTION_BITS: Final = 1 << 14

#: Attributes of exceptions that are not in their dictionary and may be set.
_EXCEPTION_MEMBERS: Final = frozenset({"msg", "name", "path"})
_DESCRIPTORS: Final = (types.MemberDescriptorType, types.GetSetDescriptorType)
#: With the first, of ImportError, printing the exception imports. The others are methods
#: that those call who raise it: asyncio, for example.
_DANGEROUS_ATTRIBUTES: Final = frozenset({"name_from", "with_traceback", "add_note"})
_PRIVATE_ATTRIBUTES: Final = frozenset({"__notes__", "__remote_traceback__"})


#: Classes that copy what they are made of. A tuple has it.
_COPYING: Final = (
    str, bytes, bytearray, list, dict, set, frozenset, deque, fractions.Fraction, decimal.Decimal,
)  # fmt: skip

_GROUPS: Final[Any] = getattr(builtins, "BaseExceptionGroup", ())

_REDUCERS: Final = frozenset({"__reduce__", "__reduce_ex__"})


class Arguments(tuple[Any, ...]):
    """A tuple with names in it: only ever the arguments of a reconstruction."""

    __slots__ = ()


class Global:
    """What a name stands for.

    :param name: the name, for errors
    """

    __slots__ = ("name",)

    #: whether its arguments may be names
    takes_names = False
    #: whether what it makes has a copy of what is in its arguments
    copies = False

    def __init__(self, name: str) -> None:
        self.name = name

    def call(self, args: tuple[Any, ...]) -> Any:
        """What calling the class or function would return."""
        raise BadData(f"{self.name} is not to be called")

    def new(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """An object of the class, as its ``__new__`` makes it, without ``__init__``."""
        raise BadData(f"{self.name} is not made in this way")


class _Function(Global):
    """Calls a function that takes whatever may come, or raises."""

    __slots__ = ("_function",)
    copies = True

    def __init__(self, name: str, function: Callable[..., Any]) -> None:
        super().__init__(name)
        self._function = function

    def call(self, args: tuple[Any, ...]) -> Any:
        return self._function(*args)


class _Reconstructor(_Function):
    """A function that gets classes."""

    __slots__ = ()
    takes_names = True


class _Uuid(Global):
    __slots__ = ()

    def new(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if args or kwargs:
            return super().new(args, kwargs)
        # Its number is its state, which comes later.
        return uuid.UUID(int=0)


class PlainClass(Global):
    """A class of plain data: one that is called, or that a ``defaultdict`` calls."""

    __slots__ = ("cls",)
    copies = True

    def __init__(self, name: str, cls: type) -> None:
        super().__init__(name)
        self.cls = cls

    def call(self, args: tuple[Any, ...]) -> Any:
        maker = _MAKERS.get(self.cls)
        return super().call(args) if maker is None else maker(*args)


class ExceptionClass(Global):
    """A class of exceptions that is known here."""

    __slots__ = ("cls", "copies")

    def __init__(self, name: str, cls: type[BaseException]) -> None:
        super().__init__(name)
        self.cls = cls
        self.copies = issubclass(cls, _GROUPS)

    def call(self, args: tuple[Any, ...]) -> Any:
        return make_exception(self.cls, args)

    def new(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        return self.cls.__new__(self.cls, *args, **kwargs)


class UnknownClass(Global):
    """A class that is not known here, taken for one of exceptions."""

    __slots__ = ("cls",)

    def __init__(self, module: str, name: str) -> None:
        super().__init__(f"{module}.{name}")
        self.cls: type[RemoteError] = stand_in(module, name)

    def call(self, args: tuple[Any, ...]) -> Any:
        return self.cls(*args)

    def new(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        return self.cls(*args)


class RegisteredClass(Global):
    """A class that the program has registered."""

    __slots__ = ("cls", "copies")

    def __init__(self, name: str, cls: type[Any]) -> None:
        super().__init__(name)
        self.cls = cls
        self.copies = issubclass(cls, _COPYING)

    def call(self, args: tuple[Any, ...]) -> Any:
        cls = self.cls
        if not any(vars(base).keys() & _REDUCERS for base in cls.__mro__[:-1]):
            # Nobody who pickles such an object writes a call, and its __init__
            # may do anything: open the file that it is told, for example.
            raise BadData(f"{self.name} has no __reduce__, so it is not to be called")
        if issubclass(cls, enum.Enum) and len(args) != 1:
            raise BadData(f"{self.name} has members with one value each")
        self._check(args)
        return cls(*args)

    def new(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if issubclass(self.cls, enum.Enum):
            return super().new(args, kwargs)
        self._check(args)
        return self.cls.__new__(self.cls, *args, **kwargs)

    def _check(self, args: tuple[Any, ...]) -> None:
        if issubclass(self.cls, (bytes, bytearray)) and args and isinstance(args[0], int):
            raise BadData(f"{self.name} of a size instead of a content")
        if issubclass(self.cls, fractions.Fraction):
            _fraction(*args)

    def attribute(self, name: str) -> Any:
        """What ``getattr`` is for in pickles of objects of this class."""
        cls = self.cls
        if issubclass(cls, enum.Enum) and name in cls.__members__:
            return cls.__members__[name]
        if full_name(cls) == "zoneinfo.ZoneInfo" and name == "_unpickle":
            return _Function(f"{self.name}.{name}", cls._unpickle)
        raise BadData(f"{self.name} has no member {name!a}")


def update_exception(exc: BaseException, state: dict[str, Any]) -> None:
    """Give an exception its attributes: as unpickling does, but for the dangerous ones."""
    attributes = exc.__dict__
    for name, value in state.items():
        private = name.startswith("__") and name not in _PRIVATE_ATTRIBUTES
        if private or name in _DANGEROUS_ATTRIBUTES:
            continue
        if isinstance(getattr(type(exc), name, None), _DESCRIPTORS):
            if name in _EXCEPTION_MEMBERS:
                setattr(exc, name, value)
        else:
            attributes[name] = value


def _complex(real: Any = 0.0, imag: Any = 0.0) -> complex:
    if type(real) not in (int, float) or type(imag) not in (int, float):
        raise BadData("a complex number consists of two numbers")
    return complex(real, imag)


def _decimal(text: Any) -> decimal.Decimal:
    if type(text) is not str:
        raise BadData("a Decimal is made of a text")
    return decimal.Decimal(text)


def _fraction(numerator: Any = 0, denominator: Any = 1) -> fractions.Fraction:
    if type(numerator) is str and denominator == 1:
        # The text could also be 1e999999999, a number of a billion digits.
        over, _, under = numerator.partition("/")
        if len(numerator) > _MAX_FRACTION_BITS // 4:
            raise BadData("a Fraction with too many digits")
        numerator, denominator = int(over), int(under or 1)
    if type(numerator) is not int or type(denominator) is not int:
        raise BadData("a Fraction consists of two integers")
    if max(numerator.bit_length(), denominator.bit_length()) > _MAX_FRACTION_BITS:
        raise BadData(f"a Fraction with more than {_MAX_FRACTION_BITS} bits")
    return fractions.Fraction(numerator, denominator)


def _bytearray(content: Any = b"", encoding: Any = "latin-1") -> bytearray:
    if type(content) is str and encoding == "latin-1":
        return bytearray(content, encoding)
    if type(content) is not bytes:
        raise BadData("a bytearray is made of bytes")
    return bytearray(content)


def _bytes() -> bytes:
    return b""


def _encode(text: Any, encoding: Any) -> bytes:
    # How bytes are written in the protocols that know none.
    if type(text) is not str or encoding != "latin1":
        raise BadData("only latin1 is an encoding here")
    return text.encode("latin-1")


def _deque(items: Any = (), maxlen: Any = None) -> deque[Any]:
    if type(items) not in (tuple, list) or items or not (maxlen is None or type(maxlen) is int):
        raise BadData("a deque begins without items")
    return deque(maxlen=maxlen)


def _counter(counts: Any = None) -> Counter[Any]:
    if counts is not None and type(counts) is not dict:
        raise BadData("a Counter is made of a dictionary")
    return Counter(counts)


def _default_dict(factory: Any = None) -> defaultdict[Any, Any]:
    if factory is None:
        return defaultdict()
    if not isinstance(factory, PlainClass):
        raise BadData("the factory of a defaultdict is a plain type")
    return defaultdict(factory.cls)


def _ordered_dict() -> OrderedDict[Any, Any]:
    return OrderedDict()


def _namespace() -> types.SimpleNamespace:
    return types.SimpleNamespace()


#: What may be made by way of a function. Nothing that stands for an unknown exception.
_MADE: Final = (RegisteredClass, _Uuid)


def _reconstruct(cls: Any, base: Any, state: Any) -> Any:
    if not isinstance(cls, _MADE) or not isinstance(base, PlainClass) or base.cls is not object:
        raise BadData("only objects without a base are made in this way")
    if state is not None:
        raise BadData("an object without a base has no state of it")
    return cls.new((), {})


def _new_object(cls: Any, *args: Any) -> Any:
    if not isinstance(cls, _MADE) or any(isinstance(arg, Global) for arg in args):
        raise BadData("an object is made of a class and values")
    return cls.new(args, {})


def _attribute(cls: Any, name: Any) -> Any:
    if not isinstance(cls, RegisteredClass) or type(name) is not str:
        raise BadData("an attribute is a member of a registered class")
    return cls.attribute(name)


_MAKERS: Final[dict[type, Callable[..., Any]]] = {
    bytearray: _bytearray,
    bytes: _bytes,
    complex: _complex,
}

_STANDARD: Final[dict[tuple[str, str], Any]] = {
    ("builtins", "Ellipsis"): ...,
    ("builtins", "NotImplemented"): NotImplemented,
    **{
        ("builtins", cls.__name__): PlainClass(cls.__name__, cls)
        for cls in (
            bool, bytearray, bytes, complex, dict, float, frozenset, int, list, object, set, str,
            tuple,
        )
    },
    **{
        (function.__module__, function.__name__): _Function(function.__name__, function)
        for function in (
            datetime.date,
            datetime.datetime,
            datetime.time,
            datetime.timedelta,
            datetime.timezone,
        )
    },
    ("_codecs", "encode"): _Function("_codecs.encode", _encode),
    ("collections", "Counter"): _Function("collections.Counter", _counter),
    ("collections", "OrderedDict"): _Function("collections.OrderedDict", _ordered_dict),
    ("collections", "defaultdict"): _Reconstructor("collections.defaultdict", _default_dict),
    ("collections", "deque"): _Function("collections.deque", _deque),
    ("decimal", "Decimal"): _Function("decimal.Decimal", _decimal),
    ("fractions", "Fraction"): _Function("fractions.Fraction", _fraction),
    ("types", "SimpleNamespace"): _Function("types.SimpleNamespace", _namespace),
    ("uuid", "UUID"): _Uuid("uuid.UUID"),
    ("builtins", "getattr"): _Reconstructor("getattr", _attribute),
    ("copyreg", "_reconstructor"): _Reconstructor("copyreg._reconstructor", _reconstruct),
    ("copyreg", "__newobj__"): _Reconstructor("copyreg.__newobj__", _new_object),
}  # fmt: skip

#: Python 2's names of modules.
_RENAMED: Final = {
    "__builtin__": "builtins",
    "exceptions": "builtins",
    "copy_reg": "copyreg",
}


def find_standard(known: KnownTypes, module: str, name: str) -> Any:
    """What a name stands for, a :class:`Global` or a value; ``None``: for nothing."""
    module = _RENAMED.get(module, module)
    cls = known.find(module, name)
    if cls is not None and not issubclass(cls, BaseException):
        return RegisteredClass(f"{module}.{name}", cls)
    found = _STANDARD.get((module, name))
    if found is not None:
        return found
    exception = known.find_exception(module, name)
    return None if exception is None else ExceptionClass(f"{module}.{name}", exception)
