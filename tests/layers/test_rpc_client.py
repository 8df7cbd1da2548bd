"""The client's side of remote calls, with a messaging layer that the test drives."""

from __future__ import annotations

import copy
import gc
import itertools
import logging
import os
import pickle
import signal
import subprocess
import sys
import threading
import traceback
import weakref
from collections.abc import Iterator
from typing import Any

import pytest

from snakemq._core.rpc_records import Code, error_record, value_record
from snakemq.exceptions import QueueFull
from snakemq.message import Message
from snakemq.rpc import (
    REMOTE_TRACEBACK_ATTR,
    REPLY_PREFIX,
    REQUEST_PREFIX,
    CallError,
    ClientClosed,
    Error,
    NotConnected,
    PartialCall,
    RemoteError,
    RemoteMethod,
    RpcInstProxy,
    ServerClosing,
    UnreadableReply,
    Unserializable,
    WouldDeadlock,
)
from snakemq.rpc._outgoing_call import BlockingCall
from tests.helpers import DEADLINE, wait_until
from tests.layers.rpc_fakes import FakeMessaging, InThread, Side, request


@pytest.fixture
def side() -> Iterator[Side]:
    side = Side()
    yield side
    side.client.close()


# What is sent and what comes back.


def test_a_call_sends_a_request_and_returns_what_the_reply_says(side: Side) -> None:
    side.connect()
    call = InThread(side.proxy.read, "kitchen", 2, unit="C")
    (record,) = side.requests(1)
    req_id = record["req_id"]
    assert list(record.items()) == [
        ("command", "call"),
        ("object", "obj"),
        ("method", "read"),
        ("args", ("kitchen", 2)),
        ("kwargs", {"unit": "C"}),
        ("req_id", req_id),
        ("window", 64),
    ]
    assert type(req_id) is bytes
    assert len(req_id) == 16
    (sent,) = side.messaging.sent
    assert (sent.ident, sent.message.ttl, sent.message.flags) == ("bob", 0, 0)
    assert call.running
    side.reply(value_record(req_id, [21.5]))
    assert call.result() == [21.5]
    side.disconnect()
    assert side.is_clean()


def test_a_signal_has_no_req_id_carries_its_ttl_and_does_not_wait(side: Side) -> None:
    side.proxy.note.as_signal(10)
    assert side.proxy.note("x", y=1) is None
    (sent,) = side.messaging.sent
    assert (sent.ident, sent.message.ttl) == ("bob", 10)
    assert list(request(sent).items()) == [
        ("command", "signal"),
        ("object", "obj"),
        ("method", "note"),
        ("args", ("x",)),
        ("kwargs", {"y": 1}),
    ]
    assert side.is_clean()


@pytest.mark.parametrize(("timeout", "ttl"), [(0, 0), (2.5, 2.5), (float("inf"), None)])
def test_the_ttl_of_a_signal(side: Side, timeout: float, ttl: float | None) -> None:
    side.proxy.note.as_signal(timeout)
    side.proxy.note()
    assert side.messaging.sent[0].message.ttl == ttl


def test_as_signal_without_an_argument_means_ttl_0(side: Side) -> None:
    side.proxy.note.as_signal()
    side.proxy.note()
    assert side.messaging.sent[0].message.ttl == 0


def test_as_signal_none_makes_it_a_call_again(side: Side) -> None:
    side.connect()
    side.proxy.note.as_signal(10)
    side.proxy.note.as_signal(None)
    call = InThread(side.proxy.note)
    (record,) = side.requests(1)
    assert record["command"] == "call"
    side.reply(value_record(record["req_id"], "yes"))
    assert call.result() == "yes"


def test_any_keyword_can_be_an_argument(side: Side) -> None:
    side.proxy.note.as_signal(10)
    side.proxy.note(self=1, args=2, timeout=3, name=4)
    assert request(side.messaging.sent[0])["kwargs"] == {
        "self": 1,
        "args": 2,
        "timeout": 3,
        "name": 4,
    }


def test_request_ids_differ(side: Side) -> None:
    side.connect()
    calls = [InThread(side.proxy.read) for _ in range(20)]
    ids = {record["req_id"] for record in side.requests(20)}
    assert len(ids) == 20
    for req_id in ids:
        side.reply(value_record(req_id, None))
    for call in calls:
        assert call.result() is None


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
def test_the_child_of_a_fork_has_request_ids_of_its_own() -> None:
    code = (
        "import os\n"
        "from snakemq.rpc.request_ids import request_ids\n"
        "if child := os.fork():\n"
        "    os.waitpid(child, 0)\n"
        "print(request_ids.next().hex(), flush=True)\n"
    )
    output = subprocess.run(
        [sys.executable, "-c", code],
        stdout=subprocess.PIPE,
        timeout=DEADLINE * 2,
        check=True,
        text=True,
    ).stdout
    of_child, of_parent = map(bytes.fromhex, output.split())
    assert (len(of_child), len(of_parent)) == (16, 16)
    assert of_child[:8] != of_parent[:8]


