"""The records of remote calls: what 1.6 writes, and what is none."""

from __future__ import annotations

import dataclasses
import pickle
import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from snakemq._core.rpc_records import (
    REPLY_PREFIX,
    REQUEST_PREFIX,
    BadRecord,
    Code,
    Command,
    Reply,
    Request,
    call_record,
    cancel_record,
    describe_record,
    error_record,
    items_record,
    more_record,
    parse_reply,
    parse_request,
    signal_record,
    value_record,
)
from snakemq.rpc import NoInstanceError

REQ_ID = bytes(range(16))

#: Data of messages that the real 1.6 has sent (Python 3.11).
RECORDED = {
    "call": (
        "72706372657180049580000000000000007d94288c07636f6d6d616e64948c0463616c6c948c066f"
        "626a656374948c06746865726d6f948c066d6574686f64948c0472656164948c0461726773948c07"
        "6b69746368656e944b0286948c066b7761726773947d948c04756e6974948c014394738c06726571"
        "5f6964944310000102030405060708090a0b0c0d0e0f94752e"
    ),
    "signal": (
        "72706372657180049566000000000000007d94288c07636f6d6d616e64948c067369676e616c948c"
        "066f626a656374948c06746865726d6f948c066d6574686f64948c0472656164948c046172677394"
        "8c076b69746368656e944b0286948c066b7761726773947d948c04756e6974948c01439473752e"
    ),
    "value": (
        "72706372657080049546000000000000007d94288c026f6b94888c0672657475726e947d948c0763"
        "656c7369757394474035800000000000738c067265715f6964944310000102030405060708090a0b"
        "0c0d0e0f94752e"
    ),
    "error": (
        "7270637265708004957b000000000000007d94288c067265715f6964944310000102030405060708"
        "090a0b0c0d0e0f948c026f6b94898c09657863657074696f6e948c0b736e616b656d712e72706394"
        "8c0f4e6f496e7374616e63654572726f729493948c076e6f7468696e6794859452948c1065786365"
        "7074696f6e5f666f726d6174948c02746294752e"
    ),
}


def recorded(name: str) -> bytes:
    return bytes.fromhex(RECORDED[name])


@pytest.mark.parametrize(
    ("name", "prefix", "record"),
    [
        (
            "call",
            REQUEST_PREFIX,
            call_record("thermo", "read", ("kitchen", 2), {"unit": "C"}, REQ_ID),
        ),
        (
            "signal",
            REQUEST_PREFIX,
            signal_record("thermo", "read", ("kitchen", 2), {"unit": "C"}),
        ),
        ("value", REPLY_PREFIX, value_record(REQ_ID, {"celsius": 21.5})),
        ("error", REPLY_PREFIX, error_record(REQ_ID, NoInstanceError("nothing"), "tb")),
    ],
)
def test_written_byte_for_byte_as_by_1_6(name: str, prefix: bytes, record: Any) -> None:
    assert prefix + pickle.dumps(record, protocol=4) == recorded(name)


def test_a_call_of_1_6_is_read() -> None:
    request = parse_request(pickle.loads(recorded("call")[6:]))
    assert request == Request("thermo", "read", ("kitchen", 2), {"unit": "C"}, REQ_ID)


def test_a_signal_of_1_6_is_read() -> None:
    request = parse_request(pickle.loads(recorded("signal")[6:]))
    assert request == Request("thermo", "read", ("kitchen", 2), {"unit": "C"}, None, Command.SIGNAL)


def test_a_value_of_1_6_is_read() -> None:
    reply = parse_reply(pickle.loads(recorded("value")[6:]))
    assert reply == Reply(REQ_ID, True, {"celsius": 21.5})


def test_an_error_of_1_6_is_read_and_its_class_found() -> None:
    reply = parse_reply(pickle.loads(recorded("error")[6:]))
    assert (reply.req_id, reply.ok, reply.traceback) == (REQ_ID, False, "tb")
    assert type(reply.exception) is NoInstanceError
    assert reply.exception.args == ("nothing",)


def changed(record: dict[str, Any], **changes: Any) -> dict[str, Any]:
    """The record with some values replaced, or taken out (``...``)."""
    return {key: value for key, value in {**record, **changes}.items() if value is not ...}


CALL = call_record("thermo", "read", (), {}, REQ_ID)


@pytest.mark.parametrize(
    ("record", "why"),
    [
        (None, "a request is a dictionary, not NoneType"),
        ([CALL], "not list"),
        ({}, "without 'command'"),
        (changed(CALL, command="stop"), "unknown command 'stop'"),
        (changed(CALL, command=["call"]), "unknown command"),
        (changed(CALL, object=...), "without 'object'"),
        (changed(CALL, method=...), "without 'method'"),
        (changed(CALL, method=None), "a method is a string, not NoneType"),
        (changed(CALL, args=...), "without 'args'"),
        (changed(CALL, args=5), "args are a tuple or list, not int"),
        (changed(CALL, kwargs=...), "without 'kwargs'"),
        (changed(CALL, kwargs=[]), "kwargs are a dictionary, not list"),
        (changed(CALL, req_id=...), "without 'req_id'"),
        (changed(CALL, req_id=None), "req_id is bytes, not NoneType"),
        (changed(CALL, req_id={}), "req_id is bytes, not dict"),
    ],
)
def test_what_is_no_request(record: object, why: str) -> None:
    with pytest.raises(BadRecord, match=why):
        parse_request(record)


