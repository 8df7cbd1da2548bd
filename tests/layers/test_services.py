"""Messages of services: told with one look, and yet seen by everybody who wants to see them."""

from __future__ import annotations

import weakref
from collections.abc import Callable

import pytest

from snakemq.message import Message, MessageHandler
from snakemq.messaging import ReceiveHook
from snakemq.storage import MemoryQueuesStorage
from snakemq.testing import SimNetwork, SimStack


class Handler(MessageHandler):
    """Of a facade: it notes what it is asked about."""

    def __init__(self) -> None:
        self.seen: list[bytes] = []

    def __call__(self, conn_id: str, ident: str, message: Message) -> None:
        self.seen.append(message.data)

    def take_data(self, conn_id: str, ident: str, uuid: bytes, data: bytes) -> None:
        self.seen.append(data)


class Pair:
    """Alice sends, and what is registered with Bob's hook is noted."""

    def __init__(self, storage: MemoryQueuesStorage | None = None) -> None:
        self.network = SimNetwork(seed=1)
        self.alice = SimStack(self.network, "alice")
        self.bob = SimStack(self.network, "bob", storage=storage)
        self.taken = 0
        self.messaging = self.bob.messaging
        # That of the simulation, which sees all of them.
        for func in self.messaging.on_message_recv.callbacks:
            self.messaging.on_message_recv.remove(func)
        self.handler = Handler()
        self.messaging.on_message_recv.wire(self.handler)
        self.hook = ReceiveHook(self.messaging)
        self.calls: list[tuple[str, bytes]] = []
        self.alice.connect(self.bob)
        self.network.run(1)

    def note(self, name: str) -> Callable[[str, str, Message], None]:
        return lambda conn_id, ident, message: self.calls.append((name, message.data))

    def serve(self, *prefixes: bytes) -> None:
        for prefix in prefixes:
            name = prefix.decode()

            def take(conn_id: str, ident: str, uuid: bytes, data: bytes, name: str = name) -> None:
                self.taken += 1
                self.calls.append((name, data))

            self.hook.register(prefix, self.note(name), any_thread=True, take=take)

    def send(self, *messages: bytes, ttl: float | None = 0) -> list[tuple[str, bytes]]:
        """What was called, when they arrived together."""
        self.calls.clear()
        self.handler.seen.clear()
        self.taken = 0
        for data in messages:
            self.alice.messaging.send_message("bob", Message(data, ttl))
        self.network.run(1)
        return self.calls


@pytest.fixture
def both() -> Pair:
    both = Pair()
    both.serve(b"first_", b"second")
    return both


def test_each_gets_its_own_and_the_handler_the_others(both: Pair) -> None:
    assert both.send(b"first_1", b"other", b"second2", b"", b"firs") == [
        ("first_", b"first_1"),
        ("second", b"second2"),
    ]
    assert both.handler.seen == [b"other", b"", b"firs"]
    assert both.taken == 2


@pytest.mark.parametrize("ttl", [None, 5.0])
def test_one_that_waits_for_a_peer_goes_the_usual_way(both: Pair, ttl: float | None) -> None:
    assert both.send(b"first_1", b"other", ttl=ttl) == [("first_", b"first_1")]
    assert both.handler.seen == [b"first_1", b"other"]
    assert both.taken == 0


def test_one_that_wants_objects_gets_them(both: Pair) -> None:
    both.hook.register(b"second", both.note("object"), any_thread=True)
    assert both.send(b"first_1", b"second") == [("first_", b"first_1"), ("object", b"second")]
    assert both.taken == 1


def test_where_all_messages_are_remembered_they_are_objects() -> None:
    both = Pair(MemoryQueuesStorage())
    both.serve(b"first_")
    assert both.send(b"first_1") == [("first_", b"first_1")]
    assert both.taken == 0


def test_a_callback_of_the_program_sees_all(both: Pair) -> None:
    both.messaging.on_message_recv.add(both.note("program"))
    assert both.send(b"first_1") == [("first_", b"first_1"), ("program", b"first_1")]
    assert both.handler.seen == [b"first_1"]