def test_replies_find_their_calls_in_any_order(side: Side) -> None:
    side.connect()
    calls = {}
    for number in range(10):
        calls[number] = InThread(side.proxy.square, number)
    for record in reversed(side.requests(10)):
        side.reply(value_record(record["req_id"], record["args"][0] ** 2))
    for number, call in calls.items():
        assert call.result() == number**2


def test_a_pickler_of_ones_own() -> None:
    class Marked:
        PickleError = pickle.PickleError

        def dumps(self, obj: Any) -> bytes:
            return b"mark" + pickle.dumps(obj)

        def loads(self, data: bytes) -> Any:
            assert data.startswith(b"mark")
            return pickle.loads(data[4:])

    side = Side(pickler=Marked())
    side.connect()
    call = InThread(side.proxy.read)
    (sent,) = side.messaging.wait_sent(1)
    record = pickle.loads(sent.message.data[len(REQUEST_PREFIX) + 4 :])
    reply = pickle.dumps(value_record(record["req_id"], 5))
    side.hook.deliver("bob", REPLY_PREFIX + b"mark" + reply)
    assert call.result() == 5
    side.client.close()


def test_arguments_that_can_not_be_sent_are_the_callers_error(side: Side) -> None:
    side.connect()
    with pytest.raises(Unserializable, match="pickle"):
        side.proxy.read(threading.Lock())
    side.proxy.read.as_signal(10)
    with pytest.raises(Unserializable, match="pickle"):
        side.proxy.read(threading.Lock())
    assert not side.messaging.sent
    assert side.waits(0)


def test_a_message_that_can_not_be_sent_is_the_callers_error(side: Side) -> None:
    side.connect()
    side.messaging.failure = OverflowError("too large")
    with pytest.raises(OverflowError, match="too large"):
        side.proxy.read()
    assert side.waits(0)


def test_a_request_for_which_there_is_no_room_is_the_callers_error(side: Side) -> None:
    side.connect()
    side.messaging.failure = QueueFull("no room")
    with pytest.raises(QueueFull):
        side.proxy.read()
    side.proxy.read.as_signal(10)
    with pytest.raises(QueueFull):
        side.proxy.read()
    assert side.waits(0)


def test_a_request_stays_in_line(side: Side) -> None:
    """What was sent before it may be meant to be there first."""
    side.connect()
    call = InThread(side.proxy.read)
    side.reply(value_record(side.requests(1)[0]["req_id"], 1))
    assert call.result() == 1
    assert side.messaging.urgent == [False]


# Peers come and go.


def test_a_call_waits_for_the_peer(side: Side) -> None:
    call = InThread(side.proxy.read)
    wait_until(lambda: side.waits(1))
    side.connect("somebody else", "0")
    assert not side.messaging.sent
    side.connect()
    (record,) = side.requests(1)
    side.reply(value_record(record["req_id"], "late"))
    assert call.result() == "late"


def test_a_call_is_repeated_after_a_reconnect_with_the_same_req_id(side: Side) -> None:
    side.connect()
    call = InThread(side.proxy.read, 1)
    first = side.requests(1)[0]
    side.disconnect()
    side.connect(conn_id="2")
    again = side.requests(2)[1]
    assert again == first
    # Another message: messaging may take the same one for a retransmission.
    assert side.messaging.sent[0].message.uuid != side.messaging.sent[1].message.uuid
    side.reply(value_record(first["req_id"], "answer"))
    assert call.result() == "answer"
    side.reply(value_record(first["req_id"], "answer to the repetition"))
    side.disconnect(conn_id="2")
    assert side.is_clean()


def test_what_is_answered_is_not_repeated(side: Side) -> None:
    side.connect()
    call = InThread(side.proxy.read)
    side.reply(value_record(side.requests(1)[0]["req_id"], 1))
    assert call.result() == 1
    side.disconnect()
    side.connect(conn_id="2")
    assert len(side.messaging.sent) == 1


