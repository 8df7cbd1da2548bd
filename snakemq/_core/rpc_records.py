"""The records that remote calls put into messages: those of 1.6, and more.

A message begins with a prefix that says what it is; the rest is one record, a
dictionary, as the serializer writes it. Those of 1.6:

=============  ===========================================================
request        ``rpcreq`` + ``{"command", "object", "method", "args",
               "kwargs", "req_id"}``; the command is ``"call"``, or
               ``"signal"``, which has no ``req_id`` and gets no reply
reply, value   ``rpcrep`` + ``{"ok": True, "return", "req_id"}``
reply, error   ``rpcrep`` + ``{"req_id", "ok": False, "exception",
               "exception_format"}``
=============  ===========================================================

The keys are in the order in which 1.6 writes them. A ``req_id`` is 16 bytes; a
request that is repeated after a reconnect has the same one. Keys and commands
that are not known are ignored, by 1.6 too. That is how there can be more:

=============  ===========================================================
call           also ``"timeout"``, ``"window"`` and ``"headers"``
cancel         ``{"command": "cancel", "req_id"}``: nobody waits any more
more           ``{"command": "more", "req_id", "position", "window"}``: the
               items of a stream before ``position`` have arrived, and
               ``window`` more may be sent
describe       ``{"command": "describe", "req_id"}``: what is served? The
               reply is one to a call.
reply, items   ``{"ok": True, "return": [items], "req_id", "position",
               "end"}``: a part of a stream; only to calls with a window
reply, error   also ``"code"``: what kind of failure of the call it is; in a
               stream ``"position"``, that of the item that is missing
=============  ===========================================================
"""

from __future__ import annotations

import enum
from dataclasses import dataclass, field
from typing import Any, Final

__all__ = [
    "MAX_COUNT",
    "MAX_REQ_ID",
    "REPLY_PREFIX",
    "REQUEST_PREFIX",
    "BadRecord",
    "Code",
    "Command",
    "Reply",
    "Request",
    "call_record",
    "cancel_record",
    "describe_record",
    "error_record",
    "items_record",
    "more_record",
    "parse_reply",
    "parse_request",
    "signal_record",
    "value_record",
]

REQUEST_PREFIX: Final = b"rpcreq"
REPLY_PREFIX: Final = b"rpcrep"

#: How long a request identifier may be, in bytes. 1.6 and this release have 16.
MAX_REQ_ID: Final = 64

#: A timeout of so many seconds is none.
_FOR_EVER: Final = 1e9

#: The largest number in a record: what every language has exactly.
MAX_COUNT: Final = 2**53


class BadRecord(ValueError):
    """What the other side sent is not a record of this kind; says why."""


class Command(enum.Enum):
    """What a request asks for."""

    CALL = "call"
    SIGNAL = "signal"
    CANCEL = "cancel"
    MORE = "more"
    DESCRIBE = "describe"


class Code(enum.Enum):
    """Why a call failed, where it was not the method that raised something."""

    #: there is no such object
    NO_INSTANCE = "no-instance"
    #: the object has no such method
    NO_METHOD = "no-method"
    #: the method takes other arguments
    ARGUMENTS = "arguments"
    #: an argument can't be read there
    UNREADABLE = "unreadable"
    #: the result can't be written
    UNSERIALIZABLE = "unserializable"
    #: too many calls wait there
    BUSY = "busy"
    #: the server takes no more calls
    CLOSING = "closing"
    #: its time was over before it was begun
    EXPIRED = "expired"
    #: a hook there does not allow it
    REFUSED = "refused"
    #: the caller may not call this there
    NOT_AUTHORIZED = "not-authorized"
    #: it was running when the server was restarted, and is not run again
    INTERRUPTED = "interrupted"
    #: it has run, and its answer is not kept any more
    ANSWER_GONE = "answer-gone"
    #: the server does not know the stream (any more)
    STREAM_GONE = "stream-gone"


_COMMANDS: Final = {command.value: command for command in Command}
_CALL: Final = Command.CALL
_SIGNAL: Final = Command.SIGNAL

#: Makes a record of which only what came is set: __init__ would take longer than all the rest.
_new: Final = object.__new__


