"""Records as JSON: what is written, what is read, and what is refused."""

from __future__ import annotations

import contextlib
import datetime
import decimal
import json
import math
import pickle
import re
import uuid
import zoneinfo
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from snakemq._core.rpc_records import (
    call_record,
    cancel_record,
    error_record,
    items_record,
    more_record,
    signal_record,
    value_record,
)
from snakemq.exceptions import PacketTooLarge, SnakeMQException
from snakemq.rpc import NoMethodError, RemoteError
from snakemq.rpc.json_serializer import _DECODERS, JSON, MAX_DEPTH, Json

REQ_ID = bytes(range(16))
UTC = datetime.timezone.utc

#: Each refusal has a message of its own.
ANY = r"."

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=9) | st.sampled_from(
    ["$bytes", "$tuple", "$dict", "$", "$nothing", "class", "args", "req_id", "exception"]
)
hashable = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False)
    | texts
    | st.binary(max_size=9)
    | st.dates()
    | st.times().map(lambda time: time.replace(fold=0))
    | st.datetimes().map(lambda time: time.replace(fold=0))
    | st.datetimes(timezones=st.just(UTC))
    | st.timedeltas()
    | st.decimals(allow_nan=False)
    | st.uuids()
    | st.complex_numbers(allow_nan=False),
    lambda inner: st.lists(inner, max_size=3).map(tuple) | st.frozensets(inner, max_size=3),
    max_leaves=4,
)
values = st.recursive(
    hashable | st.binary(max_size=20).map(bytearray),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.lists(inner, max_size=4).map(tuple)
        | st.sets(hashable, max_size=4)
        | st.dictionaries(texts, inner, max_size=4)
        | st.dictionaries(hashable, inner, max_size=4)
    ),
    max_leaves=12,
)


def again(value: Any) -> Any:
    return JSON.loads(JSON.dumps({"return": value}))["return"]


@given(values)
def test_values_come_back(value: object) -> None:
    read = again(value)
    assert read == value
    assert type(read) is type(value)


@given(values)
def test_it_is_json_that_others_read(value: object) -> None:
    def refuse(name: str) -> None:
        raise AssertionError(name)

    json.loads(JSON.dumps({"return": value}), parse_constant=refuse)


