"""Receiving durably: stored, acknowledged, and handled until the callbacks return."""

from __future__ import annotations

import gc
import itertools
import weakref
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from snakemq import _inbox
from snakemq._incoming import STORAGE_RETRY
from snakemq.exceptions import StorageError
from snakemq.message import FLAG_PERSISTENT, Message
from snakemq.messaging import Messaging
from snakemq.packeter import Packeter
from snakemq.storage import InboxItem, MemoryQueuesStorage, QueuesStorageBase
from snakemq.storage.sqlite import SqliteQueuesStorage
from snakemq.testing import SimNetwork, SimStack
from tests.layers.delivery_support import HandMade, connect, data, message, numbered


class Storage(MemoryQueuesStorage):
    """Notes what is done to the inbox, and fails when it is told to."""

    def __init__(self) -> None:
        super().__init__(wall_clock=lambda: 1234.5)
        self.calls: list[str] = []
        self.fails: set[str] = set()

    def _call(self, name: str) -> None:
        self.calls.append(name)
        if name in self.fails:
            raise OSError(f"{name}: no space left on device")

    def push_inbox(self, ident: str, messages: Iterable[Message], *, keep: int) -> list[int]:
        self._call("push_inbox")
        return super().push_inbox(ident, messages, keep=keep)

    def advance_inbox(self, done: int | None, starting: int | None) -> None:
        self._call("advance_inbox")
        super().advance_inbox(done, starting)

    def bury(self, item_id: int, reason: str) -> None:
        self._call("bury")
        super().bury(item_id, reason)

    def sync(self) -> None:
        self._call("sync")
        super().sync()

    @property
    def inbox(self) -> list[bytes]:
        return [item.message.data for item in self.get_inbox()]


class Program:
    """An application's callback that fails for some messages.

    :ivar fails: how often, by data
    """

    def __init__(self) -> None:
        self.fails: dict[bytes, int] = {}
        self.seen: list[tuple[float, bytes, int, bool]] = []
        self.error: type[BaseException] = RuntimeError

    def __call__(self, stack: SimStack) -> None:
        """For ``on_start``."""
        stack.messaging.on_message_recv.add(self.receive)
        self.stack = stack

    def receive(self, conn_id: str, ident: str, received: Message) -> None:
        now = self.stack.network.time()
        self.seen.append((now, received.data, received.attempts, received.redelivered))
        if self.fails.get(received.data, 0):
            self.fails[received.data] -= 1
            raise self.error("not now")

    @property
    def data(self) -> list[bytes]:
        return [payload for _, payload, _, _ in self.seen]

    def times(self, payload: bytes) -> list[float]:
        times = [when for when, seen, _, _ in self.seen if seen == payload]
        return [when - times[0] for when in times]


@pytest.fixture
def network() -> SimNetwork:
    return SimNetwork(seed=1)


@pytest.fixture
def storage() -> Storage:
    return Storage()


@pytest.fixture
def program() -> Program:
    return Program()


@pytest.fixture
def bob(network: SimNetwork, storage: Storage, program: Program) -> SimStack:
    return SimStack(network, "bob", storage=storage, on_start=program, durable_receive=True)


@pytest.fixture
def raw(network: SimNetwork, bob: SimStack) -> HandMade:
    made = HandMade(network, "raw", bob)
    made.greet()
    return made


def restart(stack: SimStack) -> None:
    stack.crash()
    stack.restart()


