"""What remote calls are written in: pickles, JSON, records, records in parts.

Each target is a function of bytes that raises if something is wrong with what is done
with them.
"""

from __future__ import annotations

import collections
import datetime
import decimal
import fractions
import io
import math
import pickle
import struct
import types
import uuid
from typing import Any

from snakemq._core.rpc_parts import (
    REPLY_PARTS,
    REQUEST_PARTS,
    TRANSFER_ID_SIZE,
    Assembler,
    Lane,
    PartRefused,
    Transfer,
    decode_refusal,
    encode_part,
)
from snakemq._core.rpc_records import (
    MAX_COUNT,
    MAX_REQ_ID,
    REQUEST_PREFIX,
    BadRecord,
    Reply,
    Request,
    call_record,
    parse_reply,
    parse_request,
    signal_record,
)
from snakemq.rpc import RemoteError
from snakemq.rpc._peek import call_in
from snakemq.rpc.json_serializer import JSON
from snakemq.rpc.safe_pickle import SAFE_PICKLE
from snakemq.rpc.serializer import request_id_in
from tests.fuzz.fodder import Fodder, check_brief
from tests.fuzz.watch import nothing_happens

__all__ = ["json_data", "parts", "peeks", "pickles", "records"]

_VALUES = frozenset(
    {
        type(None), bool, int, float, complex, str, bytes, bytearray, list, tuple, dict, set,
        frozenset, type(...), type(NotImplemented), datetime.date, datetime.time,
        datetime.datetime, datetime.timedelta, datetime.timezone, decimal.Decimal,
        fractions.Fraction, uuid.UUID, collections.OrderedDict, collections.defaultdict,
        collections.Counter, collections.deque, types.SimpleNamespace,
    }
)  # fmt: skip


def pickles(data: bytes) -> None:
    """A pickle is data, as pickle itself reads it, or is refused; and nothing is done."""
    for read in (SAFE_PICKLE.loads, SAFE_PICKLE.loads_with_stand_ins):
        with nothing_happens():
            try:
                value = read(data)
            except ValueError as exc:
                check_brief(exc)
                continue
        _check_plain(value)
        try:
            expected = _PlainUnpickler(io.BytesIO(data)).load()
        except (_Named, *_REFUSED):
            continue
        assert _same(value, expected)


#: What pickle raises for what it does not read; here some of it is read all the same.
_REFUSED = (
    pickle.UnpicklingError, ValueError, EOFError, AttributeError, LookupError, TypeError,
    ArithmeticError, RecursionError, struct.error,
)  # fmt: skip


class _Named(Exception):
    """There is a name in the pickle."""


class _PlainUnpickler(pickle._Unpickler):  # type: ignore[name-defined, misc]
    """Reads what needs no name. Only for what has been accepted: it has no limits.

    The one in Python, because that in C loses a byte of a line that goes beyond its frame.
    """

    def find_class(self, module: str, name: str, /) -> Any:
        raise _Named


def _check_plain(value: object) -> None:
    """There is nothing but data in it."""
    seen: dict[int, object] = {}
    left = [value]
    while left:
        found = left.pop()
        if id(found) in seen:
            continue
        seen[id(found)] = found
        kind = type(found)
        if isinstance(found, BaseException):
            assert kind.__module__ in _EXCEPTIONS_OF or issubclass(kind, RemoteError), kind
            left += [found.args, vars(found)]
        else:
            assert kind in _VALUES, kind
        left += _parts_of(found)


_EXCEPTIONS_OF = ("builtins", "snakemq.exceptions", "snakemq.rpc", "snakemq.rpc.errors")


def _parts_of(value: object) -> list[Any]:
    if isinstance(value, dict):
        return [*value.keys(), *value.values()]
    if isinstance(value, (list, tuple, collections.deque, set, frozenset)):
        return list(value)
    if isinstance(value, types.SimpleNamespace):
        return [vars(value)]
    return []