@given(
    st.lists(values, max_size=3).map(tuple), st.dictionaries(texts.filter(bool), values, max_size=3)
)
def test_requests_come_back(args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    for record in (
        call_record("obj", "method", args, kwargs, REQ_ID, timeout=1.5, window=64, headers=kwargs),
        signal_record("obj", "method", args, kwargs),
        value_record(REQ_ID, args),
        items_record(REQ_ID, 5, list(args), end=True),
        cancel_record(REQ_ID),
        more_record(REQ_ID, 1, 2),
    ):
        assert JSON.loads(JSON.dumps(record)) == record


@pytest.mark.parametrize(
    ("value", "written"),
    [
        (None, "null"),
        (True, "true"),
        (2**53, "9007199254740992"),
        (2**53 + 1, '{"$int":"9007199254740993"}'),
        (-(2**60), '{"$int":"-1152921504606846976"}'),
        (1.5, "1.5"),
        (math.inf, '{"$float":"inf"}'),
        (-math.inf, '{"$float":"-inf"}'),
        (1 + 2j, '{"$complex":[1.0,2.0]}'),
        ("č", '"č"'),
        (b"\x00\xff", '{"$bytes":"AP8="}'),
        (bytearray(b"\x00"), '{"$bytearray":"AA=="}'),
        ([1, [2]], "[1,[2]]"),
        ((1, (2,)), '{"$tuple":[1,{"$tuple":[2]}]}'),
        ({1}, '{"$set":[1]}'),
        (frozenset({1}), '{"$frozenset":[1]}'),
        ({"a": 1, "$b": 2}, '{"a":1,"$b":2}'),
        ({"$bytes": 2}, '{"$dict":[["$bytes",2]]}'),
        ({1: "a"}, '{"$dict":[[1,"a"]]}'),
        ({}, "{}"),
        (decimal.Decimal("1.50"), '{"$decimal":"1.50"}'),
        (uuid.UUID(int=1), '{"$uuid":"00000000-0000-0000-0000-000000000001"}'),
        (datetime.datetime(2024, 2, 3, 4), '{"$datetime":"2024-02-03T04:00:00"}'),
        (datetime.datetime(1, 2, 3, tzinfo=UTC), '{"$datetime":"0001-02-03T00:00:00+00:00"}'),
        (datetime.date(2024, 2, 3), '{"$date":"2024-02-03"}'),
        (datetime.time(4, 5, 6, 7), '{"$time":"04:05:06.000007"}'),
        (datetime.timedelta(-1, 2, 3), '{"$timedelta":[-1,2,3]}'),
    ],
    ids=str,
)  # fmt: skip
def test_how_values_are_written(value: object, written: str) -> None:
    data = JSON.dumps({"return": value})
    assert data.decode() == '{"return":' + written + "}"
    assert again(value) == value


def test_not_a_number() -> None:
    assert math.isnan(again(math.nan))
    assert again(decimal.Decimal("NaN")).is_nan()


def test_how_records_are_written() -> None:
    assert JSON.dumps(call_record("calc", "add", (2, 40), {"round": False}, REQ_ID)) == (
        b'{"command":"call","object":"calc","method":"add","args":[2,40],'
        b'"kwargs":{"round":false},"req_id":"000102030405060708090a0b0c0d0e0f"}'
    )
    assert JSON.dumps(error_record(REQ_ID, ZeroDivisionError("no"), "tb")) == (
        b'{"req_id":"000102030405060708090a0b0c0d0e0f","ok":false,"exception":'
        b'{"class":"builtins.ZeroDivisionError","args":["no"]},"exception_format":"tb"}'
    )


def test_time_zones_keep_the_instant() -> None:
    prague = zoneinfo.ZoneInfo("Europe/Prague")
    for fold in (0, 1):
        value = datetime.datetime(2024, 10, 27, 2, 30, fold=fold, tzinfo=prague)
        # Times of the hour that comes twice equal nothing in another zone.
        assert again(value).astimezone(UTC) == value.astimezone(UTC)
    with pytest.raises(ValueError, match="fold"):
        JSON.dumps({"return": datetime.datetime(2024, 1, 1, fold=1)})


def test_dates_of_javascript() -> None:
    data = b'{"return":{"$datetime":"2024-02-03T04:05:06.789Z"}}'
    expected = datetime.datetime(2024, 2, 3, 4, 5, 6, 789000, tzinfo=UTC)
    assert JSON.loads(data)["return"] == expected


class FarError(Exception):
    pass


class CodeError(Exception):
    def __init__(self, code: int) -> None:
        super().__init__(code)
        self.code = code


@pytest.mark.parametrize(
    "error", [ValueError("x", 1), KeyError((1, b"2")), NoMethodError("x"), PacketTooLarge(2, 1)]
)
def test_exceptions_that_everybody_knows(error: Exception) -> None:
    for read in (
        JSON.loads(JSON.dumps(error_record(REQ_ID, error, "")))["exception"],
        again(error),
        again([error])[0],
    ):
        assert type(read) is type(error)
        assert read.args == error.args


def test_exceptions_that_nobody_knows() -> None:
    error = FarError("why", {1: 2})
    for read in (
        JSON.loads(JSON.dumps(error_record(REQ_ID, error, "")))["exception"],
        JSON.loads_with_stand_ins(JSON.dumps(error_record(REQ_ID, error, "")))["exception"],
        again(error),
    ):
        assert isinstance(read, RemoteError)
        assert read.class_name == f"{__name__}.FarError"
        assert read.args == ("why", {1: 2})
        # On to the next peer it goes by the name that it has.
        twice = again(read)
        assert (twice.class_name, twice.args) == (read.class_name, read.args)


def test_registered_exceptions() -> None:
    serializer = Json([FarError])
    assert serializer.register_type(CodeError) is CodeError
    for error in (FarError("x"), CodeError(5)):
        read = serializer.loads(serializer.dumps(error_record(REQ_ID, error, "")))["exception"]
        assert type(read) is type(error)
        assert read.args == error.args
    assert "FarError" in repr(serializer)
    for wrong in (int, dict, len, "x"):
        with pytest.raises(TypeError, match="neither"):
            serializer.register_type(wrong)  # type: ignore[type-var, arg-type]


def test_an_exception_with_other_arguments_than_its_class_takes() -> None:
    data = b'{"exception":{"class":"builtins.UnicodeDecodeError","args":["few"]}}'
    read = JSON.loads(data)["exception"]
    assert isinstance(read, RemoteError)
    assert (read.class_name, read.args) == ("builtins.UnicodeDecodeError", ("few",))


def test_other_languages_may_send_a_text() -> None:
    assert JSON.loads(b'{"exception":"it broke"}') == {"exception": "it broke"}
    assert JSON.loads(b'{"exception":{"class":"NoModule"}}')["exception"].class_name == ".NoModule"


@pytest.mark.parametrize(
    ("value", "why"),
    [
        (object(), "a builtins.object has no form in JSON"),
        (len, "builtin_function_or_method has no form"),
        ({1: object()}, "no form"),
        ([ValueError(object())], "no form"),
        (float, "a builtins.type has no form"),
        (10**5000, "more than 4300 digits"),
        ("\ud800", "surrogates"),
    ],
    ids=lambda part: part if isinstance(part, str) and part.isascii() else type(part).__name__,
)
def test_what_can_not_be_written(value: object, why: str) -> None:
    with pytest.raises((TypeError, ValueError), match=why):
        JSON.dumps({"return": value})


def test_a_request_identifier_is_bytes() -> None:
    with pytest.raises(TypeError, match="req_id is bytes, not str"):
        JSON.dumps({"req_id": "text"})


def nested(depth: int, kind: type) -> Any:
    value: Any = 1
    for _ in range(depth):
        value = {"a": value} if kind is dict else kind([value])
    return value


@pytest.mark.parametrize("kind", [list, tuple, frozenset, dict, ValueError])
def test_what_is_nested_too_deep_is_not_written(kind: type) -> None:
    written = []
    for depth in range(MAX_DEPTH + 1):
        with contextlib.suppress(ValueError):
            written.append(JSON.dumps({"return": nested(depth, kind)}))
    assert MAX_DEPTH // 5 < len(written) < MAX_DEPTH
    # What is written is always read.
    for data in written:
        JSON.loads(data)
    with pytest.raises(ValueError, match=f"nested deeper than {MAX_DEPTH} levels"):
        JSON.dumps({"return": nested(len(written), kind)})
    ring: list[Any] = []
    ring.append(ring)
    with pytest.raises(ValueError, match="nested deeper"):
        JSON.dumps({"return": ring})
    error = ValueError()
    error.args = (error,)
    with pytest.raises(ValueError, match="nested deeper"):
        JSON.dumps({"return": error})


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"", "no JSON"),
        (b"{", "no JSON"),
        (b"nonsense", "no JSON"),
        (b'{"a":1}{', "no JSON"),
        (b'{"a":NaN}', "NaN is no JSON"),
        (b'{"a":Infinity}', "Infinity is no JSON"),
        (b"\xff\xfe", "no JSON"),
        (pickle.dumps({"a": 1}), "looks like a pickle, and JSON is read here"),
        (b"[" * 100_000, "nested deeper"),
        (b"[" * 100_000 + b"]" * 100_000, "nested deeper"),
        (b'{"a":' * 100_000, "nested deeper"),
        (b'["\\"[' + b'","' * 1000 + b'"' + b",[" * 1000, "nested deeper"),
        (b'{"$tuple":[' * 5000, "nested deeper"),
        (b'{"a":' + b"9" * 5000 + b"}", "digit"),
        (b'{"a":{"$int":"' + b"9" * 5000 + b'"}}', "digit"),
        (b'{"a":{"$int":"x"}}', "no JSON as it is read here"),
        (b'{"a":{"$int":5}}', r"\$int is str, not int"),
        (b'{"a":{"$eval":"1"}}', r"'\$eval' is the name of no encoding"),
        (b'{"a":{"$bytes":"*"}}', "no JSON as it is read here"),
        (b'{"a":{"$bytes":[1]}}', r"\$bytes is str, not list"),
        (b'{"a":{"$tuple":"abc"}}', r"\$tuple is list, not str"),
        (b'{"a":{"$set":[[1]]}}', "unhashable"),
        (b'{"a":{"$dict":[[1,2,3]]}}', ANY),
        (b'{"a":{"$dict":[[[],2]]}}', "unhashable"),
        (b'{"a":{"$float":"1e5"}}', "nan, inf or -inf"),
        (b'{"a":{"$complex":[1]}}', ANY),
        (b'{"a":{"$complex":["1",2]}}', "a number, not str"),
        (b'{"a":{"$datetime":"yesterday"}}', ANY),
        (b'{"a":{"$timedelta":[1,2]}}', ANY),
        (b'{"a":{"$timedelta":[1,2,true]}}', "int, not bool"),
        (b'{"a":{"$timedelta":[99999999999,0,0]}}', ANY),
        (b'{"a":{"$decimal":"x"}}', ANY),
        (b'{"a":{"$uuid":"x"}}', ANY),
        (b'{"a":{"$exception":[]}}', r"\$exception is dict, not list"),
        (b'{"a":{"$exception":{"args":[]}}}', "the class of an exception is str"),
        (b'{"a":{"$exception":{"class":"ValueError","args":"abc"}}}', "are an array"),
        (b'{"a":{"$exception":{"class":"a\\u0000b","args":[]}}}', ANY),
        (b'{"req_id":5}', "req_id is str, not int"),
        (b'{"req_id":"xy"}', ANY),
    ],
    ids=lambda part: part[:40] if isinstance(part, bytes) else "",
)
def test_what_can_not_be_read(data: bytes, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        JSON.loads(data)


@pytest.mark.parametrize("form", ['{"$set":%s}', '{"$frozenset":%s}'])
def test_members_with_the_same_hash_are_refused(form: str) -> None:
    numbers = [{"$int": str(number * (2**61 - 1))} for number in range(1, 600)]
    with pytest.raises(ValueError, match="the hash of another one"):
        JSON.loads((form % json.dumps(numbers)).encode())
    pairs = [[number, None] for number in numbers]
    with pytest.raises(ValueError, match="the hash of another one"):
        JSON.loads(json.dumps({"$dict": pairs}).encode())


def test_much_is_read_if_it_is_not_deep() -> None:
    value = [{"name": 'a "quoted" [name]', "items": [1, 2]} for _ in range(1000)]
    assert again(value) == value


def test_no_class_is_found_by_a_path() -> None:
    for name in ("os.system", "builtins.eval", "builtins.int", "snakemq.rpc.RpcServer", ".x", ""):
        data = json.dumps({"exception": {"class": name, "args": ["x"]}}).encode()
        read = JSON.loads(data)["exception"]
        assert isinstance(read, RemoteError)
    assert issubclass(type(read), SnakeMQException)


GOOD = JSON.dumps(call_record("o", "m", (b"x", {1: (2,)}, {3}), {"k": [1.5, None]}, REQ_ID))


@given(st.data())
def test_damaged(data: st.DataObject) -> None:
    damaged = bytearray(GOOD)
    for _ in range(data.draw(st.integers(1, 4))):
        position = data.draw(st.integers(0, len(damaged) - 1))
        damaged[position : position + data.draw(st.integers(0, 2))] = data.draw(
            st.binary(max_size=2) | st.sampled_from([b"[", b"{", b'"', b"\\", b"$", b"}", b"]"])
        )
        damaged = damaged or bytearray(b"[")
    with contextlib.suppress(ValueError):
        JSON.loads(bytes(damaged))


def test_it_says_that_it_is_safe() -> None:
    assert JSON.is_safe is True


def documented() -> list[str]:
    """The examples of the specification."""
    path = Path(__file__).resolve().parents[2] / "docs" / "reference" / "protocol.rst"
    _, _, section = path.read_text("utf-8").partition("\nRemote calls in JSON\n")
    section, _, _ = section.partition("\nA peer in one page\n")
    found = re.findall(r"^\.\. code-block:: json\n\n((?:   .*\n)+)", section, re.MULTILINE)
    return [json.dumps(json.loads(text), separators=(",", ":")) for text in found]


def test_the_examples_of_the_specification() -> None:
    records: list[Any] = [
        call_record("calc", "add", (2, 40), {}, REQ_ID),
        value_record(REQ_ID, 42),
        error_record(REQ_ID, ZeroDivisionError("division by zero"), "Traceback\n"),
        signal_record("calc", "note", ("tea",), {"loud": True}),
        [
            b"\x00\xff", bytearray(), (1, ()), {1}, frozenset("a"), {1: "one"}, {"$bytes": 5},
            2**53 + 1, -math.inf, 0.5 - 1j, decimal.Decimal("1.50"),
            uuid.UUID("6ba7b810-9dad-11d1-80b4-00c04fd430c8"),
            datetime.datetime(
                2024, 5, 17, 8, 30, tzinfo=datetime.timezone(datetime.timedelta(hours=2))
            ),
            datetime.date(2024, 5, 17), datetime.time(8, 30, 0, 250_000),
            datetime.timedelta(seconds=-1), KeyError("tea"),
        ],
    ]  # fmt: skip
    examples = documented()
    assert [JSON.dumps(record).decode() for record in records] == examples
    for record, text in zip(records, examples, strict=True):
        assert repr(JSON.loads(text.encode())) == repr(record)


def test_every_encoding_is_documented_by_an_example() -> None:
    text = "".join(documented())
    assert all(f'"{name}"' in text for name in _DECODERS)
