"""What clients and servers ask of serializers, whichever they have."""

from __future__ import annotations

import json
import pickle
import threading
from typing import Any

import pytest

from snakemq._core.rpc_records import (
    REPLY_PREFIX,
    call_record,
    error_record,
    value_record,
)
from snakemq.rpc import Error, RemoteError
from snakemq.rpc.errors import Unserializable
from snakemq.rpc.json_serializer import JSON
from snakemq.rpc.safe_pickle import SAFE_PICKLE, SafePickle
from snakemq.rpc.serializer import (
    Serializer,
    is_safe,
    loads_with_stand_ins,
    request_id_in,
    write,
)

REQ_ID = bytes(range(16))
PICKLERS = [pickle, SAFE_PICKLE, JSON]


class Holder:
    def __init__(self, **attributes: Any) -> None:
        self.__dict__.update(attributes)


def call(*args: Any, **kwargs: Any) -> dict[str, Any]:
    return call_record("obj", "method", args, kwargs, REQ_ID)


LOCK = threading.Lock()


def holding_error() -> Exception:
    error = ValueError("text", [LOCK])
    return error


def shelf_error() -> Exception:
    error = ValueError("text")
    error.shelf = {"lock": LOCK}  # type: ignore[attr-defined]
    return error


@pytest.mark.parametrize("pickler", PICKLERS, ids=["pickle", "safe", "json"])
@pytest.mark.parametrize(
    ("record", "path"),
    [
        (call(LOCK), "args[0]"),
        (call(1, {"lock": LOCK}), "args[1]['lock']"),
        (call(1, {"a": [0, (1, {2: LOCK})]}), "args[1]['a'][1][1][2]"),
        (call(f=LOCK), "kwargs['f']"),
        (value_record(REQ_ID, LOCK), "return"),
        (value_record(REQ_ID, [1, 2, 3, LOCK]), "return[3]"),
        (value_record(REQ_ID, {LOCK}), "a member of return"),
        (value_record(REQ_ID, {LOCK: 1}), "a key of return"),
        (error_record(REQ_ID, holding_error(), ""), "exception.args[1][0]"),
        ({**call(), "headers": {"x": LOCK}}, "headers['x']"),
    ],
    ids=lambda part: part if isinstance(part, str) else "",
)
def test_the_part_that_can_not_be_written_is_named(
    pickler: Serializer, record: Any, path: str
) -> None:
    with pytest.raises(Unserializable) as caught:
        write(pickler, record, "the call of obj.method")
    assert caught.value.path == path
    text = str(caught.value)
    assert text.startswith(f"the call of obj.method can't be sent: {path} is a _thread.lock, and")
    assert caught.value.__cause__ is not None
    assert str(caught.value.__cause__)[:20] in text


@pytest.mark.parametrize("pickler", [pickle, SAFE_PICKLE], ids=["pickle", "safe"])
@pytest.mark.parametrize(
    ("record", "path"),
    [
        (call(Holder(inner=Holder(lock=LOCK))), "args[0].inner.lock"),
        (call(f=Holder(handler=lambda: None)), "kwargs['f'].handler"),
        (call(print, lambda: None), "args[1]"),
        (error_record(REQ_ID, shelf_error(), ""), "exception.shelf['lock']"),
    ],
    ids=lambda part: part if isinstance(part, str) else "",
)
def test_also_inside_of_objects(pickler: Serializer, record: Any, path: str) -> None:
    with pytest.raises(Unserializable) as caught:
        write(pickler, record, "it")
    assert caught.value.path == path


def test_what_can_not_be_written_as_a_whole() -> None:
    class Shy:
        def dumps(self, obj: Any, /) -> bytes:
            if isinstance(obj, dict) and "return" in obj:
                raise OverflowError
            return b""

        def loads(self, data: bytes, /) -> Any:
            raise AssertionError

    with pytest.raises(
        Unserializable, match=r"^the result can't be sent: it can't be written: Ove"
    ):
        write(Shy(), value_record(REQ_ID, 1), "the result")