VALUE = value_record(REQ_ID, 5)
ERROR = error_record(REQ_ID, ValueError(), "tb")


@pytest.mark.parametrize(
    ("record", "why"),
    [
        (None, "a reply is a dictionary, not NoneType"),
        ({}, "without 'req_id'"),
        (changed(VALUE, req_id=5), "req_id is bytes, not int"),
        (changed(VALUE, ok=...), "without 'ok'"),
        (changed(VALUE, **{"return": ...}), "without 'return'"),
        (changed(ERROR, exception=...), "without 'exception'"),
        (changed(ERROR, exception_format=...), "without 'exception_format'"),
    ],
)
def test_what_is_no_reply(record: object, why: str) -> None:
    with pytest.raises(BadRecord, match=why):
        parse_reply(record)


def test_a_traceback_that_is_no_text_is_none() -> None:
    assert parse_reply(changed(ERROR, exception_format=None)).traceback == ""


def test_what_a_later_version_adds_is_ignored() -> None:
    assert parse_request(changed(CALL, deadline=5)) == parse_request(CALL)
    assert parse_reply(changed(VALUE, cost=5)) == parse_reply(VALUE)


anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5) | st.binary(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=5,
)
keys = st.sampled_from([*CALL, *VALUE, *ERROR])


@given(st.dictionaries(keys, anything | st.sampled_from(["call", "signal", REQ_ID])) | anything)
def test_anything_is_a_record_or_is_refused(record: object) -> None:
    for parse, kind in ((parse_request, Request), (parse_reply, Reply)):
        try:
            parsed = parse(record)  # type: ignore[operator]
        except BadRecord:
            continue
        assert isinstance(parsed, kind)
        assert all(hasattr(parsed, field.name) for field in dataclasses.fields(kind))
        if isinstance(parsed, Reply) or parsed.command is not Command.SIGNAL:
            assert type(parsed.req_id) is bytes


class _Bytes(bytes):
    """Of a class that the program has registered."""


class _Int(int):
    """Likewise."""


@pytest.mark.parametrize(
    ("record", "why"),
    [
        (changed(CALL, req_id=_Bytes(REQ_ID)), "req_id is bytes, not _Bytes"),
        (changed(CALL, req_id=bytes(65)), "a req_id of 65 bytes; 64 are the limit"),
        (changed(CALL, window=True), "window is a number from 0 to"),
        (changed(CALL, window=_Int(5)), "window is a number from 0 to"),
        (changed(CALL, window=-1), "window is a number from 0 to"),
        (changed(CALL, window=2**53 + 1), "window is a number from 0 to"),
    ],
)
def test_what_identifies_and_counts_has_no_methods_of_its_own(record: object, why: str) -> None:
    with pytest.raises(BadRecord, match=re.escape(why)):
        parse_request(record)


def test_a_call_says_more_only_if_there_is_more() -> None:
    assert call_record("o", "m", (), {}, REQ_ID) == call_record(
        "o", "m", (), {}, REQ_ID, timeout=None, window=None, headers={}
    )
    record = call_record("o", "m", (1,), {}, REQ_ID, timeout=2.5, window=64, headers={"a": 1})
    assert parse_request(record) == Request(
        "o", "m", (1,), {}, REQ_ID, Command.CALL, 2.5, 64, headers={"a": 1}
    )


def test_requests_about_calls() -> None:
    assert parse_request(cancel_record(REQ_ID)) == Request(req_id=REQ_ID, command=Command.CANCEL)
    assert parse_request(describe_record(REQ_ID)) == Request(
        req_id=REQ_ID, command=Command.DESCRIBE
    )
    assert parse_request(more_record(REQ_ID, 7, 9)) == Request(
        req_id=REQ_ID, command=Command.MORE, position=7, window=9
    )


def test_replies_of_a_stream() -> None:
    assert parse_reply(items_record(REQ_ID, 3, ["a"])) == Reply(REQ_ID, True, ["a"], position=3)
    assert parse_reply(items_record(REQ_ID, 4, [], end=True)).end
    error = parse_reply(error_record(REQ_ID, "no", "", code=Code.BUSY, position=5))
    assert (error.ok, error.code, error.position) == (False, "busy", 5)


@pytest.mark.parametrize(
    "record",
    [
        {**call_record("o", "m", (), {}, REQ_ID), "timeout": -1},
        {**call_record("o", "m", (), {}, REQ_ID), "timeout": float("nan")},
        {**call_record("o", "m", (), {}, REQ_ID), "timeout": "1"},
        {**call_record("o", "m", (), {}, REQ_ID), "window": -1},
        {**call_record("o", "m", (), {}, REQ_ID), "window": True},
        {**call_record("o", "m", (), {}, REQ_ID), "headers": [1]},
        {**more_record(REQ_ID, 0, 1), "position": 2**60},
        {**more_record(REQ_ID, 0, 1), "window": None},
        {"command": "cancel"},
        {"command": ["call"]},
    ],
)
def test_what_else_is_no_request(record: Any) -> None:
    with pytest.raises(BadRecord):
        parse_request(record)


@pytest.mark.parametrize(
    "record",
    [
        {**items_record(REQ_ID, 0, []), "return": "text"},
        {**items_record(REQ_ID, 0, []), "position": -1},
        {**error_record(REQ_ID, "no", ""), "position": "1"},
    ],
)
def test_what_else_is_no_reply(record: Any) -> None:
    with pytest.raises(BadRecord):
        parse_reply(record)