class TestWay:
    def test_stored_then_handled_then_acknowledged_then_removed(
        self, network: SimNetwork, bob: SimStack, raw: HandMade, storage: Storage
    ) -> None:
        stored: list[tuple[list[bytes], list[int]]] = []
        bob.messaging.on_message_recv.add(lambda *args: stored.append((storage.inbox, raw.acks)))
        raw.say(raw.announce(0), *(message(payload) for payload in numbered(3)))
        assert stored[0] == ([b"0", b"1", b"2"], [])
        # Removed with the first step for the one behind it.
        assert stored[1][0] == [b"1", b"2"]
        assert stored[2][0] == [b"2"]
        assert raw.acks == [3]
        assert storage.inbox == []
        assert storage.calls.count("push_inbox") == 1
        assert len(storage.load_received("raw")) == 3

    def test_a_callback_that_raises_is_tried_again_in_order(
        self, network: SimNetwork, bob: SimStack, raw: HandMade, program: Program, storage: Storage
    ) -> None:
        program.fails[b"1"] = 3
        raw.say(raw.announce(0), *(message(payload) for payload in numbered(3)))
        assert raw.acks == [3], "it is safe here"
        assert program.data == [b"0", b"1"]
        assert storage.inbox == [b"1", b"2"]
        network.run(100)
        assert program.data == [b"0", b"1", b"1", b"1", b"1", b"2"]
        assert program.times(b"1") == pytest.approx([0, 1, 3, 7], abs=0.01)
        attempts = [(n, again) for _, payload, n, again in program.seen if payload == b"1"]
        assert attempts == [(1, False), (2, True), (3, True), (4, True)]
        assert storage.inbox == []

    def test_the_delay_is_bounded(
        self, network: SimNetwork, bob: SimStack, raw: HandMade, program: Program
    ) -> None:
        inbox = bob.messaging.inbox
        inbox.retry_delay, inbox.max_retry_delay, inbox.max_attempts = 2.0, 5.0, 6
        program.fails[b"x"] = 5
        raw.say(raw.announce(0), message(b"x"))
        network.run(100)
        assert program.times(b"x") == pytest.approx([0, 2, 6, 11, 16, 21], abs=0.01)

    def test_messages_of_others_do_not_wait(
        self, network: SimNetwork, bob: SimStack, raw: HandMade, program: Program
    ) -> None:
        other = HandMade(network, "other", bob)
        other.greet()
        program.fails[b"x"] = 1
        raw.say(raw.announce(0), message(b"x"), message(b"y"))
        other.say(other.announce(0), message(b"z"))
        assert program.data == [b"x", b"z"]
        network.run(2)
        assert program.data == [b"x", b"z", b"x", b"y"]

    def test_those_for_now_neither(
        self, network: SimNetwork, bob: SimStack, raw: HandMade, program: Program, storage: Storage
    ) -> None:
        """They are not stored, and somebody may wait for them."""
        program.fails[b"x"] = 1
        raw.say(raw.announce(0), message(b"x"), message(b"now", ttl=0), message(b"y"))
        assert program.data == [b"x", b"now"]
        raw.say(message(b"and now", ttl=0))
        assert program.data == [b"x", b"now", b"and now"]
        assert storage.inbox == [b"x", b"y"]
        network.run(2)
        assert program.data[3:] == [b"x", b"y"]
        assert raw.acks[-1] == 4

    def test_but_they_keep_the_order_as_long_as_nothing_fails(
        self, bob: SimStack, raw: HandMade, program: Program
    ) -> None:
        raw.say(
            raw.announce(0),
            message(b"1"),
            message(b"2", ttl=0),
            message(b"3"),
            message(b"4", ttl=0),
        )
        assert program.data == [b"1", b"2", b"3", b"4"]

    def test_one_for_now_that_fails_is_not_tried_again(
        self, network: SimNetwork, bob: SimStack, raw: HandMade, program: Program
    ) -> None:
        program.fails[b"now"] = 1
        raw.say(raw.announce(0), message(b"now", ttl=0), message(b"x"))
        network.run(10)
        assert program.data == [b"now", b"x"]

    def test_all_callbacks_are_called_at_each_attempt(
        self, network: SimNetwork, bob: SimStack, raw: HandMade, program: Program
    ) -> None:
        others: list[bytes] = []
        bob.messaging.on_message_recv.add(
            lambda conn, ident, received: others.append(received.data)
        )
        program.fails[b"x"] = 1
        raw.say(raw.announce(0), message(b"x"))
        network.run(2)
        assert others == [b"x", b"x"]

    def test_errors_are_told(
        self, network: SimNetwork, bob: SimStack, raw: HandMade, program: Program
    ) -> None:
        errors: list[tuple[str | None, str]] = []
        bob.messaging.on_error.add(lambda conn, exc: errors.append((conn, str(exc))))
        program.fails[b"x"] = 2
        raw.say(raw.announce(0), message(b"x"))
        network.run(10)
        assert errors == [(bob.link.connections[0], "not now")] * 2

    def test_the_sender_is_gone_when_it_is_tried_again(
        self, network: SimNetwork, bob: SimStack, raw: HandMade, program: Program, storage: Storage
    ) -> None:
        program.fails[b"x"] = 1
        raw.say(raw.announce(0), message(b"x"), message(b"y"))
        raw.link.cleanup()
        network.run(10)
        assert program.data == [b"x", b"x", b"y"]
        assert storage.inbox == []

    def test_of_a_1_6_peer_too(
        self, network: SimNetwork, bob: SimStack, program: Program, storage: Storage
    ) -> None:
        old = HandMade(network, "old", bob, window=None)
        old.greet()
        program.fails[b"x"] = 1
        old.say(message(b"x", ttl=60), message(b"y", ttl=60))
        assert storage.inbox == [b"x", b"y"]
        network.run(2)
        assert program.data == [b"x", b"x", b"y"]

    def test_closing_the_connection_in_a_callback(
        self, network: SimNetwork, bob: SimStack, storage: Storage, program: Program
    ) -> None:
        alice = SimStack(network, "alice")
        connect(network, alice, bob)
        closed: list[str] = []

        def close(conn: str, ident: str, received: Message) -> None:
            if len(closed) < 3:
                closed.append(conn)
                with suppress(KeyError):
                    bob.link.close(conn)

        bob.messaging.on_message_recv.add(close)
        for payload in numbered(10):
            alice.send("bob", payload)
        assert network.run_until(lambda: alice.messaging.queued_messages() == 0)
        network.run(1)
        assert program.data == list(numbered(10))
        assert storage.inbox == []


