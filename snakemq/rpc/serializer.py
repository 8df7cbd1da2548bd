"""What turns records into bytes and back."""

from __future__ import annotations

import io
import pickle
import re
from collections.abc import Callable, Iterator, Mapping, Set
from typing import Any, Final, Protocol

from snakemq.rpc._known_types import full_name, stand_in
from snakemq.rpc.errors import Unserializable
from snakemq.rpc.hooks import call_name

__all__ = ["Serializer", "explained", "is_safe", "loads_with_stand_ins", "request_id_in", "write"]

#: Steps of a path to what can't be written, and containers that are looked into.
_MAX_STEPS: Final = 50

#: How the serializers here write a request identifier, found without reading.
_REQUEST_IDS: Final = re.compile(
    rb"\x8c\x06req_id(?:\x94|q.)?C\x10(.{16})"  # pickle, protocol 4
    rb"|X\x06\x00\x00\x00req_id(?:q.|\x94)?C\x10(.{16})"  # pickle, protocol 3
    rb"|\"req_id\"\s{0,9}:\s{0,9}\"([0-9a-fA-F]{32})\"",  # JSON
    re.DOTALL,
)


class Serializer(Protocol):
    """What ``pickler`` has to be: :mod:`pickle`, or a module or object like it.

    It may also have

    ``is_safe``
        True if reading runs no code of the sender's choice, and takes no more time than
        the size of the data justifies. Then the server reads small requests in the
        thread of the loop, else all of them in a worker.
    ``loads_with_stand_ins(data)``
        Like ``loads``, but the value of the key ``"exception"`` may be of an unknown
        class, and becomes a :class:`~snakemq.rpc.RemoteError` with its ``class_name``.
    """

    def dumps(self, obj: Any, /) -> bytes:
        """The object as bytes; any exception means that it can't be done."""

    def loads(self, data: bytes, /) -> Any:
        """The object again; any exception means that it can't be done."""


def is_safe(serializer: Serializer) -> bool:
    """Whether a serializer says of itself that reading is harmless."""
    return getattr(serializer, "is_safe", False) is True


class _StandInUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str, /) -> Any:
        try:
            return super().find_class(module, name)
        except (ImportError, AttributeError):
            return stand_in(module, name)


def loads_with_stand_ins(serializer: Serializer, data: bytes) -> Any:
    """Load what could not be loaded because a class is not known here.

    An exception of a class that is not known is replaced by a
    :class:`RemoteError` of its name. So this is not for results: it is for
    exceptions, and for finding out whom to tell.

    :raises Exception: it can't be read even so, or not with this serializer
    """
    own = getattr(serializer, "loads_with_stand_ins", None)
    if own is not None:
        return own(data)
    if serializer is not pickle:
        raise TypeError(f"{serializer!r} can't replace classes: it has no loads_with_stand_ins")
    return _StandInUnpickler(io.BytesIO(data)).load()


def request_id_in(data: bytes) -> bytes | None:
    """The ``req_id`` in a record that can't be read, if that can be told.

    Of a pickle or of JSON, whatever the reader is: to tell the caller that
    nothing comes of the call. ``None``: there is none, or more than one.
    """
    found = {
        match[1] or match[2] or bytes.fromhex(match[3].decode("ascii"))
        for match in _REQUEST_IDS.finditer(data)
    }
    return found.pop() if len(found) == 1 else None


def write(
    serializer: Serializer,
    record: Any,
    what: str,
    object_name: str = "",
    method_name: str = "",
) -> bytes:
    """A record as bytes.

    :param what: what the record is, for the error: ``"the result of "``, with object
        and method behind it
    :raises Unserializable: a part of it can't be written; says which one
    """
    try:
        return serializer.dumps(record)
    except Exception as exc:
        # The whole name is put together only here: it is not needed for most records.
        what += call_name(object_name, method_name)
        raise explained(serializer, record, what, exc) from exc


def explained(serializer: Serializer, record: Any, what: str, reason: Exception) -> Unserializable:
    """Why a record can't be written, for those who write it themselves.

    :param what: what the record is
    :param reason: what the serializer has raised
    :return: says which part of it can't be written
    """
    path = ""
    part = record
    for _ in range(_MAX_STEPS):
        found = _first_unwritable(serializer, part, path)
        if found is None:
            break
        path, part, reason = found
        if isinstance(reason, RecursionError):
            # Some level of it, and the next ones are no better.
            break
    where = f"{path} is a {full_name(type(part))}, and that" if path else "it"
    error = Unserializable(f"{what} can't be sent: {where} can't be written: {_text(reason)}")
    error.path = path
    return error


def _text(reason: Exception) -> str:
    return f"{type(reason).__name__}: {reason}" if str(reason) else type(reason).__name__


def _first_unwritable(
    serializer: Serializer, value: Any, path: str
) -> tuple[str, Any, Exception] | None:
    for inner_path, part in _parts(value, path):
        try:
            serializer.dumps(part)
        except Exception as exc:
            return inner_path, part, exc
    return None


def _parts(value: Any, path: str) -> Iterator[tuple[str, Any]]:
    if isinstance(value, Mapping):
        for key, part in list(value.items()):
            if not isinstance(key, str):
                yield f"a key of {path}", key
            yield f"{path}[{_short(key)}]" if path else str(key), part
    elif isinstance(value, (list, tuple)):
        for index, part in enumerate(value):
            yield f"{path}[{index}]", part
    elif isinstance(value, (Set,)):
        for part in list(value):
            yield f"a member of {path}", part
    else:
        if isinstance(value, BaseException):
            for index, part in enumerate(value.args):
                yield f"{path}.args[{index}]", part
        attributes = getattr(value, "__dict__", None)
        if isinstance(attributes, dict) and not _is_code(value):
            for name, part in list(attributes.items()):
                yield f"{path}.{name}", part


def _is_code(value: Any) -> bool:
    """Classes, functions and modules are written as a name, or not at all."""
    return isinstance(value, (type, type(io), Callable))  # type: ignore[arg-type]


def _short(key: Any) -> str:
    text = repr(key)
    return text if len(text) <= 60 else text[:57] + "..."
