"""Who may call what: the table, the function, and what those learn who may not."""

from __future__ import annotations

import logging
import pickle
import threading
from collections.abc import Callable, Iterator
from typing import Any, TypeAlias

import pytest

from snakemq._core.rpc_parts import REQUEST_PARTS, encode_part
from snakemq._core.rpc_records import (
    REQUEST_PREFIX,
    Code,
    call_record,
    cancel_record,
    describe_record,
    more_record,
    signal_record,
)
from snakemq.message import Message
from snakemq.peer._early_requests import EarlyRequests
from snakemq.rpc import (
    JSON,
    AnswerLimits,
    CallError,
    CallRequest,
    NotAuthorized,
    Permissions,
    Refused,
    RpcServer,
    as_signal,
)
from snakemq.rpc._authorizer import unambiguous
from snakemq.rpc._peek import PEEKED, call_in
from snakemq.rpc.client import CLIENT_COUNTERS
from snakemq.rpc.errors import error_of
from snakemq.rpc.remote_traceback import describe
from snakemq.rpc.server import SERVER_COUNTERS
from tests.helpers import DEADLINE
from tests.layers.rpc_fakes import InThread
from tests.layers.test_rpc_server_calls import Side

REQ_ID = bytes(range(16))


def asked(name: str, ident: str = "alice") -> CallRequest:
    object_name, _, method = name.rpartition(".")
    return CallRequest(ident, "c1", object_name, method)


# The table.


def test_what_is_not_in_the_table_is_not_allowed() -> None:
    table = Permissions({"alice": ["math.*", "store.get"], "*": ["status"], "root": ["*"]})
    for name in ("math.add", "math.", "store.get", "status"):
        assert table(asked(name)), name
    for name in (
        "math", "mathe.add", "math.tables.sine", "store.set", "store", "store.get.it", "status.of",
        "a.status", "", ".", "*", "math*", "store.*", "Store.get",
    ):  # fmt: skip
        assert not table(asked(name)), name
    assert table(asked("status", "carol"))
    assert not table(asked("math.add", "carol"))
    assert not table(asked("math.add", "*"))
    assert not table(asked("math.add", ""))
    assert not table(asked("math.add", "Alice"))
    for name in ("math.add", "anything", "a.b.c.d", ""):
        assert table(asked(name, "root"))
    assert not Permissions()(asked("status"))
    assert not Permissions({"alice": []})(asked("status"))


def test_the_table_can_be_changed() -> None:
    table = Permissions()
    table.allow("alice", "math.add", "math.*")
    table.allow("*", "status")
    table.allow("alice", "math.add", "status")
    assert table.as_dict() == {"alice": ["math.*", "math.add", "status"], "*": ["status"]}
    assert repr(table) == f"<Permissions {table.as_dict()}>"
    table.revoke("alice", "math.*")
    assert table(asked("math.add"))
    assert not table(asked("math.sub"))
    table.revoke("alice", "math.add", "status")
    assert not table(asked("math.add"))
    assert table(asked("status")), "what everybody may, alice may"
    assert table.as_dict() == {"*": ["status"]}
    table.allow("alice", "a", "b")
    table.revoke("alice")
    assert table.as_dict() == {"*": ["status"]}


def test_what_was_not_allowed_can_not_be_revoked() -> None:
    """Whoever revokes 'math.add' and forgets 'math.*' has to hear of it."""
    table = Permissions({"alice": ["math.*", "status"]})
    for ident, names in (("alice", ("status", "math.add")), ("bob", ("status",)), ("bob", ())):
        with pytest.raises(KeyError, match="can't be revoked"):
            table.revoke(ident, *names)
    assert table.as_dict() == {"alice": ["math.*", "status"]}