# Without slots: the defaults are attributes of the class.
@dataclass
class Request:
    """Somebody wants a method to be called, or something about a call."""

    object: Any = None
    method: str = ""
    args: list[Any] | tuple[Any, ...] = ()
    kwargs: dict[str, Any] = field(default_factory=dict)
    #: ``None``: a signal, to which nobody waits for a reply
    req_id: bytes | None = None
    command: Command = Command.CALL
    #: how long somebody waits for the reply, in seconds; ``None``: for ever
    timeout: float | None = None
    #: how many items of a stream may come (more); ``None``: no streams please
    window: int | None = None
    #: how many items of the stream have arrived
    position: int = 0
    #: what hooks of the caller have to say to hooks of the server
    headers: dict[str, Any] = field(default_factory=dict)


@dataclass
class Reply:
    """How a call ended, or a part of its stream."""

    req_id: bytes
    ok: bool
    #: what the method returned, if ``ok``; in a stream, a list of items
    value: Any = None
    #: what it raised, if not ``ok``: an exception, unless the serializer can't
    exception: Any = None
    #: the remote traceback, or an empty string
    traceback: str = ""
    #: of an error that is not the method's; as it came, known here or not
    code: str = ""
    #: in a stream: how many items were before; ``None``: it is no stream
    position: int | None = None
    #: in a stream: there are no more items
    end: bool = False


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
    object_name: str,
    method: str,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    req_id: bytes,
    timeout: float | None = None,
    window: int | None = None,
    headers: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """The record of a request that gets a reply.

    :param timeout: see :class:`Request`, as are the next ones; what there is
        nothing to say about is left out
    """
    record: dict[str, Any] = {
        "command": "call",
        "object": object_name,
        "method": method,
        "args": args,
        "kwargs": kwargs,
        "req_id": req_id,
    }
    if timeout is not None:
        record["timeout"] = timeout
    if window is not None:
        record["window"] = window
    if headers:
        record["headers"] = headers
    return record


def cancel_record(req_id: bytes) -> dict[str, Any]:
    """The record that says: nobody waits for this call any more."""
    return {"command": "cancel", "req_id": req_id}


def more_record(req_id: bytes, position: int, window: int) -> dict[str, Any]:
    """The record that asks for more of a stream.

    :param position: so many items have arrived
    :param window: so many more may come
    """
    return {"command": "more", "req_id": req_id, "position": position, "window": window}


def describe_record(req_id: bytes) -> dict[str, Any]:
    """The record that asks what is served."""
    return {"command": "describe", "req_id": req_id}


def value_record(req_id: bytes, value: Any) -> dict[str, Any]:
    """The record of a reply: this was returned."""
    return {"ok": True, "return": value, "req_id": req_id}


def items_record(
    req_id: bytes, position: int, items: list[Any], *, end: bool = False
) -> dict[str, Any]:
    """The record of a reply: a part of a stream.

    :param position: so many items were before
    :param end: there are no more behind these
    """
    return {"ok": True, "return": items, "req_id": req_id, "position": position, "end": end}


def error_record(
    req_id: bytes,
    exception: Any,
    traceback: str,
    *,
    code: Code | None = None,
    position: int | None = None,
) -> dict[str, Any]:
    """The record of a reply: this was raised.

    :param code: if it is not the method's
    :param position: in a stream: so many items were before
    """
    record: dict[str, Any] = {
        "req_id": req_id,
        "ok": False,
        "exception": exception,
        "exception_format": traceback,
    }
    if code is not None:
        record["code"] = code.value
    if position is not None:
        record["position"] = position
    return record