def test_peers_that_were_connected_before_the_client_was_made() -> None:
    side = Side(FakeMessaging(connected=("bob", "carol")))
    call = InThread(side.proxy.read)
    wait_until(lambda: side.waits(1))
    assert not side.messaging.sent
    side.messaging.run_soon()
    (record,) = side.requests(1)
    side.reply(value_record(record["req_id"], 1))
    assert call.result() == 1
    side.disconnect(conn_id="any")
    side.disconnect("carol", conn_id="other")
    assert side.is_clean()
    side.client.close()


def test_a_peer_that_connects_meanwhile_gets_the_request_once() -> None:
    side = Side(FakeMessaging(connected=("bob",)))
    call = InThread(side.proxy.read)
    wait_until(lambda: side.waits(1))
    side.connect()
    side.messaging.run_soon()
    (record,) = side.requests(1)
    side.reply(value_record(record["req_id"], 1))
    assert call.result() == 1
    side.client.close()


def test_the_end_of_a_replaced_connection_is_not_the_end_of_the_new_one(side: Side) -> None:
    side.connect(conn_id="1")
    side.connect(conn_id="2")
    side.disconnect(conn_id="1")
    call = InThread(side.proxy.read)
    (record,) = side.requests(1)
    side.reply(value_record(record["req_id"], 1))
    assert call.result() == 1
    side.disconnect(conn_id="2")
    assert side.is_clean()


def test_a_request_that_can_not_be_repeated_fails_its_call_only(
    side: Side, caplog: pytest.LogCaptureFixture
) -> None:
    call = InThread(side.proxy.read)
    wait_until(lambda: side.waits(1))
    side.messaging.failure = OverflowError("too large")
    with caplog.at_level(logging.CRITICAL):
        side.connect()
    error = call.error()
    assert isinstance(error, OverflowError)
    assert side.waits(0)
    side.messaging.failure = None
    call = InThread(side.proxy.read)
    side.reply(value_record(side.requests(1)[0]["req_id"], 1))
    assert call.result() == 1


def test_a_call_that_a_server_does_not_take_because_it_ends_waits_for_the_next_one(
    side: Side,
) -> None:
    side.connect()
    call = InThread(side.proxy.read)
    first = side.requests(1)[0]
    side.reply(error_record(first["req_id"], "about to end", "", code=Code.CLOSING))
    assert side.waits(1)
    assert call.running
    side.disconnect()
    side.connect(conn_id="2")
    assert side.requests(2)[1] == first
    side.reply(value_record(first["req_id"], "of the next one"))
    assert call.result() == "of the next one"
    assert side.client.late_replies == 0


def test_a_call_that_no_server_has_taken_has_not_run(side: Side) -> None:
    side.connect()
    closing, gone, before = (side.proxy.read.with_options(timeout=5).future() for _ in range(3))
    for call in (closing, gone):
        side.reply(error_record(call.req_id, "about to end", "", code=Code.CLOSING))
    assert closing.cancel()
    assert not side.records("cancel")
    last = side.proxy.read.with_options(timeout=3).future()
    side.reply(error_record(last.req_id, "about to end", "", code=Code.CLOSING))
    side.messaging.advance(3)
    assert isinstance(last.exception(0), ServerClosing)
    side.disconnect()
    side.connect(conn_id="2")
    # What another server may have taken may have run, whatever this one says.
    side.reply(error_record(before.req_id, "about to end", "", code=Code.CLOSING))
    side.reply(error_record(gone.req_id, "about to end", "", code=Code.CLOSING))
    side.disconnect(conn_id="2")
    side.messaging.advance(5)
    errors = [call.exception(0) for call in (gone, before)]
    assert [(type(error), error.request_sent) for error in errors] == [
        (NotConnected, False),
        (NotConnected, True),
    ]
    assert side.is_clean()


def test_who_does_not_wait_for_the_peer_is_told_that_it_is_about_to_end(side: Side) -> None:
    side.connect()
    call = InThread(side.proxy.read.with_options(wait_for_peer=False))
    req_id = side.requests(1)[0]["req_id"]
    side.reply(error_record(req_id, "about to end", "", code=Code.CLOSING))
    error = call.error()
    assert isinstance(error, ServerClosing)
    assert str(error) == "about to end"
    assert side.waits(0)


# Timeouts.


def test_timeout_without_a_connection(side: Side) -> None:
    side.proxy.read.set_timeout(0.01)
    with pytest.raises(NotConnected, match=r"^'bob' is not connected$") as info:
        side.proxy.read()
    assert isinstance(info.value, CallError)
    assert not info.value.request_sent
    assert side.is_clean()