class TestDeadLetters:
    @pytest.fixture(autouse=True)
    def attempts(self, bob: SimStack) -> None:
        bob.messaging.inbox.max_attempts = 3

    @pytest.fixture
    def dead(self, network: SimNetwork, bob: SimStack, raw: HandMade, program: Program) -> SimStack:
        """Bob, where x and z have failed for good."""
        program.fails.update({b"x": 100, b"z": 100})
        raw.say(raw.announce(0), message(b"x"), message(b"y"), message(b"z"), message(b"end"))
        network.run(20)
        program.fails.clear()
        return bob

    def test_after_so_many_attempts(
        self, dead: SimStack, program: Program, storage: Storage
    ) -> None:
        assert program.data == [b"x"] * 3 + [b"y"] + [b"z"] * 3 + [b"end"]
        assert storage.inbox == []
        letters = dead.messaging.inbox.dead_letters()
        assert [
            (one.ident, one.message.data, one.attempts, one.reason, one.died_at) for one in letters
        ] == [
            ("raw", b"x", 3, "RuntimeError: not now", 1234.5),
            ("raw", b"z", 3, "RuntimeError: not now", 1234.5),
        ]

    def test_they_can_be_tried_again(
        self, network: SimNetwork, dead: SimStack, program: Program, storage: Storage
    ) -> None:
        inbox = dead.messaging.inbox
        assert inbox.retry_dead_letters([inbox.dead_letters()[1].id, 12345]) == 1
        network.run(1)
        assert program.seen[-1][1:] == (b"z", 1, True), "marked: it was seen before"
        assert inbox.retry_dead_letters() == 1
        network.run(1)
        assert program.seen[-1][1:] == (b"x", 1, True)
        assert inbox.dead_letters() == []
        assert storage.inbox == []
        assert inbox.retry_dead_letters() == 0

    def test_and_fail_again(self, network: SimNetwork, dead: SimStack, program: Program) -> None:
        program.fails[b"x"] = 100
        inbox = dead.messaging.inbox
        assert inbox.retry_dead_letters() == 2
        network.run(20)
        assert program.data[-4:] == [b"x", b"x", b"x", b"z"]
        assert [one.message.data for one in inbox.dead_letters()] == [b"x"]

    def test_they_can_be_dropped(self, dead: SimStack) -> None:
        inbox = dead.messaging.inbox
        assert inbox.drop_dead_letters([inbox.dead_letters()[0].id]) == 1
        assert [one.message.data for one in inbox.dead_letters()] == [b"z"]
        assert inbox.drop_dead_letters() == 1
        assert inbox.drop_dead_letters() == 0
        assert inbox.dead_letters() == []

    def test_they_survive_a_restart(self, network: SimNetwork, dead: SimStack) -> None:
        restart(dead)
        network.run(10)
        assert [one.message.data for one in dead.messaging.inbox.dead_letters()] == [b"x", b"z"]

    def test_one_whose_callback_ends_the_process_is_given_up_as_well(
        self, network: SimNetwork, storage: Storage
    ) -> None:
        calls: list[int] = []

        def start(stack: SimStack) -> None:
            stack.messaging.inbox.max_attempts = 3
            stack.messaging.on_message_recv.add(crash)

        def crash(conn: str, ident: str, received: Message) -> None:
            if received.data == b"x":
                calls.append(received.attempts)
                victim.crash()

        victim = SimStack(network, "victim", storage=storage, on_start=start, durable_receive=True)
        raw = HandMade(network, "raw", victim)
        raw.greet()
        raw.say(raw.announce(0), message(b"x"), message(b"y"))
        for _ in range(5):
            if not victim.running:
                victim.restart()
            network.run(1)
        assert calls == [1, 2, 3]
        assert data(victim)[-1] == b"y"
        (letter,) = victim.messaging.inbox.dead_letters()
        assert letter.message.data == b"x"
        assert "this process ended" in letter.reason