@pytest.mark.parametrize("pickler", PICKLERS, ids=["pickle", "safe", "json"])
def test_what_is_nested_too_deep_ends_the_search(pickler: Serializer) -> None:
    value: Any = LOCK
    for _ in range(20_000):
        value = [value]
    with pytest.raises(Unserializable) as caught:
        write(pickler, value_record(REQ_ID, value), "it")
    assert caught.value.path.startswith("return")


def test_a_json_record_with_half_a_surrogate_pair() -> None:
    with pytest.raises(Unserializable, match=r"args\[1\] is a builtins.str.*surrogates"):
        write(JSON, call("a", "\ud800"), "it")


@pytest.mark.parametrize("pickler", PICKLERS, ids=["pickle", "safe", "json"])
def test_what_can_be_written_is(pickler: Serializer) -> None:
    record = call(1, "a", b=[2.5])
    assert write(pickler, record, "it") == pickler.dumps(record)
    assert pickler.loads(write(pickler, record, "it")) == record


def test_who_is_safe() -> None:
    assert is_safe(SAFE_PICKLE)
    assert is_safe(JSON)
    assert is_safe(SafePickle([Holder]))
    assert not is_safe(pickle)
    assert not is_safe(json)  # type: ignore[arg-type]


class GoneError(Exception):
    pass


@pytest.mark.parametrize("pickler", PICKLERS, ids=["pickle", "safe", "json"])
def test_stand_ins(pickler: Serializer, monkeypatch: pytest.MonkeyPatch) -> None:
    data = pickler.dumps(error_record(REQ_ID, GoneError("why"), "text"))
    monkeypatch.delitem(globals(), "GoneError")
    record = loads_with_stand_ins(pickler, data)
    error = record["exception"]
    assert isinstance(error, RemoteError)
    assert (error.class_name, error.args) == (f"{__name__}.GoneError", ("why",))


def test_stand_ins_of_other_serializers() -> None:
    with pytest.raises(TypeError, match="has no loads_with_stand_ins"):
        loads_with_stand_ins(json, b"{}")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "data",
    [
        *(pickle.dumps(call(1), protocol) for protocol in (3, 4, 5)),
        pickle.dumps(error_record(REQ_ID, ValueError(), "")),
        SAFE_PICKLE.dumps(value_record(REQ_ID, b"x")),
        JSON.dumps(call(1)),
        JSON.dumps(value_record(REQ_ID, "x")),
        json.dumps({"req_id": REQ_ID.hex().upper(), "a": 1}, indent=2).encode(),
        REPLY_PREFIX + JSON.dumps(value_record(REQ_ID, "x")),
    ],
)
def test_the_request_of_an_unreadable_record_is_found(data: bytes) -> None:
    assert request_id_in(data) == REQ_ID


def test_no_request_is_found_where_there_is_no_one() -> None:
    other = bytes(range(1, 17))
    for data in (
        b"",
        b"req_id",
        JSON.dumps({"command": "signal"}),
        JSON.dumps(call(1)) + JSON.dumps(call_record("o", "m", (), {}, other)),
        JSON.dumps(call(1))[:-3],
        b'{"req_id":"short"}',
    ):
        assert request_id_in(data) is None


def test_each_says_what_it_got_instead() -> None:
    with pytest.raises(ValueError, match="looks like JSON, and pickle is read here"):
        SAFE_PICKLE.loads(JSON.dumps(call(1)))
    with pytest.raises(ValueError, match="looks like a pickle, and JSON is read here"):
        JSON.loads(SAFE_PICKLE.dumps(call(1)))


def test_an_error_of_the_sender_travels() -> None:
    with pytest.raises(Unserializable) as caught:
        write(pickle, call(LOCK), "it")
    assert type(pickle.loads(pickle.dumps(caught.value))) is Error
