"""The server's side of remote calls, with a messaging layer that the test drives."""

from __future__ import annotations

import functools
import json
import logging
import pickle
import threading
import warnings
from collections.abc import Iterator
from typing import Any

import pytest

from snakemq._core.rpc_records import call_record, signal_record
from snakemq.exceptions import QueueFull
from snakemq.message import Message
from snakemq.rpc import (
    DEFAULT_MAX_PER_OBJECT,
    METHOD_RPC_AS_SIGNAL_ATTR,
    REPLY_PREFIX,
    REQUEST_PREFIX,
    CallError,
    Error,
    NoInstanceError,
    NoMethodError,
    RpcServer,
    SignalCallWarning,
    as_signal,
)
from tests.helpers import DEADLINE, wait_until
from tests.layers.rpc_fakes import FakeHook, FakeMessaging

REQ_ID = bytes(range(16))


class Unpicklable:
    def __getstate__(self) -> object:
        raise TypeError("not to be pickled")


class TwoArgumentsError(Exception):
    """Is pickled, and can't be unpickled: a common mistake."""

    def __init__(self, code: int, text: str) -> None:
        super().__init__(f"{code}: {text}")


class UnprintableError(Exception):
    def __init__(self) -> None:
        super().__init__(threading.Lock())

    def __repr__(self) -> str:
        raise ValueError("no repr")

    __str__ = __repr__


class Service:
    """What is served."""

    constant = 5

    def __init__(self) -> None:
        self.seen: list[Any] = []
        self.gate = threading.Event()
        self.entered = threading.Semaphore(0)

    def echo(self, *args: Any, **kwargs: Any) -> Any:
        return args, kwargs

    def thread(self) -> tuple[str, bool, int]:
        thread = threading.current_thread()
        return thread.name, thread.daemon, threading.get_ident()

    def hold(self, value: Any = None) -> Any:
        self.entered.release()
        assert self.gate.wait(DEADLINE)
        return value

    def note(self, value: Any) -> Any:
        self.seen.append(value)
        return "never sent for a signal"

    @as_signal
    def marked(self, value: Any) -> Any:
        self.seen.append(value)
        return value

    def throw(self, exc: BaseException) -> None:
        raise exc

    def throw_unpicklable(self) -> None:
        raise ValueError("the original message", Unpicklable())

    def throw_half_picklable(self) -> None:
        raise TwoArgumentsError(5, "the original message")

    def throw_unprintable(self) -> None:
        raise UnprintableError

    def exit(self) -> None:
        raise SystemExit(3)

    @as_signal
    def marked_and_throws(self) -> None:
        raise ValueError("from a signal")

    def unpicklable(self) -> Any:
        return {"result": Unpicklable()}

    @property
    def broken(self) -> Any:
        raise LookupError("of the property")

    def _private(self) -> int:
        return 1

    def __dunder__(self) -> int:
        return 1

    @staticmethod
    def static(value: int) -> int:
        return value

    @classmethod
    def cls(cls) -> str:
        return cls.__name__


