"""What is stored, as JSON and back. A record is one object in one line."""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Callable
from typing import Any, Final, NamedTuple, TypeAlias

from snakemq.message import FLAG_PERSISTENT, MAX_UUID_LENGTH, Message
from snakemq.queues import is_ledger
from snakemq.storage import DeadLetter, InboxItem

__all__ = [
    "InboxRecord",
    "QueueRecord",
    "ReceivedRecord",
    "Record",
    "RecordError",
    "dead_letter",
    "decode",
    "encode",
    "message_fields",
    "storable",
]

#: As on the wire.
_MAX_IDENT_LENGTH: Final = 50

#: A message whose TTL has run out can't be put into a queue. This little is
#: left of it instead, so that the program that has the queue next drops it,
#: and tells.
_LEAST_TTL: Final = 0.001


#: The last second of the year 9999, and of what the calendar of Python knows, a
#: day earlier because of the time zones.
_LATEST: Final = 253402214400


class QueueRecord(NamedTuple):
    """A message that waits for a peer."""

    peer: str
    message: Message


class InboxRecord(NamedTuple):
    """A received message that waits for its callback."""

    peer: str
    message: Message
    attempts: int


class ReceivedRecord(NamedTuple):
    """Identifiers of messages that were received from a peer."""

    peer: str
    uuids: list[bytes]


Record: TypeAlias = QueueRecord | InboxRecord | DeadLetter | ReceivedRecord


class RecordError(Exception):
    """A line is not a record; the message says why."""


def storable(message: Message) -> Message:
    """The message as it can be put into a queue."""
    return message.with_ttl(_LEAST_TTL) if message.ttl == 0 else message


def message_fields(message: Message) -> dict[str, object]:
    """What JSON says of a message."""
    fields: dict[str, object] = {
        "uuid": message.uuid.hex(),
        "ttl": message.ttl,
        "flags": message.flags,
    }
    try:
        fields["text"] = message.data.decode()
    except UnicodeDecodeError:
        fields["base64"] = base64.b64encode(message.data).decode("ascii")
    return fields


def encode(record: Record | InboxItem) -> str:
    """A record as a line, without its end."""
    fields: dict[str, object]
    if isinstance(record, QueueRecord):
        fields = {"peer": record.peer, **message_fields(record.message)}
    elif isinstance(record, ReceivedRecord):
        uuids = [uuid.hex() for uuid in record.uuids]
        fields = {"kind": "received", "peer": record.peer, "uuids": uuids}
    elif isinstance(record, DeadLetter):
        fields = {
            "kind": "dead",
            "peer": record.ident,
            "attempts": record.attempts,
            "died_at": record.died_at,
            "reason": record.reason,
            "redelivered": record.message.redelivered,
            **message_fields(record.message),
        }
    else:
        fields = {
            "kind": "inbox",
            "peer": record.ident if isinstance(record, InboxItem) else record.peer,
            "attempts": record.attempts,
            "redelivered": record.message.redelivered,
            **message_fields(record.message),
        }
    return json.dumps(fields)


def dead_letter(letter: DeadLetter) -> str:
    """A dead letter with its number, as it is listed."""
    fields = {
        "id": letter.id,
        "ident": letter.ident,
        "attempts": letter.attempts,
        "died_at": letter.died_at,
        "reason": letter.reason,
        **message_fields(letter.message),
    }
    return json.dumps(fields)


def decode(line: bytes) -> Record:
    """The record in a line.

    :raises RecordError: there is none
    """
    try:
        fields = json.loads(line)
    except (ValueError, RecursionError) as exc:
        raise RecordError(f"this is not JSON: {exc}") from exc
    if not isinstance(fields, dict):
        raise RecordError("this is not a JSON object")
    kind = fields.pop("kind", "message")
    reader = _READERS.get(kind) if isinstance(kind, str) else None
    if reader is None:
        raise RecordError(f"unknown 'kind' {kind!r}; there are: {', '.join(_READERS)}")
    record = reader(_Fields(fields))
    if fields:
        raise RecordError(f"unknown key {next(iter(fields))!r}")
    return record


