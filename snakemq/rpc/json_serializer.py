"""Records as JSON, for peers in other languages.

A record is one JSON object, UTF-8. ``req_id`` is text in it: 32 hexadecimal digits.
``args`` is an array; ``exception`` an object with ``class`` and ``args``, or a text.

What JSON has no form for is an object with a single key that begins with ``$``:

=================  ==========================================================
``$bytes``         base64; ``$bytearray`` likewise
``$tuple``         array; ``$set`` and ``$frozenset`` likewise
``$dict``          array of pairs: a dictionary with keys that are no text, or
                   one that looks like one of these
``$int``           decimal text: an integer beyond 2**53, which other languages
                   would round
``$float``         ``"nan"``, ``"inf"``, ``"-inf"``
``$complex``       array of two numbers
``$decimal``       text; ``$uuid`` likewise
``$datetime``      ISO 8601 text; ``$date`` and ``$time`` likewise
``$timedelta``     array of three integers: days, seconds, microseconds
``$exception``     ``{"class", "args"}``: an exception that is not in its place
=================  ==========================================================
"""

from __future__ import annotations

import base64
import datetime
import decimal
import json
import math
import re
import sys
import uuid
from collections.abc import Callable, Iterable
from typing import Any, Final, TypeVar

from snakemq.rpc._known_types import (
    BadData,
    Hashes,
    KnownTypes,
    full_name,
    make_exception,
    stand_in,
)
from snakemq.rpc.errors import RemoteError

__all__ = ["JSON", "Json"]

_T = TypeVar("_T", bound=type[BaseException])

#: Levels of nesting; the encodings count.
MAX_DEPTH: Final = 256
#: Levels that one value takes at the most, with those in it that are no containers.
_DEEPEST_ENCODING: Final = 4
#: Integers up to here are exact in every language.
_MAX_INT: Final = 2**53
#: Digits of an integer: those of CPython, and in its older versions, too.
_MAX_DIGITS: Final = 4300

_STRUCTURE: Final = re.compile(r'[][{}"]|\\.', re.DOTALL)


def _integer(text: str) -> int:
    if len(text) > _MAX_DIGITS:
        raise BadData(f"an integer of more than {_MAX_DIGITS} digits")
    return int(text)


#: ``None``: Python has a limit of its own, and reads faster without ours.
_PARSE_INT: Final[Callable[[str], int] | None] = (
    None if hasattr(sys, "get_int_max_str_digits") else _integer
)


class Json:
    """A serializer that writes JSON.

    :param types: classes of exceptions that others may send, beside the standard
        ones; other exceptions become :class:`~snakemq.rpc.RemoteError`
    """

    #: Reading runs no code but that of registered exceptions, and takes no more
    #: time than the size of the data justifies.
    is_safe: Final = True

    def __init__(self, types: Iterable[type[BaseException]] = ()) -> None:
        self._known = KnownTypes()
        for cls in types:
            self.register_type(cls)
        self._encoder = json.JSONEncoder(
            ensure_ascii=False, check_circular=False, allow_nan=False, separators=(",", ":")
        )
        self._decoder = json.JSONDecoder(
            object_hook=self._decode_object, parse_int=_PARSE_INT, parse_constant=_no_constant
        )

    def register_type(self, cls: _T) -> _T:
        """Let exceptions of a class come from other peers. A decorator, from any thread.

        :return: the class
        :raises TypeError: it is no class of exceptions
        """
        if not (isinstance(cls, type) and issubclass(cls, BaseException)):
            raise TypeError(f"JSON brings exceptions and plain data, and {cls!r} is neither")
        return self._known.register(cls)

    def dumps(self, obj: Any, /) -> bytes:
        """The object as JSON.

        :raises TypeError: it is of a type that has no form in JSON
        :raises ValueError: it is nested too deep, or contains itself
        """
        if type(obj) is dict and not _looks_encoded(obj) and all(type(key) is str for key in obj):
            plain = {key: self._encode_field(key, value) for key, value in obj.items()}
        else:
            plain = _encode(obj, MAX_DEPTH)
        # Text with half of a surrogate pair has no UTF-8.
        return self._encoder.encode(plain).encode("utf-8")

    def loads(self, data: bytes, /) -> Any:
        """The object again.

        :raises ValueError: this is no JSON, or something that is refused
        """
        if data[:1] == b"\x80":
            raise BadData("this looks like a pickle, and JSON is read here")
        try:
            text = str(data, "utf-8")
            if text.count("[") + text.count("{") > MAX_DEPTH:
                _check_depth(text)
            value = self._decoder.decode(text)
            if type(value) is dict:
                self._decode_fields(value)
        except BadData:
            raise
        except Exception as exc:
            raise BadData(f"this is no JSON as it is read here: {exc}") from exc
        return value

    def loads_with_stand_ins(self, data: bytes, /) -> Any:
        """The same: unknown exceptions are always replaced."""
        return self.loads(data)

    # The fields of a record have forms of their own, easy to write by hand.

    def _encode_field(self, key: str, value: Any) -> Any:
        if key == "req_id":
            if type(value) is not bytes:
                raise TypeError(f"req_id is bytes, not {type(value).__name__}")
            return value.hex()
        if key == "args" and type(value) is tuple:
            value = list(value)
        if key == "exception" and isinstance(value, BaseException):
            return _encode_exception(value, MAX_DEPTH)
        return _encode(value, MAX_DEPTH - 1)

    def _decode_fields(self, record: dict[str, Any]) -> None:
        if "req_id" in record:
            record["req_id"] = bytes.fromhex(_typed(record["req_id"], str, "req_id"))
        if type(record.get("args")) is list:
            record["args"] = tuple(record["args"])
        exception = record.get("exception")
        if type(exception) is dict and "class" in exception:
            record["exception"] = self._decode_exception(exception)

    def _decode_object(self, found: dict[str, Any]) -> Any:
        if len(found) != 1:
            return found
        ((key, value),) = found.items()
        if not key.startswith("$"):
            return found
        if key == "$exception":
            return self._decode_exception(_typed(value, dict, key))
        decode = _DECODERS.get(key)
        if decode is None:
            raise BadData(f"{key[:50]!a} is the name of no encoding")
        return decode(value)

    def _decode_exception(self, found: dict[str, Any]) -> BaseException:
        class_name = _typed(found.get("class"), str, "the class of an exception")
        args = found.get("args", [])
        if type(args) not in (list, tuple):
            raise BadData("the args of an exception are an array")
        module, _, name = class_name.rpartition(".")
        cls = self._known.find_exception(module, name)
        if cls is not None:
            try:
                return make_exception(cls, tuple(args))
            except BadData:
                # Its class takes other arguments; what there is to say is in them.
                return _remote_error(module, name, args)
        return _remote_error(module, name, args)

    def __repr__(self) -> str:
        return f"<Json {self._known!r}>"