class Side:
    """A server and what is below it."""

    def __init__(self, **options: Any) -> None:
        self.messaging = FakeMessaging()
        self.hook = FakeHook(self.messaging)
        self.calls = 0
        self.server = RpcServer(self.hook, **options)  # type: ignore[arg-type]
        self.service = Service()
        self.server.register_object(self.service, "obj")

    def request(self, record: object, ident: str = "alice") -> None:
        self.hook.deliver(ident, REQUEST_PREFIX + pickle.dumps(record))

    def send_call(self, name: str, *args: Any, req_id: bytes | None = None, **kwargs: Any) -> None:
        """The first one has ``REQ_ID``; each has another one."""
        if req_id is None:
            req_id = REQ_ID if not self.calls else REQ_ID[:12] + self.calls.to_bytes(4, "big")
            self.calls += 1
        self.request(call_record("obj", name, args, kwargs, req_id))

    def signal(self, name: str, *args: Any, **kwargs: Any) -> None:
        self.request(signal_record("obj", name, args, kwargs))

    def signal_and_wait(self, name: str, value: Any) -> None:
        before = len(self.service.seen)
        self.signal(name, value)
        wait_until(lambda: len(self.service.seen) > before and self.idle())

    def replies(self, count: int) -> list[dict[str, Any]]:
        """All replies so far, which are ``count``."""
        sent = self.messaging.wait_sent(count)
        for _, message in sent:
            assert message.data.startswith(REPLY_PREFIX)
            assert (message.ttl, message.flags) == (0, 0)
        return [pickle.loads(message.data[len(REPLY_PREFIX) :]) for _, message in sent]

    def call(self, name: str, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """The reply to a call."""
        before = len(self.messaging.sent)
        self.send_call(name, *args, **kwargs)
        return self.replies(before + 1)[-1]

    def idle(self) -> bool:
        dispatcher = self.server.dispatcher
        pool = dispatcher._pool
        return not dispatcher.running and not dispatcher.waiting and pool.idle == pool.workers


@pytest.fixture
def side() -> Iterator[Side]:
    side = Side()
    yield side
    side.service.gate.set()
    assert side.server.close(DEADLINE)


# Calls.


def test_a_call_is_answered(side: Side) -> None:
    reply = side.call("echo", 1, [2], key="value")
    assert list(reply.items()) == [
        ("ok", True),
        ("return", ((1, [2]), {"key": "value"})),
        ("req_id", REQ_ID),
    ]
    assert side.messaging.sent[0].ident == "alice"


def test_methods_run_in_daemon_threads_that_are_used_again(side: Side) -> None:
    threads = set()
    for _ in range(20):
        name, daemon, ident = side.call("thread")["return"]
        assert name.startswith("snakemq-rpc-")
        assert daemon
        threads.add(ident)
        wait_until(side.idle)
    assert len(threads) == 1
    assert threading.get_ident() not in threads


def test_a_method_that_blocks_does_not_hold_up_others(side: Side) -> None:
    side.send_call("hold", "slow", req_id=b"slow")
    assert side.service.entered.acquire(timeout=DEADLINE)
    assert side.call("echo", req_id=b"quick")["req_id"] == b"quick"
    side.service.gate.set()
    assert side.replies(2)[1]["return"] == "slow"


def test_as_many_methods_may_block_as_there_are_workers() -> None:
    side = Side()
    for number in range(DEFAULT_MAX_PER_OBJECT):
        side.send_call("hold", req_id=str(number).encode())
    for _ in range(DEFAULT_MAX_PER_OBJECT):
        assert side.service.entered.acquire(timeout=DEADLINE)
    side.service.gate.set()
    side.replies(DEFAULT_MAX_PER_OBJECT)
    assert side.server.close(DEADLINE)


def test_beyond_that_requests_wait_in_order() -> None:
    side = Side(max_workers=1)
    side.send_call("hold")
    assert side.service.entered.acquire(timeout=DEADLINE)
    for number in range(50):
        side.signal("marked", number)
    assert not side.service.seen
    side.service.gate.set()
    wait_until(lambda: len(side.service.seen) == 50)
    assert side.service.seen == list(range(50))
    assert side.server.close(DEADLINE)


def test_static_and_class_methods_functions_and_modules_are_served(side: Side) -> None:
    assert side.call("static", 7)["return"] == 7
    assert side.call("cls")["return"] == "Service"
    side.server.register_object(json, "json")
    side.request(call_record("json", "dumps", ([1],), {}, b"another"))
    assert side.replies(3)[2]["return"] == "[1]"


# What is not there.


def test_an_unknown_object(side: Side) -> None:
    side.request(call_record("nothing", "echo", (), {}, REQ_ID))
    (reply,) = side.replies(1)
    assert (reply["ok"], reply["req_id"]) == (False, REQ_ID)
    assert type(reply["exception"]) is NoInstanceError
    assert reply["exception"].args[0].startswith("nothing: ")
    assert reply["code"] == "no-instance"
    assert "NoInstanceError: nothing" in reply["exception_format"]


def test_an_object_name_that_can_be_none(side: Side) -> None:
    side.request(call_record(["list"], "echo", (), {}, REQ_ID))  # type: ignore[arg-type]
    assert type(side.replies(1)[0]["exception"]) is NoInstanceError


@pytest.mark.parametrize(
    "name", ["absent", "_private", "__dunder__", "__init__", "__class__", "constant", "seen"]
)
def test_what_is_no_public_method(side: Side, name: str) -> None:
    reply = side.call(name)
    assert not reply["ok"]
    assert type(reply["exception"]) is NoMethodError
    assert reply["exception"].args[0].startswith(f"{name}: ")
    assert reply["code"] == "no-method"
    assert f"NoMethodError: {name}" in reply["exception_format"]


def test_a_property_that_raises(side: Side) -> None:
    assert repr(side.call("broken")["exception"]) == "LookupError('of the property')"


def test_registering(side: Side) -> None:
    server = side.server
    assert server.get_registered_objects() == {"obj": side.service}
    assert server.get_registered_objects() is server.instances
    other = Service()
    server.register_object(other, "obj")
    side.signal("marked", 1)
    wait_until(lambda: other.seen == [1])
    server.unregister_object("obj")
    assert type(side.call("echo")["exception"]) is NoInstanceError
    with pytest.raises(KeyError):
        server.unregister_object("obj")


# Exceptions.


def test_an_exception_goes_to_the_caller_with_its_traceback(side: Side) -> None:
    reply = side.call("throw", KeyError("kitchen"))
    assert list(reply) == ["req_id", "ok", "exception", "exception_format"]
    assert (reply["req_id"], reply["ok"]) == (REQ_ID, False)
    assert repr(reply["exception"]) == "KeyError('kitchen')"
    text = reply["exception_format"]
    assert text.startswith("Traceback (most recent call last):\n")
    assert "in throw" in text
    assert "raise exc" in text
    assert text.endswith("KeyError: 'kitchen'\n")
    # The traceback begins with the method, not with what called it.
    assert "rpc/server.py" not in text.replace("\\", "/")


def test_wrong_arguments_are_told(side: Side) -> None:
    reply = side.call("note")
    assert type(reply["exception"]) is TypeError
    assert reply["code"] == "arguments"
    assert "missing a required argument: 'value'" in str(reply["exception"])
    assert "missing 1 required positional argument" in reply["exception_format"]


def test_an_exception_that_can_not_be_pickled(side: Side) -> None:
    reply = side.call("throw_unpicklable")
    assert not reply["ok"]
    assert type(reply["exception"]) is Error
    text = str(reply["exception"])
    assert text.startswith("ValueError('the original message', <")
    assert "not to be pickled" in text
    assert "in throw_unpicklable" in reply["exception_format"]
    assert "the original message" in reply["exception_format"]


def test_an_exception_that_can_not_be_unpickled(side: Side) -> None:
    reply = side.call("throw_half_picklable")
    assert type(reply["exception"]) is Error
    assert "TwoArgumentsError('5: the original message')" in str(reply["exception"])
    assert "in throw_half_picklable" in reply["exception_format"]


def test_an_exception_that_can_not_even_be_printed(side: Side) -> None:
    reply = side.call("throw_unprintable")
    assert type(reply["exception"]) is Error
    assert "UnprintableError" in str(reply["exception"])


def test_a_result_that_can_not_be_pickled(side: Side, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "snakemq.rpc.server"):
        reply = side.call("unpicklable")
    assert not reply["ok"]
    assert type(reply["exception"]) is Error
    assert "the result of obj.unpicklable can't be sent: " in str(reply["exception"])
    assert "not to be pickled" in str(reply["exception"])
    assert "not to be pickled" in reply["exception_format"]
    assert "obj.unpicklable" in caplog.text


def test_system_exit_ends_the_method_and_neither_the_thread_nor_the_caller(side: Side) -> None:
    reply = side.call("exit")
    assert type(reply["exception"]) is Error
    assert str(reply["exception"]) == "obj.exit raised SystemExit(3)"
    assert "in exit" in reply["exception_format"]
    assert side.call("echo")["ok"]


def test_a_reply_that_messaging_does_not_take(side: Side) -> None:
    # Too large, say; a smaller one can be sent.
    send = side.messaging.send_message

    def refuse_large(ident: str, message: Any, **options: Any) -> None:
        if len(message.data) > 10_000:
            raise OverflowError("too large")
        send(ident, message, **options)

    side.messaging.send_message = refuse_large  # type: ignore[method-assign]
    reply = side.call("echo", "x" * 20_000)
    assert type(reply["exception"]) is Error
    assert "OverflowError('too large')" in str(reply["exception"])


def test_when_nothing_can_be_sent_it_is_logged(
    side: Side, caplog: pytest.LogCaptureFixture
) -> None:
    side.messaging.failure = OverflowError("no more")
    with caplog.at_level(logging.ERROR, "snakemq.rpc.server"):
        side.send_call("throw", KeyError("kitchen"))
        wait_until(lambda: caplog.records)
    (record,) = caplog.records
    assert record.getMessage() == """ident='alice' can't be answered: "OverflowError('no more')\""""
    side.messaging.failure = None
    assert side.call("echo")["ok"]


def test_a_reply_goes_before_what_waits(side: Side) -> None:
    side.call("note", 1)
    assert side.messaging.urgent == [True]


def test_a_reply_for_which_there_is_no_room_is_logged_once(
    side: Side, caplog: pytest.LogCaptureFixture
) -> None:
    side.messaging.failure = QueueFull("no room")
    side.send_call("note", 1)
    wait_until(lambda: caplog.records)
    side.messaging.failure = None
    side.send_call("note", 2)
    wait_until(lambda: side.service.seen == [1, 2] and side.idle())
    assert side.messaging.sent == []
    side.messaging.advance(1)
    assert [reply["ok"] for reply in side.replies(2)] == [True, True]
    assert caplog.messages == ["ident='alice' is answered later, for its queue is full: no room"]


def test_exceptions_stay_here_if_they_are_not_to_be_transferred(
    side: Side, caplog: pytest.LogCaptureFixture
) -> None:
    assert side.server.transfer_exceptions
    side.server.transfer_exceptions = False
    with caplog.at_level(logging.ERROR, "snakemq.rpc.server"):
        side.send_call("throw", KeyError("kitchen"))
        wait_until(lambda: caplog.records and side.idle())
    assert not side.messaging.sent
    (record,) = caplog.records
    assert "exception in 'obj.throw'" in record.getMessage()
    assert record.exc_info is not None
    assert repr(record.exc_info[1]) == "KeyError('kitchen')"
    # Results still go.
    assert side.call("echo")["ok"]


# Signals.


def test_a_signal_runs_and_is_not_answered(side: Side) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        side.signal("marked", 5)
        wait_until(lambda: side.service.seen == [5] and side.idle())
    assert not side.messaging.sent


def test_a_signal_called_as_a_method_runs_answers_and_warns(side: Side) -> None:
    with pytest.warns(SignalCallWarning, match="obj.marked is marked as a signal and was called"):
        reply = side.call("marked", 5)
    assert (reply["ok"], reply["return"]) == (True, 5)
    assert side.service.seen == [5]


def test_a_method_called_as_a_signal_runs_and_warns(side: Side) -> None:
    with pytest.warns(SignalCallWarning, match="obj.note is not marked as a signal"):
        side.signal_and_wait("note", 5)
    assert side.service.seen == [5]
    assert not side.messaging.sent


def test_a_signal_called_as_a_method_answers_its_exception_too(side: Side) -> None:
    # 1.6 left the caller waiting.
    with pytest.warns(SignalCallWarning):
        reply = side.call("marked_and_throws")
    assert repr(reply["exception"]) == "ValueError('from a signal')"


@pytest.mark.parametrize("name", ["marked_and_throws", "absent", "_private"])
def test_an_exception_in_a_signal_is_logged(
    side: Side, caplog: pytest.LogCaptureFixture, name: str
) -> None:
    with caplog.at_level(logging.ERROR, "snakemq.rpc.server"):
        side.signal(name)
        wait_until(lambda: caplog.records and side.idle())
    (record,) = caplog.records
    assert f"exception in 'obj.{name}'" in record.getMessage()
    # A traceback for what the program raised, and not for what the caller did wrong.
    assert bool(record.exc_info) == (name == "marked_and_throws")
    assert not side.messaging.sent


def test_as_signal_returns_the_function_with_a_mark() -> None:
    def function() -> None: ...

    assert as_signal(function) is function
    assert getattr(function, METHOD_RPC_AS_SIGNAL_ATTR) is True
    assert METHOD_RPC_AS_SIGNAL_ATTR == "__snakemw_rpc_as_signal"


def test_as_signal_on_every_kind_of_method() -> None:
    class Kinds:
        @as_signal
        @staticmethod
        def static() -> None: ...

        @as_signal
        @classmethod
        def cls(cls) -> None: ...

        @staticmethod
        @as_signal
        def static_inside() -> None: ...

        def later(self) -> None: ...

    kinds = Kinds()
    as_signal(kinds.later)
    partial = as_signal(functools.partial(print))
    for method in (kinds.static, kinds.cls, kinds.static_inside, kinds.later, partial):
        assert getattr(method, METHOD_RPC_AS_SIGNAL_ATTR) is True


# What else may arrive.


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"garbage",
        pickle.dumps(None),
        pickle.dumps({}),
        pickle.dumps({"command": "stop"}),
        pickle.dumps({"command": "call", "object": "obj", "method": "echo"}),
        pickle.dumps(call_record("obj", "echo", (), {}, None)),  # type: ignore[arg-type]
        b"cabsent.mod\nAbsent\n.",
    ],
)
def test_a_request_that_is_none_is_dropped(
    side: Side, caplog: pytest.LogCaptureFixture, payload: bytes
) -> None:
    with caplog.at_level(logging.WARNING, "snakemq.rpc.server"):
        side.hook.deliver("alice", REQUEST_PREFIX + payload)
        wait_until(lambda: caplog.records and side.idle())
    assert "ident='alice' unreadable request" in caplog.text
    assert not side.messaging.sent
    assert side.call("echo")["ok"]