def parse_request(record: object) -> Request:
    """Read the record of a request.

    :raises BadRecord: it is none
    """
    if not isinstance(record, dict):
        raise BadRecord(f"a request is a dictionary, not {type(record).__name__}")
    try:
        word = record["command"]
        command = _COMMANDS.get(word) if isinstance(word, str) else None
        if command is None:
            raise BadRecord(f"unknown command {_shown(word)}")
        if command is not _CALL and command is not _SIGNAL:
            return _parse_about_call(command, record)
        name = record["object"]
        method = record["method"]
        args = record["args"]
        kwargs = record["kwargs"]
        req_id = None
        if command is _CALL:
            req_id = record["req_id"]
            if type(req_id) is not bytes or len(req_id) > MAX_REQ_ID:
                raise _bad_req_id(req_id)
    except KeyError as exc:
        raise BadRecord(f"a request without {exc}") from None
    if not isinstance(method, str):
        raise BadRecord(f"a method is a string, not {type(method).__name__}")
    if not isinstance(args, (tuple, list)):
        raise BadRecord(f"args are a tuple or list, not {type(args).__name__}")
    if not isinstance(kwargs, dict):
        raise BadRecord(f"kwargs are a dictionary, not {type(kwargs).__name__}")
    headers = record.get("headers") or {}
    if not isinstance(headers, dict):
        raise BadRecord(f"headers are a dictionary, not {type(headers).__name__}")
    request = _new(Request)
    request.command = command
    request.object = name
    request.method = method
    request.args = args
    request.kwargs = kwargs
    request.req_id = req_id
    request.headers = headers
    timeout = record.get("timeout")
    if timeout is not None:
        request.timeout = _seconds(timeout)
    window = record.get("window")
    if window is not None:
        if type(window) is not int or not 0 <= window <= MAX_COUNT:
            raise _bad_count("window", window)
        request.window = window
    return request


def _parse_about_call(command: Command, record: dict[Any, Any]) -> Request:
    request = Request(req_id=_req_id(record), command=command)
    if command is Command.MORE:
        request.position = _count(record, "position")
        request.window = _count(record, "window")
    return request


def parse_reply(record: object) -> Reply:
    """Read the record of a reply.

    :raises BadRecord: it is none
    """
    if not isinstance(record, dict):
        raise BadRecord(f"a reply is a dictionary, not {type(record).__name__}")
    try:
        req_id = record["req_id"]
        if type(req_id) is not bytes or len(req_id) > MAX_REQ_ID:
            raise _bad_req_id(req_id)
        position = _count(record, "position") if "position" in record else None
        if record["ok"]:
            value = record["return"]
            if position is None:
                reply = _new(Reply)
                reply.req_id = req_id
                reply.ok = True
                reply.value = value
                return reply
            if not isinstance(value, (list, tuple)):
                raise BadRecord(f"items are a list, not {type(value).__name__}")
            return Reply(req_id, True, value, position=position, end=bool(record.get("end")))
        text = record["exception_format"]
        code = record.get("code", "")
        return Reply(
            req_id,
            False,
            None,
            record["exception"],
            text if isinstance(text, str) else "",
            code if isinstance(code, str) else "",
            position,
        )
    except KeyError as exc:
        raise BadRecord(f"a reply without {exc}") from None


def _req_id(record: dict[Any, Any]) -> bytes:
    req_id = record["req_id"]
    if type(req_id) is not bytes or len(req_id) > MAX_REQ_ID:
        raise _bad_req_id(req_id)
    return req_id


def _bad_req_id(req_id: object) -> BadRecord:
    if type(req_id) is not bytes:
        return BadRecord(f"req_id is bytes, not {type(req_id).__name__}")
    return BadRecord(f"a req_id of {len(req_id)} bytes; {MAX_REQ_ID} are the limit")


def _count(record: dict[Any, Any], key: str) -> int:
    value = record[key]
    if type(value) is not int or not 0 <= value <= MAX_COUNT:
        raise _bad_count(key, value)
    return value


def _bad_count(key: str, value: object) -> BadRecord:
    return BadRecord(f"{key} is a number from 0 to 2**53, not {_shown(value)}")


def _seconds(value: object) -> float | None:
    # Not a number is not at least 0.
    if not isinstance(value, (int, float)) or isinstance(value, bool) or not value >= 0:
        raise BadRecord(f"a timeout is a number of at least 0, not {_shown(value)}")
    return None if value > _FOR_EVER else float(value)


def _shown(value: object) -> str:
    """What came, for people. Nothing of it but short texts and numbers: it may be endless."""
    if isinstance(value, (str, float, bool)) or (
        isinstance(value, int) and abs(value) < MAX_COUNT**2
    ):
        return repr(value if not isinstance(value, str) else value[:50])
    return type(value).__name__
