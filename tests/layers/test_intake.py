"""What a Peer does with what arrives: the object of a message is made when somebody wants it."""

from __future__ import annotations

from typing import Any

import pytest

from snakemq import FLAG_PERSISTENT, Message, Peer, ReceivedMessage
from snakemq.message import MessageHandler
from snakemq.peer._calls import CALL_PREFIXES, COMMON_PREFIX
from snakemq.peer._intake import Intake
from snakemq.testing import SimNetwork, SimStack
from tests.helpers import DEADLINE, wait_until
from tests.layers.peers import Recorder, connected_pair


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """The data of those that went by without an object."""
    made: list[bytes] = []
    take_data = Intake.take_data

    def note(self: Any, conn_id: str, ident: str, uuid: bytes, data: bytes) -> None:
        made.append(data)
        take_data(self, conn_id, ident, uuid, data)

    monkeypatch.setattr(Intake, "take_data", note)
    return made


def test_it_tells_the_same_of_itself(made: list[bytes]) -> None:
    received = Recorder()
    with connected_pair(bob={"on_message": received}) as (_, alice):
        uuid = alice.send("bob", b"data")
        (one,) = received.wait()
    assert made == [b"data"]
    assert (one.ident, one.data, one.text, one.uuid) == ("alice", b"data", "data", uuid)
    assert (one.ttl, one.flags, one.redelivered, one.attempts) == (None, 0, False, 1)
    assert one.message is one.message
    assert isinstance(one.message, Message)
    assert (one.message.data, one.message.uuid) == (b"data", uuid)
    assert (one.message.ttl, one.message.flags) == (None, 0)
    assert uuid.hex() in repr(one)
    one.done()  # for durable_receive, and harmless


@pytest.mark.parametrize(("ttl", "flags"), [(60, 0), (0, 0), (None, 2), (None, 1 << 31)])
def test_what_has_more_to_tell_tells_it(ttl: float | None, flags: int, made: list[bytes]) -> None:
    received = Recorder()
    with connected_pair(bob={"on_message": received}) as (_, alice):
        alice.send("bob", b"x", ttl=ttl, flags=flags)
        (one,) = received.wait()
    assert (one.ttl, one.flags, one.data) == (ttl, flags, b"x")
    assert made == []


def test_somebody_else_who_listens_gets_objects(made: list[bytes]) -> None:
    received, messages = Recorder(), Recorder()
    with connected_pair(bob={"on_message": received}) as (bob, alice):
        bob.messaging.on_message_recv.add(messages)
        alice.send("bob", b"1")
        messages.wait()
        bob.messaging.on_message_recv.remove(messages)
        alice.send("bob", b"2")
        received.wait(2)
    ((_, ident, message),) = messages
    assert (ident, message.data) == ("alice", b"1")
    assert [one.data for one in received] == [b"1", b"2"]
    assert made == [b"2"]


def test_who_begins_to_listen_gets_the_next_one() -> None:
    """Also if it came together with the one before."""
    messages = Recorder()

    def on_message(received: ReceivedMessage) -> None:
        if received.data == b"first":
            bob.messaging.on_message_recv.add(messages)

    with Peer("bob", listen=0, on_message=on_message) as bob:
        alice = Peer("alice", connect=bob.addresses[0])
        for data in (b"first", b"second", b"third"):
            alice.send("bob", data)
        with alice:
            messages.wait(2)
    assert [message.data for _, _, message in messages] == [b"second", b"third"]


def test_a_callback_that_fails_harms_nobody() -> None:
    errors, received = Recorder(), Recorder()

    def on_message(one: ReceivedMessage) -> None:
        if one.data == b"bad":
            raise ValueError("no")
        received(one.data)

    with connected_pair(bob={"on_message": on_message}) as (bob, alice):
        bob.on_error.add(errors)
        for data in (b"1", b"bad", b"2"):
            alice.send("bob", data)
        assert received.wait(2) == [b"1", b"2"]
        ((conn_id, error),) = errors.wait()
        assert conn_id is None
        assert isinstance(error, ValueError)
        assert alice.flush(timeout=DEADLINE)


def test_a_handler_that_fails_is_reported_with_the_message() -> None:
    class Handler(MessageHandler):
        def __call__(self, conn_id: str, ident: str, message: Message) -> None:
            raise AssertionError("not that way")

        def take_data(self, conn_id: str, ident: str, uuid: bytes, data: bytes) -> None:
            raise ValueError(data)

    network = SimNetwork(seed=1)
    bob, alice = SimStack(network, "bob"), SimStack(network, "alice")
    errors = Recorder()
    bob.messaging.on_error.add(errors)
    for func in bob.messaging.on_message_recv.callbacks:
        bob.messaging.on_message_recv.remove(func)
    bob.messaging.on_message_recv.wire(Handler())
    alice.connect(bob)
    alice.send("bob", b"data")
    network.run(5)
    ((conn_id, error),) = errors
    assert conn_id is not None
    assert error.args == (b"data",)
    assert alice.messaging.queued_messages() == 0


def test_messages_of_calls_are_not_for_the_program() -> None:
    assert all(prefix.startswith(COMMON_PREFIX) for prefix in CALL_PREFIXES)
    received = Recorder()
    with connected_pair(bob={"on_message": received}) as (_, alice):
        for prefix in CALL_PREFIXES:
            alice.send("bob", prefix + b"garbage")
        for data in (b"rpc", b"rpcxyz", b"last"):
            alice.send("bob", data)
        received.wait(3)
    assert [one.data for one in received] == [b"rpc", b"rpcxyz", b"last"]


def test_it_waits_for_a_reader(made: list[bytes]) -> None:
    with connected_pair() as (bob, alice):
        alice.send("bob", b"1")
        alice.send("bob", b"2", flags=FLAG_PERSISTENT << 1)
        received = [bob.receive(DEADLINE) for _ in range(2)]
        assert [one and one.data for one in received] == [b"1", b"2"]
        alice.send("bob", b"3")
        wait_until(lambda: made == [b"1", b"3"])
        # The first callback gets what waited, before what comes now.
        late = Recorder()
        bob.on_message.add(late)
        alice.send("bob", b"4")
        assert [one.data for one in late.wait(2)] == [b"3", b"4"]