def test_what_was_handled_takes_no_memory_any_more(bob: SimStack, raw: HandMade) -> None:
    """At once, and not when the garbage collector comes."""
    handled: list[weakref.ref[Message]] = []
    bob.messaging.on_message_recv.add(
        lambda conn_id, ident, message: handled.append(weakref.ref(message))
    )
    gc.disable()
    try:
        raw.say(raw.announce(0), *(message(payload) for payload in numbered(10)))
        bob.received.clear()
        # The last one may be held by who has called the callbacks.
        assert [reference() is None for reference in handled[:9]] == [True] * 9
    finally:
        gc.enable()


class TestRestart:
    def test_what_was_not_handled_is_handled_then(
        self, network: SimNetwork, bob: SimStack, raw: HandMade, program: Program, storage: Storage
    ) -> None:
        program.fails[b"x"] = 1
        raw.say(raw.announce(0), message(b"x"), message(b"y"))
        restart(bob)
        network.run(1)
        assert [one[1:] for one in program.seen] == [
            (b"x", 1, False),
            (b"x", 2, True),
            # Nobody knows whether an earlier process could still write it down.
            (b"y", 1, True),
        ]
        assert storage.inbox == []

    def test_the_connection_is_none(
        self, network: SimNetwork, bob: SimStack, raw: HandMade, program: Program
    ) -> None:
        program.fails[b"x"] = 1
        raw.say(raw.announce(0), message(b"x"))
        bob.crash()
        connections: list[tuple[str, str]] = []

        def start(stack: SimStack) -> None:
            stack.messaging.on_message_recv.add(
                lambda conn, ident, received: connections.append((conn, ident))
            )

        bob._on_start = start
        bob.restart()
        network.run(1)
        assert connections == [("", "raw")]

    def test_what_the_inbox_has_is_not_taken_again(
        self, network: SimNetwork, bob: SimStack, raw: HandMade, program: Program
    ) -> None:
        """The acknowledgement was lost, and both were restarted."""
        program.fails[b"x"] = 100
        raw.say(raw.announce(0), *(message(p, uuid=p) for p in (b"x", b"y")))
        restart(bob)
        raw.stream = b"another1"
        raw.reconnect()
        raw.say(raw.announce(0, stored=3), *(message(p, uuid=p) for p in (b"x", b"y", b"z")))
        assert raw.acks[-1] == 3
        program.fails.clear()
        network.run(10)
        assert program.data == [b"x", b"x", b"x", b"y", b"z"][: len(program.data)]
        assert program.data.count(b"y") == 1
        assert program.data[-1] == b"z"