def _same(one: object, other: object) -> bool:
    """Whether they are alike, also where something refers to itself, or is not a number."""
    seen: dict[tuple[int, int], tuple[object, object]] = {}
    left = [(one, other)]
    while left:
        a, b = left.pop()
        if type(a) is not type(b):
            if not (isinstance(a, RemoteError) and isinstance(b, RemoteError)):
                return False
            if a.class_name != b.class_name:
                return False
        if (id(a), id(b)) in seen:
            continue
        seen[id(a), id(b)] = (a, b)
        if isinstance(a, (set, frozenset)):
            # Not compared one by one: what is not a number is in no set.
            if len(a) != len(b):  # type: ignore[arg-type]
                return False
        elif isinstance(a, BaseException):
            left.append((a.args, b.args))  # type: ignore[attr-defined]
        elif isinstance(a, (dict, list, tuple, collections.deque, types.SimpleNamespace)):
            inside, inside_other = _parts_of(a), _parts_of(b)
            if len(inside) != len(inside_other):
                return False
            left += zip(inside, inside_other, strict=True)
        elif isinstance(a, (float, complex, decimal.Decimal)):
            if repr(a) != repr(b):
                return False
        elif a != b:
            return False
    return True


def json_data(data: bytes) -> None:
    """JSON is data, and the same when it is written and read again; or is refused."""
    with nothing_happens():
        try:
            value = JSON.loads(data)
        except ValueError as exc:
            check_brief(exc)
            return
    _check_plain(value)
    try:
        written = JSON.dumps(value)
    except (TypeError, ValueError):
        return
    again = JSON.loads(written)
    assert _same(value, again), (value, again)


def records(data: bytes) -> None:
    """A record is a request or a reply as it is described, or is refused.

    Byte 0: 0 for JSON, 1 for a pickle, of which the rest is; else the rest says what the
    values of the keys of a dictionary are.
    """
    assert len(request_id_in(data) or bytes(16)) == 16
    fodder = Fodder(data)
    kind = fodder.byte()
    record: object
    if kind < 2:
        try:
            record = (JSON, SAFE_PICKLE)[kind].loads(fodder.rest())
        except ValueError:
            return
    else:
        record = {key: _value(fodder) for key in _KEYS if fodder.byte() & 1}
    try:
        _check_request(parse_request(record))
    except BadRecord as exc:
        check_brief(exc)
    try:
        _check_reply(parse_reply(record))
    except BadRecord as exc:
        check_brief(exc)


_KEYS = (
    "command", "object", "method", "args", "kwargs", "req_id", "timeout", "window", "headers",
    "position", "ok", "return", "end", "exception", "exception_format", "code",
)  # fmt: skip

_POOL: tuple[object, ...] = (
    None, True, False, 0, 1, -1, MAX_COUNT, MAX_COUNT + 1, 2**70, 10**5000, 0.0, -1.0, 1e300,
    math.nan, math.inf, 1j, "", "call", "signal", "cancel", "more", "describe", "name", "x" * 300,
    "\n\x00\ud800", b"", b"x" * 16, b"x" * MAX_REQ_ID, b"x" * (MAX_REQ_ID + 1), bytearray(16), [],
    [1, 2], (), ("a",), {}, {"a": 1}, {1: 2}, {("a",): []}, set(), frozenset(), ValueError("x"),
    ..., decimal.Decimal("NaN"), decimal.Decimal("sNaN"), fractions.Fraction(1, 3),
)  # fmt: skip


def _value(fodder: Fodder) -> object:
    return _POOL[fodder.byte() % len(_POOL)]


def _check_request(request: Request) -> None:
    assert type(request.method) is str
    assert isinstance(request.args, (list, tuple))
    assert isinstance(request.kwargs, dict)
    assert isinstance(request.headers, dict)
    assert request.req_id is None or len(request.req_id) <= MAX_REQ_ID
    assert request.timeout is None or 0 <= request.timeout < math.inf
    assert request.window is None or 0 <= request.window <= MAX_COUNT
    assert 0 <= request.position <= MAX_COUNT