def test_timeout_without_a_reply(side: Side) -> None:
    side.connect()
    side.proxy.read.set_timeout(0.01)
    with pytest.raises(PartialCall, match="did not answer in time"):
        side.proxy.read()
    side.disconnect()
    assert side.is_clean()


def test_timeout_after_the_connection_is_lost(side: Side, monkeypatch: pytest.MonkeyPatch) -> None:
    # When the time is over is up to the test.
    over = threading.Event()
    monkeypatch.setattr(
        "snakemq.rpc._outgoing_call.BlockingCall.wait",
        lambda call, timeout: not over.wait(DEADLINE),
    )
    side.connect()
    side.proxy.read.set_timeout(1)
    call = InThread(side.proxy.read)
    side.requests(1)
    side.disconnect()
    over.set()
    error = call.error()
    assert isinstance(error, NotConnected)
    assert error.request_sent
    assert "not connected any more" in str(error)
    assert side.is_clean()


def test_a_reply_at_the_moment_of_the_timeout_counts(
    side: Side, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = BlockingCall.wait
    replied = threading.Event()

    def wait(call: BlockingCall, timeout: float | None) -> bool:
        if timeout is None:
            return original(call, None)
        assert replied.wait(DEADLINE)
        return False

    monkeypatch.setattr(BlockingCall, "wait", wait)
    side.connect()
    side.proxy.read.set_timeout(1)
    call = InThread(side.proxy.read)
    side.reply(value_record(side.requests(1)[0]["req_id"], "just in time"))
    replied.set()
    assert call.result() == "just in time"


def test_a_timeout_of_0_does_not_wait(side: Side) -> None:
    side.proxy.read.set_timeout(0)
    with pytest.raises(NotConnected):
        side.proxy.read()
    side.connect()
    with pytest.raises(PartialCall):
        side.proxy.read()
    assert side.waits(0)


def test_the_timeout_is_for_the_whole_call_with_its_repetitions(side: Side) -> None:
    side.proxy.read.set_timeout(0.1)
    call = InThread(side.proxy.read)
    for connection in itertools.count():
        side.connect(conn_id=str(connection))
        side.disconnect(conn_id=str(connection))
        if not call.running:
            break
    # Whichever of the two it was at that moment.
    assert isinstance(call.error(), (NotConnected, PartialCall))


@pytest.mark.parametrize("timeout", [-1, float("nan")])
def test_a_timeout_that_makes_no_sense(side: Side, timeout: float) -> None:
    side.proxy.read.set_timeout(timeout)
    with pytest.raises(ValueError, match="a timeout is None or at least 0 seconds"):
        side.proxy.read()


@pytest.mark.parametrize("timeout", [1e12, float("inf")])
def test_a_timeout_longer_than_any_clock(side: Side, timeout: float) -> None:
    side.connect()
    side.proxy.read.set_timeout(timeout)
    call = InThread(side.proxy.read)
    side.reply(value_record(side.requests(1)[0]["req_id"], 1))
    assert call.result() == 1


def test_a_wait_in_slices_is_as_long_as_it_should_be(
    side: Side, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("snakemq.rpc._outgoing_call.longest_wait", lambda: 0.001)
    side.proxy.read.set_timeout(0.02)
    with pytest.raises(NotConnected):
        side.proxy.read()
    side.connect()
    side.proxy.read.set_timeout(None)
    call = InThread(side.proxy.read)
    side.reply(value_record(side.requests(1)[0]["req_id"], 1))
    assert call.result() == 1


def test_others_can_call_while_one_is_handing_its_request_to_the_system(
    side: Side, monkeypatch: pytest.MonkeyPatch
) -> None:
    side.connect()
    is_sending = threading.Event()
    may_go_on = threading.Event()

    def release(ident: str) -> None:
        if not is_sending.is_set():
            is_sending.set()
            assert may_go_on.wait(DEADLINE)

    monkeypatch.setattr(side.messaging, "release", release)
    first = InThread(side.proxy.read)
    assert is_sending.wait(DEADLINE)
    second = InThread(side.proxy.read)
    for value, sent in enumerate(side.requests(2)):
        side.reply(value_record(sent["req_id"], value))
    assert second.result() == 1
    may_go_on.set()
    assert first.result() == 0


def test_a_result_after_the_timeout_is_dropped_and_leaves_nothing(side: Side) -> None:
    side.connect()
    side.proxy.read.set_timeout(0)
    with pytest.raises(PartialCall):
        side.proxy.read()
    side.reply(value_record(side.requests(1)[0]["req_id"], "late"))
    side.disconnect()
    assert side.is_clean()


@pytest.mark.skipif(not hasattr(signal, "pthread_kill"), reason="no signals to threads here")
def test_ctrl_c_while_waiting_leaves_nothing(side: Side) -> None:
    main = threading.main_thread()

    def interrupt() -> None:
        wait_until(lambda: side.waits(1))
        assert main.ident is not None
        signal.pthread_kill(main.ident, signal.SIGINT)

    interrupter = InThread(interrupt)
    with pytest.raises(KeyboardInterrupt):
        side.proxy.read()
    interrupter.result()
    assert side.is_clean()


# Exceptions of the other side.


def test_a_remote_exception_is_raised_with_its_traceback(side: Side) -> None:
    side.connect()
    call = InThread(side.proxy.read)
    req_id = side.requests(1)[0]["req_id"]
    side.reply(error_record(req_id, KeyError("kitchen"), "Traceback ...\n  remote line\n"))
    error = call.error()
    assert type(error) is KeyError
    assert error.args == ("kitchen",)
    assert error.__remote_traceback__ == "Traceback ...\n  remote line\n"  # type: ignore[attr-defined]
    assert REMOTE_TRACEBACK_ATTR == "__remote_traceback__"


def test_the_remote_traceback_is_printed_with_the_exception(side: Side) -> None:
    side.connect()
    call = InThread(side.proxy.read)
    reply = error_record(
        side.requests(1)[0]["req_id"], KeyError("kitchen"), "Traceback ...\n  line\n"
    )
    side.reply(reply)
    error = call.error()
    text = "".join(traceback.format_exception(type(error), error, error.__traceback__))
    assert "Remote traceback (bob):\nTraceback ...\n  line" in text


@pytest.mark.skipif(sys.version_info < (3, 11), reason="notes came with Python 3.11")
def test_the_notes_of_an_exception_are_kept_when_the_exception_is_printed(side: Side) -> None:
    side.connect()
    call = InThread(side.proxy.read)
    exc = KeyError("kitchen")
    exc.add_note("written there")
    exc.add_note("Remote traceback (carol):\nof a call that it made itself")
    side.reply(error_record(side.requests(1)[0]["req_id"], exc, "Traceback ...\n  line\n"))
    notes = call.error().__notes__  # type: ignore[attr-defined]
    assert notes == ["written there", "Remote traceback (bob):\nTraceback ...\n  line"]


def test_without_a_remote_traceback_there_is_an_empty_one_and_no_note(side: Side) -> None:
    side.connect()
    call = InThread(side.proxy.read)
    side.reply(error_record(side.requests(1)[0]["req_id"], KeyError(), ""))
    error = call.error()
    assert error.__remote_traceback__ == ""  # type: ignore[attr-defined]
    assert not hasattr(error, "__notes__")


def test_a_remote_exception_is_chained_to_the_one_that_is_handled(side: Side) -> None:
    side.connect()

    def call() -> None:
        try:
            raise ValueError("here")
        except ValueError:
            side.proxy.read()

    calling = InThread(call)
    side.reply(error_record(side.requests(1)[0]["req_id"], KeyError("there"), ""))
    error = calling.error()
    assert type(error) is KeyError
    assert type(error.__context__) is ValueError


class SealedError(Exception):
    def __setattr__(self, name: str, value: object) -> None:
        raise TypeError("sealed")


def test_an_exception_whose_attributes_can_not_be_set() -> None:
    side = Side(pickler=pickle)
    side.connect()
    call = InThread(side.proxy.read)
    side.reply(error_record(side.requests(1)[0]["req_id"], SealedError(5), "text"))
    error = call.error()
    assert isinstance(error, SealedError)
    assert error.__remote_traceback__ == "text"  # type: ignore[attr-defined]
    side.client.close()


class CodeError(Exception):
    def __init__(self, code: int) -> None:
        super().__init__(code)
        self.code = code


ABSENT_MODULE = "absent".ljust(len(__name__), "x")


@pytest.mark.parametrize(
    ("module", "name"), [(ABSENT_MODULE, "CodeError"), (__name__, "GoneError")]
)
def test_an_exception_whose_class_is_not_here(side: Side, module: str, name: str) -> None:
    side.connect()
    call = InThread(side.proxy.read)
    req_id = side.requests(1)[0]["req_id"]
    data = pickle.dumps(error_record(req_id, CodeError(5), "remote text"))
    data = data.replace(__name__.encode(), module.encode()).replace(b"CodeError", name.encode())
    side.hook.deliver("bob", REPLY_PREFIX + data)
    error = call.error()
    assert isinstance(error, RemoteError)
    assert error.class_name == f"{module}.{name}"
    assert (type(error).__module__, type(error).__name__) == (module, name)
    assert error.args == (5,)
    assert error.code == 5  # type: ignore[attr-defined]
    assert error.__remote_traceback__ == "remote text"  # type: ignore[attr-defined]


def test_a_stand_in_travels_on_as_what_every_peer_knows() -> None:
    class Gone(RemoteError):
        class_name = "mod.Gone"

    travelled = pickle.loads(pickle.dumps(Gone("x", 1)))
    assert type(travelled) is Error
    assert str(travelled) == "mod.Gone('x', 1)"
    assert type(pickle.loads(pickle.dumps(RemoteError("text")))) is Error


@pytest.mark.parametrize("exception", ["ValueError: text", SystemExit(3), None])
def test_what_is_no_exception_becomes_one(side: Side, exception: object) -> None:
    side.connect()
    call = InThread(side.proxy.read)
    side.reply(error_record(side.requests(1)[0]["req_id"], exception, "text"))
    error = call.error()
    assert type(error) is RemoteError
    assert str(error) == (exception if isinstance(exception, str) else repr(exception))
    assert error.__remote_traceback__ == "text"  # type: ignore[attr-defined]


def test_the_exception_handler_gets_it_and_the_call_returns_none(side: Side) -> None:
    side.connect()
    handled: list[tuple[Exception, threading.Thread]] = []
    side.client.exception_handler = lambda exc: handled.append((exc, threading.current_thread()))
    call = InThread(side.proxy.read)
    side.reply(error_record(side.requests(1)[0]["req_id"], KeyError("kitchen"), "text"))
    assert call.result() is None
    ((error, thread),) = handled
    assert type(error) is KeyError
    assert error.__remote_traceback__ == "text"  # type: ignore[attr-defined]
    assert thread is call._thread


def test_call_errors_pass_by_the_exception_handler(side: Side) -> None:
    handled: list[Exception] = []
    side.client.exception_handler = handled.append
    side.proxy.read.set_timeout(0)
    with pytest.raises(NotConnected):
        side.proxy.read()
    side.connect()
    with pytest.raises(PartialCall):
        side.proxy.read()
    assert not handled


def test_a_raised_exception_keeps_nothing_alive(side: Side) -> None:
    class Witness:
        pass

    side.connect()
    side.proxy.read.set_timeout(0)

    def fail(arg: object) -> None:
        with pytest.raises(PartialCall):
            side.proxy.read()
        call = InThread(side.client.call, "bob", "obj", "read")
        side.reply(error_record(side.requests(2)[1]["req_id"], KeyError(), ""))
        assert type(call.error()) is KeyError

    witness = Witness()
    gone = weakref.ref(witness)
    gc.disable()
    try:
        fail(witness)
        del witness
        assert gone() is None
    finally:
        gc.enable()


# What else may arrive.


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"garbage",
        pickle.dumps(None),
        pickle.dumps({}),
        pickle.dumps({"req_id": [], "ok": True, "return": 1}),
        pickle.dumps({"req_id": None, "ok": True, "return": 1}),
        pickle.dumps(value_record(b"nobody's", 1)),
        pickle.dumps(error_record(b"nobody's", ValueError(), "")),
        b"cabsent.mod\nAbsent\n.",
    ],
)
def test_a_reply_that_is_none_is_dropped(
    side: Side, caplog: pytest.LogCaptureFixture, payload: bytes
) -> None:
    side.connect()
    call = InThread(side.proxy.read)
    (record,) = side.requests(1)
    with caplog.at_level(logging.DEBUG, "snakemq.rpc.client"):
        side.hook.deliver("bob", REPLY_PREFIX + payload)
        side.hook.deliver("stranger", REPLY_PREFIX + payload)
    assert "reply" in caplog.text
    assert side.waits(1)
    side.reply(value_record(record["req_id"], "good"))
    assert call.result() == "good"