class TestInterrupt:
    def test_a_message_whose_callback_interrupts_is_handled(
        self, network: SimNetwork, bob: SimStack, raw: HandMade, program: Program, storage: Storage
    ) -> None:
        program.error = KeyboardInterrupt
        program.fails[b"1"] = 1
        raw.say(raw.announce(0), wait=False)
        raw.say(*(message(payload) for payload in numbered(4)), wait=False)
        with pytest.raises(KeyboardInterrupt):
            network.run(1)
        network.run(1)
        assert program.data == list(numbered(4))
        assert raw.acks[-1] == 4
        assert storage.inbox == []


class TestFull:
    @pytest.fixture(autouse=True)
    def limit(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(_inbox, "INBOX_MESSAGES", 5)

    def test_it_holds_the_sender(
        self, network: SimNetwork, bob: SimStack, program: Program, storage: Storage
    ) -> None:
        alice = SimStack(network, "alice")
        connect(network, alice, bob)
        program.fails[b"0"] = 2
        for payload in numbered(20):
            alice.send("bob", payload)
            network.run(0.01)
        assert len(storage.inbox) == 5
        assert alice.messaging.queued_messages() == 15
        measured: list[float] = []
        alice.messaging.ping("bob", measured.append)
        network.run(0.1)
        assert measured, "pings are answered"
        assert network.run_until(lambda: alice.messaging.queued_messages() == 0)
        network.run(1)
        assert program.data == [b"0", b"0", *numbered(20)]
        assert storage.inbox == []

    def test_in_bytes_too(
        self,
        network: SimNetwork,
        bob: SimStack,
        program: Program,
        storage: Storage,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        monkeypatch.setattr(_inbox, "INBOX_MESSAGES", 10**6)
        monkeypatch.setattr(_inbox, "INBOX_BYTES", 1000)
        alice = SimStack(network, "alice")
        connect(network, alice, bob)
        payload = bytes(300)
        program.fails[payload] = 1
        for _ in range(10):
            alice.send("bob", payload)
            network.run(0.01)
        assert len(storage.inbox) == 4
        assert network.run_until(lambda: alice.messaging.queued_messages() == 0)

    def test_dead_letters_make_room(
        self, network: SimNetwork, bob: SimStack, program: Program
    ) -> None:
        bob.messaging.inbox.max_attempts = 2
        alice = SimStack(network, "alice")
        connect(network, alice, bob)
        program.fails.update(dict.fromkeys(numbered(10), 100))
        for payload in numbered(12):
            alice.send("bob", payload)
            network.run(0.01)
        assert network.run_until(lambda: b"11" in program.data)
        assert len(bob.messaging.inbox.dead_letters()) == 10
        network.run(1)
        assert alice.messaging.queued_messages() == 0

    def test_the_next_connection_of_that_peer_waits_too(
        self, network: SimNetwork, bob: SimStack, program: Program, storage: Storage
    ) -> None:
        alice = SimStack(network, "alice")
        connect(network, alice, bob)
        program.fails[b"0"] = 3
        for payload in numbered(20):
            alice.send("bob", payload)
            network.run(0.01)
        network.cut("alice", "bob")
        network.run(2)
        assert len(storage.inbox) <= 6
        assert network.run_until(lambda: alice.messaging.queued_messages() == 0)
        assert program.data[-20:] == list(numbered(20))


class TestStorageThatFails:
    def test_what_can_not_be_stored_is_not_acknowledged_and_tried_again(
        self,
        network: SimNetwork,
        bob: SimStack,
        raw: HandMade,
        program: Program,
        storage: Storage,
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        storage.fails.add("push_inbox")
        raw.say(raw.announce(0), message(b"0"), message(b"1"))
        raw.say(message(b"2"))
        network.run(5 * STORAGE_RETRY)
        assert (program.data, raw.acks) == ([], [])
        assert "not acknowledged" in caplog.text
        storage.fails.clear()
        network.run(1.1 * STORAGE_RETRY)
        assert program.data == [b"0", b"1", b"2"]
        assert raw.acks[-1] == 3

    def test_messages_for_now_go_on(
        self, network: SimNetwork, bob: SimStack, raw: HandMade, program: Program, storage: Storage
    ) -> None:
        storage.fails.add("push_inbox")
        raw.say(raw.announce(0), message(b"0"))
        raw.say(message(b"now", ttl=0))
        assert program.data == [b"now"]
        storage.fails.clear()
        network.run(1.1 * STORAGE_RETRY)
        assert program.data == [b"now", b"0"]
        assert raw.acks[-1] == 2

    def test_the_connection_breaks_meanwhile(
        self, network: SimNetwork, bob: SimStack, program: Program, storage: Storage
    ) -> None:
        alice = SimStack(network, "alice")
        connect(network, alice, bob)
        storage.fails.add("push_inbox")
        for payload in numbered(3):
            alice.send("bob", payload)
        network.run(3)
        network.cut("alice", "bob")
        network.run(3)
        storage.fails.clear()
        assert network.run_until(lambda: alice.messaging.queued_messages() == 0)
        assert program.data == list(numbered(3))

    @pytest.mark.parametrize("what", ["advance_inbox", "bury"])
    def test_a_step_that_fails_is_tried_again(
        self,
        network: SimNetwork,
        bob: SimStack,
        raw: HandMade,
        program: Program,
        storage: Storage,
        what: str,
    ) -> None:
        bob.messaging.inbox.max_attempts = 2
        program.fails[b"0"] = 2
        storage.fails.add(what)
        raw.say(raw.announce(0), *(message(payload) for payload in numbered(3)))
        network.run(10)
        seen = list(program.data)
        assert b"1" not in seen, "the order stays"
        storage.fails.clear()
        network.run(100)
        assert program.data[-2:] == [b"1", b"2"]
        assert program.data.count(b"0") == 2
        assert storage.inbox == []
        assert [one.message.data for one in bob.messaging.inbox.dead_letters()] == [b"0"]

    def test_a_removal_that_fails_at_the_end_is_tried_again(
        self, network: SimNetwork, bob: SimStack, raw: HandMade, program: Program, storage: Storage
    ) -> None:
        bob.messaging.on_message_recv.add(lambda *args: storage.fails.add("advance_inbox"))
        raw.say(raw.announce(0), message(b"x"))
        network.run(5)
        assert program.data == [b"x"]
        assert storage.inbox == [b"x"]
        storage.fails.clear()
        network.run(5)
        assert storage.inbox == []
        assert program.data == [b"x"]

    @pytest.mark.parametrize("storage", [None, "one that keeps nothing"])
    def test_a_storage_that_can_not_do_it_is_refused(
        self, network: SimNetwork, storage: str | None
    ) -> None:
        class Simple(MemoryQueuesStorage):
            keeps_received = False

        packeter = Packeter(network.link("x"))
        used: QueuesStorageBase | None = Simple() if storage else None
        with pytest.raises(StorageError, match="durable_receive needs a storage"):
            Messaging("x", "", packeter, used, durable_receive=True)

    def test_without_durable_receive_there_is_no_inbox(self, network: SimNetwork) -> None:
        messaging = SimStack(network, "x", storage=MemoryQueuesStorage()).messaging
        with pytest.raises(StorageError, match="durable_receive is off"):
            messaging.inbox  # noqa: B018


class TestDeferred:
    """Messages that the application finishes later, from any thread."""

    @pytest.fixture
    def deferred(self, bob: SimStack) -> list[Message]:
        kept: list[Message] = []

        def receive(conn: str, ident: str, received: Message) -> None:
            assert bob.messaging.inbox.defer(received) == (received.ttl != 0)
            kept.append(received)

        bob.messaging.on_message_recv.add(receive)
        return kept

    def test_it_stays_until_it_is_done_and_the_others_go_on(
        self,
        network: SimNetwork,
        bob: SimStack,
        raw: HandMade,
        deferred: list[Message],
        storage: Storage,
    ) -> None:
        inbox = bob.messaging.inbox
        raw.say(raw.announce(0), *(message(payload) for payload in numbered(3)))
        assert raw.acks == [3]
        assert [one.data for one in deferred] == [b"0", b"1", b"2"]
        assert storage.inbox == [b"0", b"1", b"2"]
        inbox.done(deferred[1])
        inbox.done(deferred[1])
        network.run(1)
        assert storage.inbox == [b"0", b"2"]
        for one in deferred:
            inbox.done(one)
        network.run(1)
        assert storage.inbox == []
        assert inbox._lines == {}

    def test_that_it_waited_was_no_attempt(
        self,
        network: SimNetwork,
        bob: SimStack,
        raw: HandMade,
        deferred: list[Message],
        storage: Storage,
    ) -> None:
        raw.say(raw.announce(0), message(b"x"))
        assert (deferred[0].attempts, storage.get_inbox()[0].attempts) == (0, 0)
        bob.messaging.inbox.begin(deferred[0])
        assert (deferred[0].attempts, storage.get_inbox()[0].attempts) == (1, 1)

    def test_one_that_is_not_in_the_inbox(
        self, bob: SimStack, raw: HandMade, deferred: list[Message], storage: Storage
    ) -> None:
        raw.say(raw.announce(0), message(b"now", ttl=0))
        assert len(deferred) == 1
        assert not bob.messaging.inbox.defer(Message(b""))
        bob.messaging.inbox.done(Message(b""))
        bob.messaging.inbox.begin(Message(b""))
        assert storage.inbox == []

    def test_a_removal_that_fails_is_tried_again(
        self,
        network: SimNetwork,
        bob: SimStack,
        raw: HandMade,
        deferred: list[Message],
        storage: Storage,
    ) -> None:
        raw.say(raw.announce(0), message(b"x"))
        storage.fails.add("advance_inbox")
        bob.messaging.inbox.done(deferred[0])
        network.run(3)
        assert storage.inbox == [b"x"]
        storage.fails.clear()
        network.run(2)
        assert storage.inbox == []

    def test_they_count_for_the_limit(
        self,
        network: SimNetwork,
        bob: SimStack,
        deferred: list[Message],
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        monkeypatch.setattr(_inbox, "INBOX_MESSAGES", 3)
        alice = SimStack(network, "alice")
        connect(network, alice, bob)
        for payload in numbered(10):
            alice.send("bob", payload)
            network.run(0.01)
        assert len(deferred) == 3
        for position in itertools.count():
            bob.messaging.inbox.done(deferred[position])
            network.run(0.1)
            if position == 9:
                break
        assert [one.data for one in deferred] == list(numbered(10))


class TestTransaction:
    """The callback's own writes and the removal in one."""

    @pytest.fixture
    def storage(self, tmp_path: Path) -> Iterator[SqliteQueuesStorage]:  # type: ignore[override]
        storage = SqliteQueuesStorage(tmp_path / "storage.db")
        yield storage
        storage.close()

    @staticmethod
    def handler(
        network: SimNetwork, storage: SqliteQueuesStorage, handle: Callable[..., None]
    ) -> SimStack:
        def start(stack: SimStack) -> None:
            stack.messaging.on_message_recv.add(
                lambda conn, ident, received: handle(stack, received)
            )

        stack = SimStack(network, "bob", storage=storage, on_start=start, durable_receive=True)
        with storage.transaction() as db:
            db.execute("CREATE TABLE orders (name TEXT)")
        return stack

    @staticmethod
    def orders(storage: SqliteQueuesStorage) -> list[str]:
        with storage.transaction() as db:
            return [name for (name,) in db.execute("SELECT name FROM orders")]

    @staticmethod
    def inbox(storage: SqliteQueuesStorage) -> list[InboxItem]:
        return storage.get_inbox()

    def test_the_effect_is_there_exactly_once(
        self, network: SimNetwork, storage: SqliteQueuesStorage
    ) -> None:
        attempts: list[int] = []

        def handle(stack: SimStack, received: Message) -> None:
            attempts.append(received.attempts)
            with stack.messaging.inbox.transaction(received) as transaction:
                transaction.db.execute("INSERT INTO orders VALUES (?)", [received.data.decode()])
                transaction.send_message("carol", Message(b"re", None, FLAG_PERSISTENT))
                if len(attempts) == 1:
                    raise RuntimeError("in the middle")
            raise RuntimeError("afterwards")

        bob = self.handler(network, storage, handle)
        raw = HandMade(network, "raw", bob)
        raw.greet()
        raw.say(raw.announce(0), message(b"x"))
        assert self.orders(storage) == []
        assert len(self.inbox(storage)) == 1
        assert bob.messaging.queued_messages("carol") == 0
        network.run(100)
        assert attempts == [1, 2], "once it is committed it does not come again"
        assert self.orders(storage) == ["x"]
        assert self.inbox(storage) == []
        assert bob.messaging.queued_messages("carol") == 1

    def test_a_crash_before_the_commit_or_after(
        self, network: SimNetwork, storage: SqliteQueuesStorage
    ) -> None:
        plan = iter(["before", "after", ""])

        def handle(stack: SimStack, received: Message) -> None:
            when = next(plan, "")
            with stack.messaging.inbox.transaction(received) as transaction:
                transaction.db.execute("INSERT INTO orders VALUES (?)", [received.data.decode()])
                if when == "before":
                    stack.crash()
            if when == "after":
                stack.crash()

        bob = self.handler(network, storage, handle)
        raw = HandMade(network, "raw", bob)
        raw.greet()
        raw.say(raw.announce(0), message(b"1", uuid=b"1"), message(b"2", uuid=b"2"))
        for _ in range(3):
            if not bob.running:
                bob.restart()
            network.run(1)
        raw.reconnect()
        raw.say(raw.announce(0, repeated=2), message(b"1", uuid=b"1"), message(b"2", uuid=b"2"))
        network.run(1)
        assert raw.acks[-1] == 2
        assert self.orders(storage) == ["1", "2"]
        assert self.inbox(storage) == []

    def test_a_deferred_one(self, network: SimNetwork, storage: SqliteQueuesStorage) -> None:
        kept: list[Message] = []

        def handle(stack: SimStack, received: Message) -> None:
            stack.messaging.inbox.defer(received)
            kept.append(received)

        bob = self.handler(network, storage, handle)
        raw = HandMade(network, "raw", bob)
        raw.greet()
        raw.say(raw.announce(0), message(b"x"))
        inbox = bob.messaging.inbox
        with suppress(RuntimeError), inbox.transaction(kept[0]) as transaction:
            transaction.db.execute("INSERT INTO orders VALUES ('x')")
            raise RuntimeError
        assert len(self.inbox(storage)) == 1
        with inbox.transaction(kept[0]) as transaction:
            transaction.db.execute("INSERT INTO orders VALUES ('x')")
        assert self.orders(storage) == ["x"]
        assert self.inbox(storage) == []
        inbox.done(kept[0])
        network.run(1)
        assert inbox._lines == {}
        with pytest.raises(StorageError, match="not there"), inbox.transaction(kept[0]):
            pass

    def test_a_message_that_is_not_there(
        self, network: SimNetwork, storage: SqliteQueuesStorage
    ) -> None:
        bob = self.handler(network, storage, lambda stack, received: None)
        raw = HandMade(network, "raw", bob)
        raw.greet()
        raw.say(raw.announce(0), message(b"x"), message(b"now", ttl=0))
        for received in (*(m for _, m in bob.received), Message(b"mine")):
            with (
                pytest.raises(StorageError, match="not there"),
                bob.messaging.inbox.transaction(received),
            ):
                pass


def test_many_messages_cost_one_commit_for_a_batch(
    network: SimNetwork, bob: SimStack, storage: Storage, program: Program
) -> None:
    alice = SimStack(network, "alice")
    connect(network, alice, bob)
    for payload in numbered(1000):
        alice.send("bob", payload)
    assert network.run_until(lambda: alice.messaging.queued_messages() == 0)
    assert program.data == list(numbered(1000))
    assert storage.calls.count("push_inbox") < 20
    assert storage.calls.count("advance_inbox") <= 1000 + 20