def test_a_call_that_can_not_be_read_is_answered(side: Side) -> None:
    side.request(call_record("obj", 5, (), {}, REQ_ID))  # type: ignore[arg-type]
    (reply,) = side.replies(1)
    assert (reply["req_id"], reply["code"]) == (REQ_ID, "unreadable")
    assert "a method is a string, not int" in str(reply["exception"])


class Absent:
    pass


def test_an_argument_of_a_class_that_is_not_here_is_told_to_the_caller(side: Side) -> None:
    data = pickle.dumps(call_record("obj", "echo", (Absent(),), {}, REQ_ID))
    side.hook.deliver("alice", REQUEST_PREFIX + data.replace(b"Absent", b"Abcent"))
    (reply,) = side.replies(1)
    assert (reply["req_id"], reply["ok"]) == (REQ_ID, False)
    assert reply["code"] == "unreadable"
    assert type(reply["exception"]) is CallError
    assert "the request can't be read by 'me': tests." in str(reply["exception"])
    assert "snakemq.rpc.register_type(tests.layers.test_rpc_server.Abcent)" in str(
        reply["exception"]
    )


def test_an_argument_of_a_class_that_is_not_here_in_a_signal(
    side: Side, caplog: pytest.LogCaptureFixture
) -> None:
    data = pickle.dumps(signal_record("obj", "note", (Absent(),), {}))
    with caplog.at_level(logging.WARNING, "snakemq.rpc.server"):
        side.hook.deliver("alice", REQUEST_PREFIX + data.replace(b"Absent", b"Abcent"))
        wait_until(lambda: caplog.records and side.idle())
    assert not side.messaging.sent
    assert not side.service.seen