def test_a_reply_of_another_peer_is_dropped(side: Side) -> None:
    side.connect()
    side.connect("mallory", "2")
    call = InThread(side.proxy.read)
    (record,) = side.requests(1)
    side.reply(value_record(record["req_id"], "forged"), ident="mallory")
    side.reply(value_record(record["req_id"], "forged"), ident="unheard of")
    assert side.waits(1)
    side.reply(value_record(record["req_id"], "real"))
    assert call.result() == "real"


class Picky:
    """Is written, and not read again."""

    def __reduce__(self) -> Any:
        return int, ("this is no number",)


class Absent:
    pass


def test_a_result_that_can_not_be_read_ends_its_call_and_no_other(
    caplog: pytest.LogCaptureFixture,
) -> None:
    side = Side(pickler=pickle)
    side.connect()
    other = InThread(side.proxy.read, 1)
    other_id = side.requests(1)[0]["req_id"]
    call = InThread(side.proxy.read, 2)
    req_id = side.requests(2)[1]["req_id"]
    with caplog.at_level(logging.CRITICAL):
        side.reply(value_record(req_id, Picky()))
    error = call.error()
    assert isinstance(error, UnreadableReply)
    assert isinstance(error, CallError)
    assert "invalid literal for int" in str(error)
    side.reply(value_record(other_id, "fine"))
    assert other.result() == "fine"
    side.client.close()


