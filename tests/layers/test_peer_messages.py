"""Messages between Peers: what is sent, what arrives, who is told."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from snakemq import FLAG_PERSISTENT, Message, NoConnection, Peer, PeerClosed, ReceivedMessage
from snakemq.message import MAX_UUID_LENGTH
from snakemq.storage import MemoryQueuesStorage
from tests.helpers import DEADLINE, wait_until
from tests.layers.peers import Recorder, connected_pair


def receive(peer: Peer) -> ReceivedMessage:
    received = peer.receive(DEADLINE)
    assert received is not None
    return received


# Sending.


@pytest.mark.parametrize(
    ("sent", "arrives"),
    [
        (b"bytes \xff\x00", b"bytes \xff\x00"),
        (bytearray(b"array"), b"array"),
        (memoryview(b"a view")[2:], b"view"),
        ("žluťoučký", "žluťoučký".encode()),
        (b"", b""),
    ],
)
def test_data_is_bytes_or_text(sent: Any, arrives: bytes) -> None:
    with connected_pair() as (bob, alice):
        uuid = alice.send("bob", sent)
        received = receive(bob)
    assert (received.data, received.uuid, received.ident) == (arrives, uuid, "alice")


def test_what_arrives_tells_everything_about_itself() -> None:
    with connected_pair() as (bob, alice):
        uuid = alice.send("bob", "text", ttl=7.5, uuid=b"0123456789abcdef", flags=0x80)
        received = receive(bob)
        assert bob.link.get_socket_by_conn(received.conn_id) is not None
    assert uuid == b"0123456789abcdef"
    assert received.uuid == uuid
    assert received.text == "text"
    assert received.ttl == 7.0  # whole seconds on the wire
    assert received.flags == 0x80
    assert isinstance(received.message, Message)
    assert repr(received).startswith("<ReceivedMessage from 'alice' <Message uuid=30313233")


def test_what_is_not_text_says_so() -> None:
    with connected_pair() as (bob, alice):
        alice.send("bob", b"\xff")
        received = receive(bob)
    with pytest.raises(UnicodeDecodeError):
        _ = received.text


def test_ttl_is_for_ever_if_it_is_not_given() -> None:
    with connected_pair() as (bob, alice):
        alice.send("bob", "text")
        assert receive(bob).ttl is None


def test_every_message_has_an_identifier_of_its_own() -> None:
    with Peer("alice") as alice:
        uuids = {alice.send("bob", "x") for _ in range(100)}
        assert len(uuids) == 100
        assert {len(uuid) for uuid in uuids} == {MAX_UUID_LENGTH}


@pytest.mark.parametrize(
    ("ident", "data", "arguments", "exception", "what_to_do"),
    [
        ("alice", "x", {}, ValueError, "can't send messages to itself"),
        ("", "x", {}, ValueError, "ident must have 1 to 50 characters"),
        ("x" * 51, "x", {}, ValueError, "ident must have 1 to 50 characters"),
        (b"bob", "x", {}, TypeError, "ident must be a string, not bytes"),
        ("bob", 7, {}, TypeError, "data must be bytes or str, not int"),
        ("bob", None, {}, TypeError, "data must be bytes or str, not NoneType"),
        ("bob", "x", {"persistent": True}, ValueError, "give the peer storage=PATH"),
        ("bob", "x", {"ttl": -1}, ValueError, "ttl"),
        ("bob", "x", {"uuid": "text"}, TypeError, "uuid must be bytes"),
        ("bob", "x", {"flags": -1}, ValueError, "flags"),
    ],
)
def test_a_wrong_argument_is_refused_and_nothing_is_queued(
    ident: Any,
    data: Any,
    arguments: dict[str, Any],
    exception: type[Exception],
    what_to_do: str,
) -> None:
    with Peer("alice") as alice:
        with pytest.raises(exception, match=what_to_do):
            alice.send(ident, data, **arguments)
        assert alice.queued() == 0


def test_messages_can_be_sent_before_the_peer_runs() -> None:
    with Peer("bob", listen=0) as bob:
        alice = Peer("alice", connect=bob.addresses[0])
        alice.send("bob", "early")
        with alice:
            assert receive(bob).text == "early"


def test_a_message_is_persistent_exactly_if_there_is_a_storage() -> None:
    with connected_pair(alice={"storage": MemoryQueuesStorage()}) as (bob, alice):
        alice.send("bob", "default")
        alice.send("bob", "no", persistent=False)
        alice.send("bob", "yes", persistent=True)
        assert [receive(bob).flags for _ in range(3)] == [FLAG_PERSISTENT, 0, FLAG_PERSISTENT]
        bob.send("alice", "default")
        assert receive(alice).flags == 0


def test_persistent_messages_are_on_disk_when_send_returns(tmp_path: Path) -> None:
    with Peer("alice", storage=tmp_path / "queue.db") as alice:
        alice.send("bob", "kept")
        alice.send("bob", "not kept", persistent=False)
        assert alice._stack.storage is not None
        assert [m.data for m in alice._stack.storage.get_items("bob")] == [b"kept"]


def test_order_is_kept_across_a_reconnect() -> None:
    with Peer("alice", listen=0) as alice:
        for number in range(10):
            alice.send("bob", str(number))
        with Peer("bob", connect=alice.addresses[0]) as bob:
            assert [receive(bob).text for _ in range(10)] == [str(n) for n in range(10)]
        wait_until(lambda: not alice.peers)
        for number in range(10, 20):
            alice.send("bob", str(number))
        with Peer("bob", connect=alice.addresses[0]) as bob:
            assert [receive(bob).text for _ in range(10)] == [str(n) for n in range(10, 20)]


def test_one_hears_of_messages_that_were_sent_and_that_were_dropped() -> None:
    sent, dropped = Recorder(), Recorder()
    with connected_pair() as (_bob, alice):
        alice.on_message_sent.add(sent)
        alice.on_message_drop.add(dropped)
        delivered = alice.send("bob", "hello")
        late = alice.send("nobody", "hello", ttl=0.01)
        assert sent.wait() == [("bob", delivered)]
        assert dropped.wait() == [("nobody", late)]
        assert alice.flush(timeout=0)


def test_ttl_0_is_for_those_who_are_connected_now() -> None:
    with connected_pair() as (bob, alice):
        alice.send("bob", "now", ttl=0)
        assert receive(bob).ttl == 0
        alice.send("nobody", "now", ttl=0)
        assert alice.queued("nobody") == 0


def test_what_waits_can_be_counted_and_waited_for() -> None:
    with Peer("alice", listen=0) as alice:
        alice.send("bob", "one")
        alice.send("bob", "two")
        alice.send("carol", "three")
        assert (alice.queued(), alice.queued("bob"), alice.queued("dave")) == (3, 2, 0)
        assert alice.flush("dave", timeout=0)
        assert not alice.flush("bob", timeout=0.01)
        with Peer("bob", connect=alice.addresses[0]):
            assert alice.flush("bob", DEADLINE)
            assert not alice.flush(timeout=0.01)
            with Peer("carol", connect=alice.addresses[0]):
                assert alice.flush(timeout=DEADLINE)


def test_nothing_is_queued_any_more_when_all_is_acknowledged() -> None:
    inside, release = threading.Event(), threading.Event()

    def busy(received: ReceivedMessage) -> None:
        inside.set()
        assert release.wait(DEADLINE)

    with connected_pair(bob={"on_message": busy}) as (_bob, alice), ThreadPoolExecutor(1) as pool:
        alice.send("bob", "work")
        assert inside.wait(DEADLINE)
        assert not alice.flush("bob", timeout=0.01)
        assert alice.queued("bob") == 1
        flushing = pool.submit(alice.flush, "bob")
        release.set()
        assert flushing.result(DEADLINE)
        assert alice.queued() == 0


# Receiving.


def test_receive_waits_and_gives_up() -> None:
    with connected_pair() as (bob, alice):
        assert bob.receive(0) is None
        began = time.monotonic()
        assert bob.receive(0.05) is None
        assert time.monotonic() - began >= 0.05
        with ThreadPoolExecutor(1) as pool:
            waiting = pool.submit(bob.receive)
            alice.send("bob", "hello")
            received = waiting.result(DEADLINE)
        assert received is not None
        assert received.text == "hello"


def test_iterating_ends_after_silence() -> None:
    with connected_pair() as (bob, alice):
        alice.send("bob", "one")
        alice.send("bob", "two")
        wait_until(lambda: len(bob._inbox) == 2)
        assert [received.text for received in bob.messages(timeout=0.05)] == ["one", "two"]


def test_every_message_is_seen_by_one_of_several_readers() -> None:
    count = 300
    with connected_pair() as (bob, alice), ThreadPoolExecutor(4) as pool:
        readers = [pool.submit(lambda: [r.text for r in bob.messages()]) for _ in range(4)]
        for number in range(count):
            alice.send("bob", str(number))
        assert alice.flush(timeout=DEADLINE)
        alice.stop()
        wait_until(lambda: not bob.peers)
        bob.stop()
        seen = [text for reader in readers for text in reader.result(DEADLINE)]
    assert sorted(seen, key=int) == [str(number) for number in range(count)]


def test_callbacks_get_the_messages_instead() -> None:
    got = Recorder()
    with connected_pair(bob={"on_message": got}) as (bob, alice):
        alice.send("bob", "hello")
        assert [received.text for received in got.wait()] == ["hello"]
        with pytest.raises(RuntimeError, match="let on_message be empty"):
            bob.receive(0)
        with pytest.raises(RuntimeError, match="let on_message be empty"):
            next(bob.messages())
        bob.on_message = None
        alice.send("bob", "for the reader")
        assert receive(bob).text == "for the reader"
        assert len(got) == 1


def test_the_first_callback_gets_what_waited_for_a_reader() -> None:
    got = Recorder()
    with connected_pair() as (bob, alice):
        alice.send("bob", "one")
        alice.send("bob", "two")
        wait_until(lambda: len(bob._inbox) == 2)
        bob.on_message.add(got)
        alice.send("bob", "three")
        assert [received.text for received in got.wait(3)] == ["one", "two", "three"]


def test_callbacks_run_in_the_thread_of_the_loop_and_can_answer() -> None:
    threads = Recorder()
    with connected_pair() as (bob, alice):

        def answer(received: ReceivedMessage) -> None:
            threads(threading.current_thread().name)
            bob.send(received.ident, received.data[::-1])

        bob.on_message.add(answer)
        alice.send("bob", "hello")
        assert receive(alice).text == "olleh"
    assert threads == ["snakemq peer bob"]


@pytest.mark.parametrize("method", ["receive", "wait_connected", "flush", "ping", "messages"])
def test_what_waits_refuses_to_wait_in_a_callback(method: str) -> None:
    errors = Recorder()
    with connected_pair() as (bob, alice):

        def callback(ident: str, uuid: bytes) -> None:
            if method == "messages":
                next(bob.messages())
            else:
                getattr(bob, method)(*(["alice"] if method != "receive" else []))

        bob.on_error.add(errors)
        bob.on_message_sent.add(callback)
        bob.send("alice", "hello")
        ((_, error),) = errors.wait()
        assert alice.receive(DEADLINE) is not None
    assert isinstance(error, RuntimeError)
    assert "a callback can't wait" in str(error)


# Peers.


def test_peers_come_and_go() -> None:
    come, gone = Recorder(), Recorder()
    with Peer("bob", listen=0) as bob:
        bob.on_peer_connect.add(come)
        bob.on_peer_disconnect.add(gone)
        assert not bob.wait_connected("alice", 0.01)
        with Peer("alice", connect=bob.addresses[0]) as alice:
            assert bob.wait_connected("alice", DEADLINE)
            assert alice.wait_connected("bob", DEADLINE)
            assert bob.peers == ["alice"]
            assert bob.is_connected("alice")
            assert come.wait() == ["alice"]
        assert gone.wait() == ["alice"]
        wait_until(lambda: not bob.is_connected("alice"))
        assert bob.peers == []


def test_stopping_is_a_disconnect_for_both_sides() -> None:
    gone = Recorder()
    with connected_pair() as (bob, alice):
        alice.on_peer_disconnect.add(gone)
        bob.on_peer_disconnect.add(gone)
        bob.stop()
        assert sorted(gone.wait(2)) == ["alice", "bob"]


def test_listeners_and_connectors_come_and_go_while_it_runs() -> None:
    with (
        Peer("bob") as bob,
        Peer("alice", reconnect_interval=0.05) as alice,
    ):
        address = bob.add_listener(0)
        assert bob.addresses == [address]
        assert alice.add_connector(address) == address
        assert alice.wait_connected("bob", DEADLINE)
        with pytest.raises(ValueError, match="already"):
            alice.add_connector(address)
        with pytest.raises(OSError, match="can't listen"):
            alice.add_listener(address)
        alice.del_connector(address)
        wait_until(lambda: not alice.peers)
        bob.del_listener(address)
        assert bob.addresses == []
        with pytest.raises(KeyError):
            bob.del_listener(address)
        with pytest.raises(KeyError):
            alice.del_connector(address)
        # Nobody listens there, until somebody does.
        alice.add_connector("{}:{}".format(*address))
        assert bob.add_listener("{}:{}".format(*address)) == address
        assert alice.wait_connected("bob", DEADLINE)


def test_callbacks_can_add_listeners_too() -> None:
    added = Recorder()
    with connected_pair() as (bob, _alice):
        bob.link.call_soon(lambda: added(bob.add_listener(0)))
        (address,) = added.wait()
        with Peer("carol", connect=address) as carol:
            assert carol.wait_connected("bob", DEADLINE)


def test_ping_measures_a_round_trip() -> None:
    with connected_pair() as (bob, alice):
        assert 0 < alice.ping("bob", DEADLINE) < DEADLINE
        with pytest.raises(NoConnection, match="nobody"):
            alice.ping("nobody")
        bob.stop()
        with pytest.raises(PeerClosed):
            bob.ping("alice")


def test_a_peer_that_is_busy_does_not_answer_a_ping_in_time() -> None:
    inside, release = threading.Event(), threading.Event()

    def busy(received: ReceivedMessage) -> None:
        inside.set()
        release.wait(DEADLINE)

    with connected_pair(bob={"on_message": busy}) as (_bob, alice):
        alice.send("bob", "work")
        assert inside.wait(DEADLINE)
        with pytest.raises(TimeoutError, match="'bob' did not answer within 0"):
            alice.ping("bob", 0.05)
        with ThreadPoolExecutor(1) as pool:
            waiting = pool.submit(alice.ping, "bob", DEADLINE)
            release.set()
            assert waiting.result(DEADLINE) > 0


def test_a_ping_ends_with_its_connection() -> None:
    inside, release = threading.Event(), threading.Event()

    def busy(received: ReceivedMessage) -> None:
        inside.set()
        release.wait(DEADLINE)

    with connected_pair(bob={"on_message": busy}) as (bob, alice), ThreadPoolExecutor(1) as pool:
        alice.send("bob", "work")
        assert inside.wait(DEADLINE)
        waiting = pool.submit(alice.ping, "bob", DEADLINE)
        alice.del_connector(bob.addresses[0])
        with pytest.raises(NoConnection):
            waiting.result(DEADLINE)
        release.set()


def test_keepalive_closes_connections_to_the_dead() -> None:
    inside, release = threading.Event(), threading.Event()

    def dead(received: ReceivedMessage) -> None:
        inside.set()
        release.wait(DEADLINE)

    with connected_pair(bob={"on_message": dead}, alice={"keepalive": 0.05}) as (_bob, alice):
        assert alice.messaging.keepalive_interval == 0.05
        gone = Recorder()
        alice.on_peer_disconnect.add(gone)
        alice.messaging.keepalive_wait = 0.05
        alice.send("bob", "die")
        assert inside.wait(DEADLINE)
        # On a busy machine he may have been taken for dead before, and come back.
        wait_until(lambda: not alice.is_connected("bob"))
        assert set(gone.wait()) == {"bob"}
        release.set()


def test_keepalive_can_be_off() -> None:
    with Peer("bob", keepalive=None) as bob:
        assert bob.messaging.keepalive_interval is None


def test_the_layers_are_within_reach() -> None:
    with Peer("bob", throttle=1e6) as bob:
        assert bob.throttle is not None
        assert bob.throttle.link is bob.link
        assert bob.packeter.link is bob.throttle
        assert bob.messaging.packeter is bob.packeter
        assert bob.receive_hook.messaging is bob.messaging
        assert bob.messaging.identifier == bob.identifier == "bob"
    with Peer("bob") as bob:
        assert bob.throttle is None
        assert bob.packeter.link is bob.link


def test_the_throttle_holds_back_what_is_sent() -> None:
    with connected_pair(alice={"throttle": 100_000}) as (bob, alice):
        began = time.monotonic()
        alice.send("bob", bytes(50_000))
        receive(bob)
        assert time.monotonic() - began > 0.3