def _remote_error(module: str, name: str, args: Iterable[Any]) -> RemoteError:
    return stand_in(module, name)(*args)


def _no_constant(name: str) -> Any:
    raise BadData(f'{name} is no JSON; {{"$float": ...}} is')


def _check_depth(text: str) -> None:
    depth = 0
    in_text = False
    for match in _STRUCTURE.finditer(text):
        what = match[0]
        if what == '"':
            in_text = not in_text
        elif in_text:
            continue
        elif what in "[{":
            depth += 1
            if depth > MAX_DEPTH:
                raise BadData(f"nested deeper than {MAX_DEPTH} levels")
        elif what in "]}":
            depth -= 1


def _typed(value: Any, cls: type, what: str) -> Any:
    if type(value) is not cls:
        raise BadData(f"{what} is {cls.__name__}, not {type(value).__name__}")
    return value


# Writing.


def _looks_encoded(value: dict[Any, Any]) -> bool:
    if len(value) != 1:
        return False
    (key,) = value
    return isinstance(key, str) and key.startswith("$")


def _encode(value: Any, depth: int) -> Any:
    """What the encoder of Python writes as it should be."""
    kind = type(value)
    if kind is str or kind is bool or value is None:
        return value
    if depth < _DEEPEST_ENCODING:
        raise ValueError(f"nested deeper than {MAX_DEPTH} levels, or contains itself")
    encode = _ENCODERS.get(kind)
    if encode is not None:
        return encode(value, depth)
    if isinstance(value, BaseException):
        return {"$exception": _encode_exception(value, depth - 1)}
    raise TypeError(
        f"a {full_name(kind)} has no form in JSON; send what is in it, as a dictionary for example"
    )


def _encode_exception(value: BaseException, depth: int) -> dict[str, Any]:
    cls = type(value)
    class_name = getattr(value, "class_name", "") if isinstance(value, RemoteError) else ""
    return {
        "class": class_name or full_name(cls),
        "args": [_encode(arg, depth - 2) for arg in value.args],
    }


def _encode_int(value: int, depth: int) -> Any:
    if -_MAX_INT <= value <= _MAX_INT:
        return value
    if value.bit_length() > _MAX_DIGITS * 3.3:
        raise ValueError(f"an integer of more than {_MAX_DIGITS} digits")
    return {"$int": str(value)}


def _encode_float(value: float, depth: int) -> Any:
    return value if math.isfinite(value) else {"$float": repr(value)}


def _encode_list(value: list[Any], depth: int) -> Any:
    return [_encode(item, depth - 1) for item in value]