def test_a_result_of_a_class_that_is_not_here(side: Side, caplog: pytest.LogCaptureFixture) -> None:
    side.connect()
    call = InThread(side.proxy.read)
    req_id = side.requests(1)[0]["req_id"]
    data = pickle.dumps(value_record(req_id, Absent()))
    with caplog.at_level(logging.CRITICAL):
        side.hook.deliver("bob", REPLY_PREFIX + data.replace(b"Absent", b"Abcent"))
    error = call.error()
    assert isinstance(error, UnreadableReply)
    assert "Abcent" in str(error)
    assert side.waits(0)


# The thread of the loop.


def test_a_call_from_a_callback_is_refused_instead_of_waiting_for_ever(side: Side) -> None:
    side.connect()
    side.messaging.inside_loop = True
    with pytest.raises(WouldDeadlock) as caught:
        side.proxy.read()
    assert isinstance(caught.value, RuntimeError)
    assert "obj.read of 'bob' was called in a callback" in str(caught.value)
    assert not side.messaging.sent
    assert side.waits(0)


def test_a_signal_from_a_callback_is_fine(side: Side) -> None:
    side.proxy.note.as_signal(10)
    side.messaging.inside_loop = True
    side.proxy.note()
    assert len(side.messaging.sent) == 1


# Closing.