def _check_reply(reply: Reply) -> None:
    assert type(reply.req_id) is bytes
    assert len(reply.req_id) <= MAX_REQ_ID
    assert type(reply.traceback) is str
    assert type(reply.code) is str
    assert reply.position is None or 0 <= reply.position <= MAX_COUNT
    if reply.ok and reply.position is not None:
        assert isinstance(reply.value, (list, tuple))


def peeks(data: bytes) -> None:
    """What a request asks for is told from its beginning, and right if it is an honest one.

    The data are what is looked at; and names, with their length before them.
    """
    call_in(data)
    call_in(REQUEST_PREFIX + data)
    fodder = Fodder(data)
    object_name, method = (fodder.take(fodder.byte()).decode("utf-8", "replace") for _ in "12")
    for make in (call_record, _signal):
        record = make(object_name, method, (), {}, bytes(16))
        for serializer in (SAFE_PICKLE, JSON):
            found = call_in(REQUEST_PREFIX + serializer.dumps(record))
            assert found in (None, (object_name, method, make is _signal))


def _signal(
    object_name: str, method: str, args: tuple[Any, ...], kwargs: dict[str, Any], req_id: bytes
) -> dict[str, Any]:
    return signal_record(object_name, method, args, kwargs)


_MOST = 4096


def parts(data: bytes) -> None:
    """Parts become the records that they are of, or nothing; what is kept has a limit.

    Byte 0: 0 for messages from a stranger, each with its length before it; else for
    records that are taken apart and sent, with parts left out.
    """
    fodder = Fodder(data)
    if fodder.byte() == 0:
        _parts_of_a_stranger(fodder)
    else:
        _parts_of_records(fodder)


def _parts_of_a_stranger(fodder: Fodder) -> None:
    assembler = Assembler(REQUEST_PARTS, _MOST)
    while fodder:
        kind = fodder.byte()
        if kind < 16:
            message = encode_part(
                REQUEST_PARTS,
                bytes([kind]) * TRANSFER_ID_SIZE,
                fodder.number(2) if kind & 1 else fodder.number(8),
                fodder.number(2) if kind & 2 else fodder.number(8),
                fodder.take(fodder.byte()),
            )
        else:
            message = REQUEST_PARTS.part + fodder.block()
        decode_refusal(REQUEST_PARTS, message)
        try:
            record = assembler.feed(message)
        except PartRefused as exc:
            _check_refusal(exc)
            record = None
        if record is not None:
            assert record.startswith(REQUEST_PARTS.record)
            assert len(record) <= _MOST
        assert 0 <= assembler.held <= _MOST
        assert len(assembler) or not assembler.held


def _check_refusal(exc: PartRefused) -> None:
    assert len(exc.transfer_id) in (0, TRANSFER_ID_SIZE)
    check_brief(exc)


def _parts_of_records(fodder: Fodder) -> None:
    lane = Lane(REPLY_PARTS, 8 + fodder.byte())
    sent = {}
    for number in range(fodder.byte() % 8):
        record = REPLY_PARTS.record + bytes([number]) * 4 * fodder.byte()
        transfer = Transfer(bytes([number]) * TRANSFER_ID_SIZE, b"%d" % number, record)
        sent[record] = transfer
        lane.add(transfer)
    assembler = Assembler(REPLY_PARTS)
    arrived = []
    has_lost = False
    while (turn := lane.next_part()) is not None:
        transfer, message, size = turn
        lane.window.arrived(size, 0.01)
        what = fodder.byte()
        if what == 1:
            lane.give_up(transfer)
        if what == 2:
            has_lost = True
            continue
        try:
            record = assembler.feed(message)
        except PartRefused:
            assert has_lost
            continue
        if record is not None:
            arrived.append(record)
    assert all(record in sent for record in arrived)
    assert has_lost or assembler.held == 0
    if not has_lost:
        given_up = sum(transfer.given_up for transfer in sent.values())
        assert len(arrived) >= len(sent) - given_up