# Other serializers.


class Json:
    """Knows bytes, and no exceptions."""

    PickleError = ValueError

    def dumps(self, obj: Any) -> bytes:
        def encode(value: Any) -> Any:
            if isinstance(value, bytes):
                return {"hex": value.hex()}
            raise TypeError(f"{type(value).__name__} in JSON")

        return json.dumps(obj, default=encode).encode()

    def loads(self, data: bytes) -> Any:
        return json.loads(
            data, object_hook=lambda obj: bytes.fromhex(obj["hex"]) if "hex" in obj else obj
        )


def test_a_json_serializer_gets_results_and_the_text_of_exceptions() -> None:
    codec = Json()
    side = Side(pickler=codec)
    assert side.server.pickler is codec
    for number, name in enumerate(("echo", "throw_unpicklable", "unpicklable")):
        req_id = REQ_ID if not number else bytes([number])
        record = call_record("obj", name, (), {}, req_id)
        side.hook.deliver("alice", REQUEST_PREFIX + codec.dumps(record))
        wait_until(side.idle)
    value, error, bad_result = [
        codec.loads(message.data[len(REPLY_PREFIX) :]) for _, message in side.messaging.wait_sent(3)
    ]
    assert (value["return"], value["req_id"]) == ([[], {}], REQ_ID)
    assert error["exception"].startswith("ValueError('the original message', ")
    assert "in throw_unpicklable" in error["exception_format"]
    assert "the result of obj.unpicklable can't be sent" in bad_result["exception"]
    side.hook.deliver("alice", REQUEST_PREFIX + pickle.dumps(record))
    wait_until(side.idle)
    side.messaging.wait_sent(3)
    assert side.server.close(DEADLINE)