def test_close_ends_waiting_calls_and_refuses_new_ones(side: Side) -> None:
    side.connect()
    calls = [InThread(side.proxy.read), InThread(side.client.get_proxy("nobody", "x").read)]
    wait_until(lambda: side.waits(2))
    side.client.close()
    for call in calls:
        error = call.error()
        assert isinstance(error, ClientClosed)
        assert isinstance(error, CallError)
    with pytest.raises(ClientClosed):
        side.proxy.read()
    side.proxy.note.as_signal(10)
    with pytest.raises(ClientClosed):
        side.proxy.note()
    assert side.is_clean()


def test_close_leaves_messaging_and_the_hook(side: Side) -> None:
    side.client.close()
    side.client.close()
    assert not side.hook.hooks
    assert not side.messaging.on_connect
    assert not side.messaging.on_disconnect
    side.messaging.run_soon()
    side.client.on_connect("1", "bob")  # was on its way
    assert side.is_clean()


# Proxies.


def test_a_proxy_has_one_object_for_each_method(side: Side) -> None:
    assert side.proxy.read is side.proxy.read
    assert side.proxy.read is not side.proxy.write
    assert isinstance(side.proxy.read, RemoteMethod)
    assert isinstance(side.proxy, RpcInstProxy)
    assert side.proxy.read is not side.client.get_proxy("bob", "obj").read


def test_many_threads_get_the_same_method_object(side: Side) -> None:
    barrier = threading.Barrier(8)

    def get() -> list[RemoteMethod]:
        barrier.wait(DEADLINE)
        return [getattr(side.proxy, f"m{number}") for number in range(200)]

    lists = [thread.result() for thread in [InThread(get) for _ in range(8)]]
    for methods in zip(*lists, strict=True):
        assert len(set(map(id, methods))) == 1


@pytest.mark.parametrize("name", ["__deepcopy__", "__len__", "__iter__", "__array__", "__x__"])
def test_what_python_asks_for_is_no_remote_method(side: Side, name: str) -> None:
    assert not hasattr(side.proxy, name)
    assert name not in vars(side.proxy)


def test_a_proxy_can_be_copied(side: Side) -> None:
    twin = copy.copy(side.proxy)
    assert isinstance(twin, RpcInstProxy)
    twin.note.as_signal(10)
    twin.note()
    assert len(side.messaging.sent) == 1