class _Fields:
    """Takes out what was read, so that at the end only what nobody knows is left."""

    def __init__(self, fields: dict[str, Any]) -> None:
        self._fields = fields

    def take(self, name: str, types: tuple[type, ...], meaning: str, *default: Any) -> Any:
        if name not in self._fields and default:
            return default[0]
        if name not in self._fields:
            raise RecordError(f"{name!r} is missing, {meaning}")
        value = self._fields.pop(name)
        if type(value) not in types:  # True is an int, too
            raise RecordError(f"{name!r} has to be {meaning}, not {value!r:.100}")
        return value

    def peer(self) -> str:
        meaning = f"the name of a peer, 1 to {_MAX_IDENT_LENGTH} characters"
        peer: str = self.take("peer", (str,), meaning)
        _utf8(peer, "peer")
        # What a peer keeps for itself has a name that is none of a peer.
        if not 1 <= len(peer) <= _MAX_IDENT_LENGTH and not is_ledger(peer):
            raise RecordError(f"'peer' has to be {meaning}, not {peer!r:.100}")
        return peer

    def attempts(self) -> int:
        attempts: int = self.take("attempts", (int,), "a number from 0 up", 0)
        if attempts < 0:
            raise RecordError(f"'attempts' has to be a number from 0 up, not {attempts}")
        return attempts

    def message(self) -> Message:
        uuid = self.take("uuid", (str,), "hexadecimal digits", None)
        ttl = self.take("ttl", (int, float, type(None)), "a number of seconds, or null", None)
        flags = self.take("flags", (int,), "a number", FLAG_PERSISTENT)
        redelivered = self.take("redelivered", (bool,), "true or false", False)
        try:
            message = Message(self._data(), ttl, flags, None if uuid is None else _uuid(uuid))
        except (OverflowError, ValueError) as exc:
            raise RecordError(str(exc)) from exc
        if redelivered:
            message.redelivered = True
        return message

    def _data(self) -> bytes:
        text = self.take("text", (str,), "the payload", None)
        encoded = self.take("base64", (str,), "the payload", None)
        if (text is None) == (encoded is None):
            raise RecordError("it takes the payload, either as 'text' or as 'base64'")
        if text is not None:
            return _utf8(text, "text")
        try:
            return base64.b64decode(encoded, validate=True)
        except ValueError as exc:
            raise RecordError(f"'base64' is wrong: {exc}") from exc


def _utf8(text: str, name: str) -> bytes:
    try:
        return text.encode()
    except UnicodeEncodeError as exc:
        raise RecordError(f"{name!r} is no text: {exc.reason}") from exc


def _uuid(digits: object) -> bytes:
    try:
        uuid = binascii.unhexlify(digits) if isinstance(digits, str) else b""
    except ValueError:
        uuid = b""
    if not 1 <= len(uuid) <= MAX_UUID_LENGTH:
        raise RecordError(
            f"a uuid has to be 1 to {MAX_UUID_LENGTH} bytes in hexadecimal, not {digits!r:.100}"
        )
    return uuid


def _queue_record(fields: _Fields) -> Record:
    return QueueRecord(fields.peer(), storable(fields.message()))


def _inbox_record(fields: _Fields) -> Record:
    return InboxRecord(fields.peer(), fields.message(), fields.attempts())


def _dead_record(fields: _Fields) -> Record:
    reason = fields.take("reason", (str,), "text", "")
    _utf8(reason, "reason")
    died_at = fields.take("died_at", (int, float), "seconds since 1970")
    if not 0 <= died_at <= _LATEST:
        raise RecordError(f"'died_at' has to be seconds since 1970, not {died_at!r:.100}")
    return DeadLetter(0, fields.peer(), fields.message(), fields.attempts(), reason, float(died_at))


def _received_record(fields: _Fields) -> Record:
    uuids = fields.take("uuids", (list,), "a list of hexadecimal digits")
    return ReceivedRecord(fields.peer(), [_uuid(uuid) for uuid in uuids])


_READERS: Final[dict[str, Callable[[_Fields], Record]]] = {
    "message": _queue_record,
    "inbox": _inbox_record,
    "dead": _dead_record,
    "received": _received_record,
}