@pytest.mark.parametrize(
    ("table", "error", "message"),
    [
        ({"alice": "math.*"}, TypeError, "what 'alice' may call is a list of names, not 'math"),
        ({"alice": 5}, TypeError, "is a list of names, not 5"),
        ({"alice": [5]}, TypeError, "given by a name, not int: 5"),
        ({5: ["a"]}, TypeError, "an identifier is a string, not int: 5"),
        ({"": ["a"]}, ValueError, "every peer is '\\*'"),
        ({"alice": [""]}, ValueError, "no empty parts, as '' has"),
        ({"alice": ["a..b"]}, ValueError, "no empty parts"),
        ({"alice": [".*"]}, ValueError, "no empty parts"),
        ({"alice": ["a."]}, ValueError, "no empty parts"),
        ({"alice": ["**"]}, ValueError, "a star stands alone"),
        ({"alice": ["*.add"]}, ValueError, "a star stands alone"),
        ({"alice": ["math.*.add"]}, ValueError, "a star stands alone"),
        ({"alice": ["ma*"]}, ValueError, "a star stands alone"),
        ({"alice": ["math._add"]}, ValueError, "is never served"),
        ({"alice": ["_math.*"]}, ValueError, "is never served"),
        (["alice"], TypeError, "a dictionary of identifiers and lists of names, not list"),
    ],
)
def test_a_table_that_can_not_be_one(table: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        Permissions(table)


def test_a_wrong_name_changes_nothing() -> None:
    table = Permissions({"alice": ["a"]})
    with pytest.raises(ValueError, match="a star stands alone"):
        table.allow("alice", "b", "c*")
    assert table.as_dict() == {"alice": ["a"]}


def test_a_request_is_frozen_and_knows_the_certificate() -> None:
    request = CallRequest("alice", "c1", "math", "add", True, lambda conn_id: {"of": conn_id})
    assert request.name == "math.add"
    assert request.certificate == {"of": "c1"}
    assert asked("add").certificate is None
    assert "certificate_of" not in repr(request)
    with pytest.raises(AttributeError):
        request.ident = "bob"  # type: ignore[misc]


# The server.


class Service:
    def __init__(self) -> None:
        self.calls: list[Any] = []

    def open(self, value: Any = None) -> Any:
        self.calls.append(value)
        return value

    def secret(self, value: Any = None) -> Any:
        self.calls.append(("secret", value))
        return value

    @as_signal
    def sign(self, value: Any) -> None:
        self.calls.append(value)

    def items(self) -> Iterator[int]:
        yield from range(1000)


Allowed: TypeAlias = Callable[..., tuple[Side, Service]]


@pytest.fixture
def allowed() -> Iterator[Allowed]:
    sides: list[Side] = []

    def make(**options: Any) -> tuple[Side, Service]:
        options.setdefault("authorize", {"alice": ["obj.open", "obj.sign", "obj.items"]})
        side = Side(**options)
        sides.append(side)
        service = Service()
        if options["authorize"] is not None:
            side.server.register_object(service, "obj")
        side.server.register_object(service, "hidden")
        side.server.register_function(service.secret, "obj.deep.function")
        return side, service

    yield make
    for side in sides:
        assert side.server.close(DEADLINE)


def refused(side: Side, number: int = 1) -> str:
    reply = side.reply(number)
    assert reply["ok"] is False
    assert reply["code"] == "not-authorized"
    error = error_of(reply["code"], reply["exception"])
    assert type(error) is NotAuthorized
    return str(error)


def test_calls(allowed: Allowed) -> None:
    side, service = allowed()
    side.send("open", 5)
    assert side.reply()["return"] == 5
    side.send("secret", 6)
    assert refused(side, 2) == "'me' does not allow 'alice' to call 'obj.secret'"
    side.send("open", 7, ident="bob")
    assert refused(side, 3) == "'me' does not allow 'bob' to call 'obj.open'"
    assert service.calls == [5]
    assert side.server.counters["calls_unauthorized"] == 2
    assert len(side.server.executions) == 1, "the first is kept until it is acknowledged"


def test_everybody_may_call_everything_by_default(allowed: Allowed) -> None:
    side, _ = allowed(authorize=None)
    side.send("note", 5, ident="anybody")
    assert side.reply()["return"] == 5
    side.deliver(describe_record(REQ_ID))
    assert len(side.reply(2)["return"]) == 3


def test_1_6_reads_it() -> None:
    """To it, it is a CallError, which it does not know, and says so; never a class of its own."""
    pickled = pickle.dumps(NotAuthorized("no"))
    assert b"NotAuthorized" not in pickled
    assert b"CallError" in pickled
    assert issubclass(NotAuthorized, Refused)
    assert issubclass(NotAuthorized, CallError)


def test_nobody_learns_what_there_is(allowed: Allowed) -> None:
    """What is there, what is not, and what is private: all of it reads the same."""
    side, _ = allowed()
    texts = []
    for number, (name, method) in enumerate(
        [("obj", "secret"), ("obj", "missing"), ("hidden", "open"), ("missing", "open"),
         ("obj", "_x"), ("_obj", "x"), ("", "secret"), ("obj.deep", "function")], 1
    ):  # fmt: skip
        side.deliver(call_record(name, method, (), {}, REQ_ID))
        full = f"{name}.{method}" if name else method
        texts.append(refused(side, number).replace(full, "NAME"))
    assert set(texts) == {"'me' does not allow 'alice' to call 'NAME'"}


def test_errors_do_not_name_what_may_not_be_called(allowed: Allowed) -> None:
    side, _ = allowed(authorize={"alice": ["hiddem.*", "obj.secre", "obj.deep.functio"]})
    for number, (name, method) in enumerate(
        [("hiddem", "open"), ("obj", "secre"), ("obj.deep", "functio")], 1
    ):
        side.deliver(call_record(name, method, (), {}, REQ_ID))
        text = str(side.reply(number)["exception"])
        assert "did you mean" not in text
        assert "'hidden'" not in text
        side.messaging.in_loop(side.server.executions.forget, side.server.executions.of("alice")[0])


def test_signals(allowed: Allowed, caplog: pytest.LogCaptureFixture) -> None:
    side, service = allowed()
    with caplog.at_level(logging.WARNING, "snakemq.rpc.server"):
        side.deliver(signal_record("obj", "secret", (1,), {}))
        side.deliver(signal_record("obj", "sign", (2,), {}))
        assert side.server.dispatcher.idle(DEADLINE)
    assert service.calls == [2]
    assert "ident='alice' may not call 'obj.secret'" in caplog.text
    assert not side.messaging.sent


def test_a_request_that_comes_again_is_judged_again(allowed: Allowed) -> None:
    table = Permissions({"alice": ["obj.*"]})
    side, service = allowed(authorize=table)
    req_id = side.send("open", 5)
    side.reply()
    table.revoke("alice")
    side.send("open", 5, req_id=req_id)
    refused(side, 2)
    table.allow("alice", "obj.open")
    side.send("open", 5, req_id=req_id)
    assert side.reply(3)["return"] == 5
    assert service.calls == [5]


def test_the_answer_to_a_call_is_for_the_one_who_made_it(allowed: Allowed) -> None:
    table = Permissions({"*": ["obj.open"]})
    side, service = allowed(authorize=table)
    req_id = side.send("open", 5)
    side.reply()
    side.send("open", "another", ident="mallory", req_id=req_id)
    assert side.reply(2)["return"] == "another"
    assert service.calls == [5, "another"]


def test_a_stream_ends_when_it_is_not_allowed_any_more(allowed: Allowed) -> None:
    table = Permissions({"alice": ["obj.items"]})
    side, _ = allowed(authorize=table)
    req_id = side.send("items", window=1)
    assert side.reply()["return"] == [0]
    table.revoke("alice")
    side.deliver(more_record(req_id, 1, 1))
    refused(side, 2)
    # Who cancels needs no permission.
    side.deliver(cancel_record(req_id))
    assert side.server.dispatcher.idle(DEADLINE)
    assert len(side.messaging.sent) == 2


def test_only_what_may_be_called_is_described(allowed: Allowed) -> None:
    side, _ = allowed(authorize={"alice": ["obj.open", "obj.deep.function"], "bob": ["hidden.*"]})
    side.deliver(describe_record(REQ_ID))
    described = side.reply()["return"]
    assert [
        (entry["name"], entry["kind"], [method["name"] for method in entry["methods"]])
        for entry in described
    ] == [
        ("obj", "object", ["open"]),
        ("obj.deep.function", "function", ["obj.deep.function"]),
    ]
    side.deliver(describe_record(REQ_ID), "carol")
    assert side.reply(2)["return"] == []
    assert side.server.counters["calls_unauthorized"] == 0


def test_no_name_means_two_things(allowed: Allowed) -> None:
    """'deep.function' of 'obj' is what is judged as 'obj.deep.*', and what is called then."""

    class Everything:
        def __getattr__(self, name: str) -> Any:
            return lambda: f"called {name}"

    side, _ = allowed(authorize={"alice": ["obj.deep.*", "any.thing.*"]})
    side.server.register_object(Everything(), "any")
    side.deliver(call_record("obj", "deep.function", (1,), {}, REQ_ID))
    assert side.reply()["return"] == 1
    side.deliver(call_record("", "obj.deep.function", (2,), {}, bytes(16)))
    assert side.reply(2)["return"] == 2
    side.deliver(call_record("any", "thing.x", (), {}, bytes(15) + b"x"))
    assert side.reply(3)["ok"] is False
    assert unambiguous("a", "b") == ("a", "b")
    assert unambiguous("", "b") == ("", "b")
    assert unambiguous("a", "b.c") == ("a.b", "c")
    assert unambiguous("", "b.c") == ("b", "c")


def test_an_object_that_is_no_string(allowed: Allowed) -> None:
    side, _ = allowed()
    side.deliver(call_record(5, "open", (), {}, REQ_ID))  # type: ignore[arg-type]
    assert side.reply()["code"] == Code.NO_INSTANCE.value
    side.deliver(signal_record(5, "open", (), {}))  # type: ignore[arg-type]
    assert side.server.dispatcher.idle(DEADLINE)


# A function of the program.


def test_a_function_is_asked_in_the_loop_before_anything_is_taken(allowed: Allowed) -> None:
    requests: list[tuple[CallRequest, int]] = []

    def authorize(request: CallRequest) -> bool:
        requests.append((request, threading.get_ident()))
        return request.method == "open"

    side, _ = allowed(authorize=authorize, max_workers=1, max_waiting=0)
    side.send("secret", 5)
    refused(side)
    assert side.server.dispatcher.running == side.server.dispatcher.waiting == 0
    assert len(side.server.executions) == 0
    side.deliver(signal_record("obj", "secret", (), {}))
    (call, thread), (signal, _) = requests
    assert (call.ident, call.conn_id, call.name, call.is_signal) == (
        "alice", "c1", "obj.secret", False,
    )  # fmt: skip
    assert thread == threading.get_ident()
    assert signal.is_signal
    assert call.certificate is None


def test_a_function_that_raises_refuses(allowed: Allowed, caplog: pytest.LogCaptureFixture) -> None:
    def authorize(request: CallRequest) -> bool:
        raise LookupError("the table is on fire")

    side, service = allowed(authorize=authorize)
    errors: list[tuple[str | None, Exception]] = []
    side.messaging.on_error.add(lambda conn_id, exc: errors.append((conn_id, exc)))
    side.send("open", 5)
    assert "fire" not in refused(side)
    assert service.calls == []
    side.messaging.run_soon()
    ((conn_id, error),) = errors
    assert conn_id == "c1"
    assert describe(error) == "LookupError('the table is on fire')"
    assert "authorize failed: refused" in caplog.text
    assert "Traceback" in caplog.text


async def _coroutine(request: CallRequest) -> bool:
    return True


@pytest.mark.parametrize("answer", [1, "yes", None, [True]])
def test_only_true_is_true(allowed: Allowed, answer: Any) -> None:
    side, service = allowed(authorize=lambda request: answer)
    side.send("open", 5)
    refused(side)
    assert service.calls == []


def test_a_coroutine_is_not_true(allowed: Allowed) -> None:
    side, service = allowed(authorize=_coroutine)
    errors: list[Exception] = []
    side.messaging.on_error.add(lambda conn_id, exc: errors.append(exc))
    side.send("open", 5)
    refused(side)
    assert service.calls == []
    side.messaging.run_soon()
    assert "has to return True or False, not coroutine" in str(errors[0])


@pytest.mark.parametrize("value", [5, "alice", ["math.*"], {"math.*"}])
def test_what_is_neither_a_table_nor_a_function(allowed: Allowed, value: Any) -> None:
    with pytest.raises(TypeError, match=r"authorize takes a snakemq\.rpc\.Permissions"):
        allowed(authorize=value)


def test_the_log_is_not_filled(allowed: Allowed, caplog: pytest.LogCaptureFixture) -> None:
    side, _ = allowed()
    with caplog.at_level(logging.WARNING, "snakemq.rpc.server"):
        for number in range(1000):
            side.deliver(
                call_record("obj", "x\n" * 5000, (), {}, number.to_bytes(16, "big")), "m\nallory"
            )
    assert side.server.counters["calls_unauthorized"] == 1000
    assert len(caplog.records) < 50
    assert all("\n" not in record.getMessage() for record in caplog.records)
    assert max(len(record.getMessage()) for record in caplog.records) < 400
    assert len(side.messaging.sent[0].message.data) < 1000


# Requests that are not read in the loop.


LARGE = bytes(100_000)


@pytest.mark.parametrize("protocol", range(2, pickle.HIGHEST_PROTOCOL + 1))
def test_a_large_request_is_refused_before_a_worker_reads_it(
    allowed: Allowed, protocol: int
) -> None:
    side, service = allowed(max_workers=1, max_waiting=0)
    record = call_record("obj", "secret", (LARGE,), {}, REQ_ID)
    message = Message(REQUEST_PREFIX + pickle.dumps(record, protocol))
    side.messaging.in_loop(side.server.on_recv, "c1", "alice", message)
    if protocol > 2:  # 2 writes bytes as a call, in which nobody finds an identifier
        assert "obj.secret" in refused(side)
    assert side.server.dispatcher.running == 0
    assert side.server.counters["calls_unauthorized"] == 1
    assert service.calls == []


@pytest.mark.parametrize("allows_signals", [True, False])
def test_whether_a_large_request_is_a_signal_is_known_from_its_beginning(
    allowed: Allowed, allows_signals: bool
) -> None:
    side, service = allowed(authorize=lambda request: request.is_signal is allows_signals)
    side.deliver(signal_record("obj", "sign", (LARGE,), {}))
    assert side.server.dispatcher.idle(DEADLINE)
    assert service.calls == [LARGE] * allows_signals
    side.deliver(call_record("obj", "open", (LARGE,), {}, REQ_ID))
    assert side.reply(1)["ok"] is not allows_signals
    assert side.server.counters["calls_unauthorized"] == 1


def test_a_large_request_that_is_written_in_another_order_is_judged_when_it_is_read(
    allowed: Allowed,
) -> None:
    side, service = allowed()
    record = call_record("obj", "secret", (LARGE,), {}, REQ_ID)
    side.deliver(dict(reversed(record.items())))
    assert "obj.secret" in refused(side)
    assert service.calls == []


def test_what_the_beginning_says_is_not_believed(allowed: Allowed) -> None:
    """A dictionary whose keys come twice: the last ones count."""
    side, service = allowed()
    good = pickle.dumps(call_record("obj", "open", (LARGE,), {}, REQ_ID), 4)
    bad = good[:-2] + b"\x8c\x06method\x8c\x06secretu."
    assert pickle.loads(bad)["method"] == "secret"
    message = Message(REQUEST_PREFIX + bad)
    assert call_in(message.data) == ("obj", "open", False)
    side.messaging.in_loop(side.server.on_recv, "c1", "alice", message)
    assert "obj.secret" in refused(side)
    assert service.calls == []


def test_of_a_request_in_parts_the_first_one_is_judged(allowed: Allowed) -> None:
    side, _ = allowed()
    record = REQUEST_PREFIX + pickle.dumps(call_record("obj", "secret", (LARGE,), {}, REQ_ID))
    half = len(record) // 2
    for offset in (0, half):
        part = encode_part(
            REQUEST_PARTS, bytes(16), offset, len(record), record[offset : offset + half]
        )
        side.hook.deliver("alice", part)
    assert side.server._parts.held_bytes == 0
    (sent,) = side.messaging.wait_sent(1)
    assert sent.message.data == REQUEST_PARTS.refusal + bytes(16) + (
        b"not-authorized: 'me' does not allow 'alice' to call 'obj.secret'"
    )
    assert side.server.counters.as_dict()["large_requests_refused"] == 1


def test_what_the_first_bytes_tell() -> None:
    for dumps in (pickle.dumps, JSON.dumps):
        for record in (
            call_record("math.deep", "add", (1,), {}, REQ_ID),
            call_record("", "add", (1,), {}, REQ_ID),
            signal_record("math", "add", (1,), {}),
        ):
            data = REQUEST_PREFIX + dumps(record)
            told = (record["object"], record["method"], record["command"] == "signal")
            assert call_in(data) == told
            for size in range(len(data)):
                assert call_in(data[:size]) in (None, told)
    by_hand = b"rpcreq\x80\x03}(" + b"".join(
        b"X" + bytes([len(text), 0, 0, 0]) + text
        for text in (b"command", b"call", b"object", b"calc", b"method", b"add", b"args")
    )
    assert call_in(by_hand) == ("calc", "add", False)
    for record in (cancel_record(REQ_ID), describe_record(REQ_ID), more_record(REQ_ID, 1, 1)):
        assert call_in(REQUEST_PREFIX + pickle.dumps(record)) is None
    for long in ("x" * 300, "x" * 2 * PEEKED):
        assert (
            call_in(REQUEST_PREFIX + pickle.dumps(call_record(long, "m", (), {}, REQ_ID))) is None
        )
    for junk in (b"", b"rpcreq", b"rpcreq\x80\x04", bytes(2000)):
        assert call_in(junk) is None
    broken = pickle.dumps(call_record("\xe4", "m", (), {}, REQ_ID)).replace(
        b"\xc3\xa4", b"\xff\xff"
    )
    assert call_in(REQUEST_PREFIX + broken) is None


def test_threads_change_the_table_while_it_is_asked() -> None:
    table = Permissions({"alice": ["status"]})

    def change(number: int) -> None:
        for _ in range(300):
            table.allow(f"peer {number}", "a", "b.*")
            table.revoke(f"peer {number}", "a")
            table.revoke(f"peer {number}")

    threads = [InThread(change, number) for number in range(4)]
    while any(thread.running for thread in threads):
        assert table(asked("status"))
    for thread in threads:
        thread.result()
    assert table.as_dict() == {"alice": ["status"]}


def test_the_server_is_not_made_if_the_table_is_wrong(allowed: Allowed) -> None:
    side, _ = allowed()
    before = list(side.messaging.on_connect.callbacks)
    with pytest.raises(ValueError, match="a star stands alone"):
        RpcServer(side.hook, authorize={"alice": ["m*"]})  # type: ignore[arg-type]
    assert side.messaging.on_connect.callbacks == before


# What is counted.


def test_each_limit_is_counted(monkeypatch: pytest.MonkeyPatch, allowed: Allowed) -> None:
    monkeypatch.setattr("snakemq.rpc._open_streams._MAX_ALL_STREAMS", 1)
    monkeypatch.setattr("snakemq.rpc._deferred._MAX_CANCELLED", 1)
    side, _ = allowed(
        authorize=None, max_workers=1, max_waiting_per_peer=0, answers=AnswerLimits(max_count=1)
    )
    for ident in ("alice", "bob"):
        side.send("items", 3, ident=ident, window=1)
        side.messaging.wait_sent({"alice": 1, "bob": 2}[ident])
        side.wait_idle()
    assert "so many streams" in str(side.reply(2)["exception"])
    for number in (3, 4):
        side.send("note", number)
        side.reply(number)
        side.wait_idle()
    side.send("hold")
    assert side.service.entered.acquire(timeout=DEADLINE)
    side.send("note", ident="bob")
    assert side.reply(5)["code"] == "busy"
    side.deliver(signal_record("obj", "note", (), {}))
    message = Message(REQUEST_PREFIX + b"\x80\x04rubbish")
    side.messaging.in_loop(side.server.on_recv, "c1", "alice", message)
    side.server._unread.begin("alice")
    for number in (b"1", b"2", b"2"):
        side.deliver(cancel_record(number))
    side.server._unread.end("alice")
    counts = {name: count for name, count in side.server.counters.as_dict().items() if count}
    assert counts == {
        "streams_refused": 1,
        "answers_forgotten": 2,
        "calls_busy": 1,
        "signals_dropped": 1,
        "requests_unreadable": 1,
        "cancellations_forgotten": 2,
    }
    assert set(side.server.counters.as_dict()) == set(SERVER_COUNTERS)
    side.service.gate.set()


def test_the_names_of_counters_are_different() -> None:
    names = [*SERVER_COUNTERS, *CLIENT_COUNTERS, *EarlyRequests().counters.as_dict()]
    assert len(names) == len(set(names))