def test_a_clone_has_the_same_settings_and_is_independent(side: Side) -> None:
    method = side.proxy.read
    method.set_timeout(5)
    method.as_signal(6)
    clone = method.clone()
    assert clone is not method
    assert (clone.iproxy, clone.name) == (side.proxy, "read")
    assert (clone.call_timeout, clone.signal_timeout) == (5, 6)
    clone.set_timeout(None)
    clone.as_signal(None)
    assert (method.call_timeout, method.signal_timeout) == (5, 6)
    assert side.proxy.read is method


def test_a_new_method_is_a_call_without_a_timeout(side: Side) -> None:
    assert (side.proxy.read.call_timeout, side.proxy.read.signal_timeout) == (None, None)


def test_reprs_say_what_they_stand_for(side: Side) -> None:
    assert repr(side.proxy) == "<RpcInstProxy remote_ident='bob' name='obj'>"
    assert repr(side.proxy.read) == f"<RemoteMethod 'read' of {side.proxy!r}>"
    side.connect()
    assert repr(side.client) == "<RpcClient connected=1 waiting=0>"


def test_who_makes_one_call_after_the_other_sends_them_itself(side: Side) -> None:
    """And not the first one of many threads, while the others would wait for it."""
    side.connect()
    tries = []
    for together in (1, 1, 2, 1, 1):
        calls = [side.proxy.read.future() for _ in range(together)]
        for call in calls:
            side.reply(value_record(call.req_id, 5))
        assert [call.result(0) for call in calls] == [5] * together
        tries.append(side.messaging.shortcut.tries)
    assert tries == [1, 2, 3, 3, 4]


def test_debug_log_names_the_call(side: Side, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG, "snakemq.rpc.client"):
        proxy = side.client.get_proxy("bob", "obj")
        proxy.read.set_timeout(0)
        with pytest.raises(NotConnected):
            proxy.read()
        proxy.note.as_signal(0)
        proxy.note()
    assert "new proxy <RpcInstProxy remote_ident='bob' name='obj'>" in caplog.text
    assert "call ident=bob obj.read req_id=" in caplog.text
    assert "signal ident=bob obj.note" in caplog.text


@pytest.mark.parametrize(
    "error_class", [UnreadableReply, WouldDeadlock, ClientClosed], ids=lambda cls: cls.__name__
)
def test_errors_that_1_6_does_not_know_travel_as_one_that_it_does(
    error_class: type[CallError],
) -> None:
    travelled = pickle.loads(pickle.dumps(error_class("why")))
    assert type(travelled) is CallError
    assert str(travelled) == "why"


def test_a_finalizer_may_call_from_anywhere(side: Side) -> None:
    # The collector may run it while this very thread is inside the client.
    side.proxy.release.as_signal(10)
    method = side.proxy.read
    method.set_timeout(0)
    with side.client._outstanding.lock, pytest.raises(NotConnected):
        method()
    with side.client._outstanding.lock:
        side.proxy.release()
    assert len(side.messaging.sent) == 1


def test_the_payload_of_a_message_is_only_a_reply_with_the_prefix(side: Side) -> None:
    assert isinstance(Message(REPLY_PREFIX).data, bytes)
    assert REPLY_PREFIX == b"rpcrep"
    assert REPLY_PREFIX in side.hook.hooks
    assert REQUEST_PREFIX == b"rpcreq"


# Received in the thread that waits.


def receive_here(side: Side, data: bytes) -> bool:
    return side.client._receive_here("1", "bob", Message(REPLY_PREFIX + data))


def test_a_reply_that_can_not_be_read_is_left_to_the_loop(side: Side) -> None:
    assert not receive_here(side, b"nonsense")
    assert side.client.counters.as_dict()["replies_unreadable"] == 0


def test_what_a_signal_handler_raises_meanwhile_is_not_about_the_reply(side: Side) -> None:
    """Such as an alarm: it must reach the program, and not make the reply a wrong one."""
    side.connect()
    call = InThread(side.proxy.read)
    (record,) = side.requests(1)
    data = pickle.dumps(value_record(record["req_id"], 1))
    reader = side.client.pickler
    late = iter([True])

    class Alarm:
        def loads(self, data: bytes) -> Any:
            if next(late, False):
                raise TimeoutError("the alarm")
            return reader.loads(data)

    side.client.pickler = Alarm()  # type: ignore[assignment]
    with pytest.raises(TimeoutError, match="the alarm"):
        receive_here(side, data)
    assert call.running
    assert receive_here(side, data)
    assert call.result() == 1