def test_also_if_it_comes_among_them(both: Pair) -> None:
    def add(conn_id: str, ident: str, message: Message) -> None:
        both.messaging.on_message_recv.add(both.note("program"))

    both.hook.register(b"second", add, any_thread=True)
    assert both.send(b"first_1", b"second", b"first_2") == [
        ("first_", b"first_1"),
        # Who was added while the others are called is not one of them.
        ("first_", b"first_2"),
        ("program", b"first_2"),
    ]


@pytest.mark.parametrize("expression", [b"fir", b"first[_]", b""])
def test_another_expression_that_matches_is_called_too(both: Pair, expression: bytes) -> None:
    both.hook.register(expression, both.note("other"))
    assert both.send(b"first_1") == [("first_", b"first_1"), ("other", b"first_1")]
    both.hook.unregister(expression)
    assert both.send(b"first_1") == [("first_", b"first_1")]


def test_another_hook_is_asked_too(both: Pair) -> None:
    ReceiveHook(both.messaging).register(b"first_", both.note("other"), any_thread=True)
    assert both.send(b"first_1") == [("first_", b"first_1"), ("other", b"first_1")]


def test_what_takes_the_place_of_a_service_gets_its_messages(both: Pair) -> None:
    both.hook.register(b"first_", both.note("new"))
    assert both.send(b"first_1", b"second") == [("new", b"first_1"), ("second", b"second")]
    both.serve(b"first_")
    assert both.send(b"first_1") == [("first_", b"first_1")]


def test_one_that_was_unregistered_gets_nothing_more(both: Pair) -> None:
    both.hook.unregister(b"first_")
    assert both.send(b"first_1", b"second") == [("second", b"second")]
    assert both.handler.seen[0] == b"first_1"
    both.hook.clear()
    assert both.send(b"second") == []
    assert both.handler.seen == [b"second"]


def test_one_that_is_replaced_gets_nothing_more_of_what_came_together(both: Pair) -> None:
    def replace(conn_id: str, ident: str, uuid: bytes, data: bytes) -> None:
        both.serve(b"first_")
        both.hook.unregister(b"second")

    both.hook.register(b"first_", both.note("old"), any_thread=True, take=replace)
    assert both.send(b"first_1", b"first_2", b"second") == [("first_", b"first_2")]
    assert both.handler.seen == [b"first_2", b"second"]
    assert both.send(b"first_3") == [("first_", b"first_3")]
    assert both.taken == 1


def test_an_expression_that_comes_among_them_is_asked(both: Pair) -> None:
    def add(conn_id: str, ident: str, uuid: bytes, data: bytes) -> None:
        both.hook.register(b"fir", both.note("other"))

    both.hook.register(b"second", both.note("object"), any_thread=True, take=add)
    assert both.send(b"first_1", b"second", b"first_2") == [
        ("first_", b"first_1"),
        ("first_", b"first_2"),
        ("other", b"first_2"),
    ]


def test_without_its_callback_a_hook_gets_nothing(both: Pair) -> None:
    both.messaging.on_message_recv.remove(both.hook.pass_on)
    assert both.send(b"first_1") == []
    assert both.handler.seen == [b"first_1"]


def test_nothing_keeps_one_alive_that_was_unregistered(both: Pair) -> None:
    class Service:
        def take(self, conn_id: str, ident: str, uuid: bytes, data: bytes) -> None: ...

    service = Service()
    is_alive = weakref.ref(service)
    both.hook.register(b"first_", both.note("first"), any_thread=True, take=service.take)
    both.send(b"first_1")
    both.hook.unregister(b"first_")
    del service
    assert is_alive() is None


def test_one_that_fails_is_reported_and_the_others_go_on(both: Pair) -> None:
    def fail(conn_id: str, ident: str, message: Message) -> None:
        raise ZeroDivisionError

    def fail_with_data(conn_id: str, ident: str, uuid: bytes, data: bytes) -> None:
        raise LookupError

    errors: list[Exception] = []
    both.messaging.on_error.add(lambda conn_id, exc: errors.append(exc))
    both.hook.register(b"first_", fail, any_thread=True)
    assert both.send(b"first_1", b"second") == [("second", b"second")]
    both.hook.register(b"first_", fail, any_thread=True, take=fail_with_data)
    assert both.send(b"first_1", b"second") == [("second", b"second")]
    assert [type(error) for error in errors] == [ZeroDivisionError, LookupError]
    assert both.alice.messaging.queued_messages() == 0