def _encode_dict(value: dict[Any, Any], depth: int) -> Any:
    if not _looks_encoded(value) and all(type(key) is str for key in value):
        return {key: _encode(item, depth - 1) for key, item in value.items()}
    return {
        "$dict": [
            [_encode(key, depth - 3), _encode(item, depth - 3)] for key, item in value.items()
        ]
    }


def _items_as(key: str) -> Callable[[Any, int], Any]:
    return lambda value, depth: {key: [_encode(item, depth - 2) for item in value]}


def _text_as(key: str, write: Callable[[Any], Any]) -> Callable[[Any, int], Any]:
    return lambda value, depth: {key: write(value)}


def _base64(value: bytes | bytearray) -> str:
    return base64.b64encode(value).decode("ascii")


def _iso(value: datetime.datetime | datetime.time) -> str:
    # ISO 8601 has no word for the second time around, nor for other time zones.
    if value.fold or not (value.tzinfo is None or type(value.tzinfo) is datetime.timezone):
        offset = value.utcoffset()
        if offset is None and value.fold:
            raise ValueError(f"{value!r} has a fold and no time zone")
        zone = None if offset is None else datetime.timezone(offset)
        value = value.replace(tzinfo=zone, fold=0)
    return value.isoformat()


def _encode_complex(value: complex, depth: int) -> Any:
    return {"$complex": [_encode(value.real, depth - 2), _encode(value.imag, depth - 2)]}


_ENCODERS: Final[dict[type, Callable[[Any, int], Any]]] = {
    int: _encode_int,
    float: _encode_float,
    list: _encode_list,
    dict: _encode_dict,
    complex: _encode_complex,
    tuple: _items_as("$tuple"),
    set: _items_as("$set"),
    frozenset: _items_as("$frozenset"),
    bytes: _text_as("$bytes", _base64),
    bytearray: _text_as("$bytearray", _base64),
    decimal.Decimal: _text_as("$decimal", str),
    uuid.UUID: _text_as("$uuid", str),
    datetime.datetime: _text_as("$datetime", _iso),
    datetime.date: _text_as("$date", datetime.date.isoformat),
    datetime.time: _text_as("$time", _iso),
    datetime.timedelta: _text_as(
        "$timedelta", lambda value: [value.days, value.seconds, value.microseconds]
    ),
}


# Reading.


def _from_text(what: str, read: Callable[[str], Any]) -> Callable[[Any], Any]:
    return lambda value: read(_typed(value, str, what))


def _from_items(what: str, make: Callable[[list[Any]], Any]) -> Callable[[Any], Any]:
    return lambda value: make(_typed(value, list, what))


def _bytes(text: str) -> bytes:
    return base64.b64decode(text, validate=True)


def _float(text: str) -> float:
    if text not in ("nan", "inf", "-inf"):
        raise BadData("$float is nan, inf or -inf")
    return float(text)


def _iso_datetime(text: str) -> datetime.datetime:
    # JavaScript writes Z, which Python reads from 3.11 on.
    return datetime.datetime.fromisoformat(text.removesuffix("Z") + "+00:00" * text.endswith("Z"))


def _complex(parts: list[Any]) -> complex:
    real, imag = parts
    return complex(_number(real), _number(imag))


def _number(value: Any) -> float:
    if type(value) not in (int, float):
        raise BadData(f"a number, not {type(value).__name__}")
    return float(value)


def _members(items: list[Any]) -> list[Any]:
    Hashes().add(items)
    return items


def _dict(pairs: list[Any]) -> dict[Any, Any]:
    Hashes().add([key for key, _ in pairs])
    return dict(pairs)


def _timedelta(parts: list[Any]) -> datetime.timedelta:
    days, seconds, microseconds = (_typed(part, int, "$timedelta") for part in parts)
    return datetime.timedelta(days, seconds, microseconds)


_DECODERS: Final[dict[str, Callable[[Any], Any]]] = {
    "$bytes": _from_text("$bytes", _bytes),
    "$bytearray": _from_text("$bytearray", lambda text: bytearray(_bytes(text))),
    "$tuple": _from_items("$tuple", tuple),
    "$set": _from_items("$set", lambda items: set(_members(items))),
    "$frozenset": _from_items("$frozenset", lambda items: frozenset(_members(items))),
    "$dict": _from_items("$dict", _dict),
    "$int": _from_text("$int", _integer),
    "$float": _from_text("$float", _float),
    "$complex": _from_items("$complex", _complex),
    "$decimal": _from_text("$decimal", decimal.Decimal),
    "$uuid": _from_text("$uuid", uuid.UUID),
    "$datetime": _from_text("$datetime", _iso_datetime),
    "$date": _from_text("$date", datetime.date.fromisoformat),
    "$time": _from_text("$time", datetime.time.fromisoformat),
    "$timedelta": _from_items("$timedelta", _timedelta),
}

#: With the standard exceptions.
JSON: Final = Json()
