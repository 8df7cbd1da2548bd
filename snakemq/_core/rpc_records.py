"""The records that remote calls put into messages, as in 1.6.

A message begins with a prefix that says what it is; the rest is one record, a
dictionary, as the serializer writes it:

=============  ===========================================================
request        ``rpcreq`` + ``{"command", "object", "method", "args",
               "kwargs", "req_id"}``; the command is ``"call"``, or
               ``"signal"``, which has no ``req_id`` and gets no reply
reply, value   ``rpcrep`` + ``{"ok": True, "return", "req_id"}``
reply, error   ``rpcrep`` + ``{"req_id", "ok": False, "exception",
               "exception_format"}``
=============  ===========================================================

The keys are in the order in which 1.6 writes them. A ``req_id`` is 16 bytes; a
request that is repeated after a reconnect has the same one. Keys that are not
known are ignored.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

__all__ = [
    "REPLY_PREFIX",
    "REQUEST_PREFIX",
    "BadRecord",
    "Reply",
    "Request",
    "call_record",
    "error_record",
    "parse_reply",
    "parse_request",
    "signal_record",
    "value_record",
]

REQUEST_PREFIX: Final = b"rpcreq"
REPLY_PREFIX: Final = b"rpcrep"


class BadRecord(ValueError):
    """What the other side sent is not a record of this kind; says why."""


@dataclass(slots=True)
class Request:
    """Somebody wants a method to be called."""

    object: Any
    method: str
    args: list[Any] | tuple[Any, ...]
    kwargs: dict[str, Any]
    #: ``None``: a signal, to which nobody waits for a reply
    req_id: bytes | None


@dataclass(slots=True)
class Reply:
    """How a call ended."""

    req_id: bytes
    ok: bool
    #: what the method returned, if ``ok``
    value: Any = None
    #: what it raised, if not ``ok``: an exception, unless the serializer can't
    exception: Any = None
    #: the remote traceback, or an empty string
    traceback: str = ""


def signal_record(
    object_name: str, method: str, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> dict[str, Any]:
    """The record of a request that gets no reply."""
    return {
        "command": "signal",
        "object": object_name,
        "method": method,
        "args": args,
        "kwargs": kwargs,
    }


def call_record(
    object_name: str, method: str, args: tuple[Any, ...], kwargs: dict[str, Any], req_id: bytes
) -> dict[str, Any]:
    """The record of a request that gets a reply."""
    return {
        "command": "call",
        "object": object_name,
        "method": method,
        "args": args,
        "kwargs": kwargs,
        "req_id": req_id,
    }


def value_record(req_id: bytes, value: Any) -> dict[str, Any]:
    """The record of a reply: this was returned."""
    return {"ok": True, "return": value, "req_id": req_id}


def error_record(req_id: bytes, exception: Any, traceback: str) -> dict[str, Any]:
    """The record of a reply: this was raised."""
    return {
        "req_id": req_id,
        "ok": False,
        "exception": exception,
        "exception_format": traceback,
    }


def parse_request(record: object) -> Request:
    """Read the record of a request.

    :raises BadRecord: it is none
    """
    if not isinstance(record, dict):
        raise BadRecord(f"a request is a dictionary, not {type(record).__name__}")
    try:
        command = record["command"]
        name = record["object"]
        method = record["method"]
        args = record["args"]
        kwargs = record["kwargs"]
        req_id = None
        if command == "call":
            req_id = _req_id(record)
        elif command != "signal":
            raise BadRecord(f"unknown command {command!r}")
    except KeyError as exc:
        raise BadRecord(f"a request without {exc}") from None
    if not isinstance(method, str):
        raise BadRecord(f"a method is a string, not {type(method).__name__}")
    if not isinstance(args, (tuple, list)):
        raise BadRecord(f"args are a tuple or list, not {type(args).__name__}")
    if not isinstance(kwargs, dict):
        raise BadRecord(f"kwargs are a dictionary, not {type(kwargs).__name__}")
    return Request(name, method, args, kwargs, req_id)


def parse_reply(record: object) -> Reply:
    """Read the record of a reply.

    :raises BadRecord: it is none
    """
    if not isinstance(record, dict):
        raise BadRecord(f"a reply is a dictionary, not {type(record).__name__}")
    try:
        req_id = _req_id(record)
        if record["ok"]:
            return Reply(req_id, True, record["return"])
        text = record["exception_format"]
        return Reply(
            req_id, False, None, record["exception"], text if isinstance(text, str) else ""
        )
    except KeyError as exc:
        raise BadRecord(f"a reply without {exc}") from None


def _req_id(record: dict[Any, Any]) -> bytes:
    req_id = record["req_id"]
    if not isinstance(req_id, bytes):
        raise BadRecord(f"req_id is bytes, not {type(req_id).__name__}")
    return req_id