# Closing.


def test_close_lets_running_methods_end_and_answer() -> None:
    side = Side()
    side.send_call("hold", "answer")
    assert side.service.entered.acquire(timeout=DEADLINE)
    assert not side.server.close()
    assert not side.hook.hooks
    side.server.on_recv("1", "alice", Message(b""))
    side.service.gate.set()
    assert side.server.close(DEADLINE)
    assert side.replies(1)[0]["return"] == "answer"


def test_what_a_worker_receives_while_the_server_is_closed_is_left_to_the_loop() -> None:
    side = Side()
    outcomes: list[object] = []

    def poll(*args: Any) -> bool:
        deliver = args[3]
        side.server.close()
        outcomes.append(deliver("1", "alice", Message(REQUEST_PREFIX + b"...")))
        return False

    side.messaging.shortcut.poll = poll  # type: ignore[method-assign]
    side.send_call("add", 1, 2)
    wait_until(lambda: outcomes)
    assert outcomes == [False]


def test_close_when_the_hook_belongs_to_somebody_else_now() -> None:
    side = Side()
    side.hook.hooks.clear()
    assert side.server.close()


def test_a_server_without_workers_is_refused() -> None:
    with pytest.raises(ValueError, match="max_workers must be at least 1"):
        Side(max_workers=0)


def test_repr_names_what_is_served(side: Side) -> None:
    assert repr(side.server).startswith("<RpcServer objects=['obj'] <Dispatcher ")


def test_debug_log_names_the_call(side: Side, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG, "snakemq.rpc.server"):
        side.call("throw", KeyError("kitchen"))
        side.signal("marked", 1)
        wait_until(lambda: side.service.seen == [1] and side.idle())
    assert f"call ident='alice' 'obj.throw' req_id={REQ_ID.hex()}" in caplog.text
    assert """exception to the caller: "KeyError('kitchen')\"""" in caplog.text
    assert "signal ident='alice' 'obj.marked'" in caplog.text
