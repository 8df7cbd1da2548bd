"""Many connections, long queues, large packets: over real sockets."""

from __future__ import annotations

import hashlib
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from snakemq.link import Link
from snakemq.message import Message
from snakemq.messaging import Messaging
from snakemq.packeter import Packeter
from tests.helpers import open_files, wait_until

pytestmark = pytest.mark.slow


@contextmanager
def looping(*links: Link) -> Iterator[list[threading.Thread]]:
    threads = [threading.Thread(target=link.loop) for link in links]
    for thread in threads:
        thread.start()
    try:
        yield threads
    finally:
        for link, thread in zip(links, threads, strict=True):
            link.stop()
            thread.join()
            link.cleanup()


def test_a_packet_of_hundreds_of_megabytes_in_linear_time() -> None:
    received: list[tuple[int, bytes]] = []
    sent: list[object] = []
    server, client = Link(), Link()
    receiver, sender = Packeter(server), Packeter(client)
    receiver.on_packet_recv.add(
        lambda conn, packet: received.append((len(packet), hashlib.sha1(packet).digest()))
    )
    sender.on_packet_sent.add(lambda conn, packet_id: sent.append(packet_id))
    connected: list[str] = []
    sender.on_connect.add(connected.append)
    client.add_connector(server.add_listener(("127.0.0.1", 0)))
    pattern = bytes(range(256)) * 4096  # 1 MiB

    def measure(megabytes: int) -> float:
        packet = pattern * megabytes
        start = time.process_time()  # of both loops; what other processes take does not count
        count = len(received)
        client.call_soon(sender.send_packet, connected[0], packet)
        wait_until(lambda: len(received) > count)
        assert received[-1] == (len(packet), hashlib.sha1(packet).digest())
        return time.process_time() - start

    with looping(server, client):
        wait_until(lambda: connected)
        measure(1)
        small = measure(16)
        large = measure(256)
        wait_until(lambda: len(sent) == 3)
    # 16 times the data. Quadratic copying would take 256 times as long.
    assert large < 100 * max(small, 0.02)


def test_a_hundred_thousand_messages_before_the_loop_runs() -> None:
    server, client = Link(), Link()
    got: list[bytes] = []
    bob = Messaging("bob", "", Packeter(server))
    alice = Messaging("alice", "", Packeter(client))
    bob.on_message_recv.add(lambda conn, ident, message: got.append(message.data))
    client.add_connector(server.add_listener(("127.0.0.1", 0)))
    # 1.6 blocked for ever after 65,536 of them, on a full pipe.
    for number in range(100_000):
        alice.send_message("bob", Message(b"%d" % number, ttl=60))
    with looping(server, client):
        wait_until(lambda: len(got) == 100_000)
    assert got == [b"%d" % number for number in range(100_000)]


def test_a_thousand_idle_connections_take_no_cpu() -> None:
    with open_files(2500):
        _idle_connections()


def _idle_connections() -> None:
    server = Link()
    messaging = Messaging("server", "", Packeter(server))
    address = server.add_listener(("127.0.0.1", 0))
    cpu: list[float] = []
    passes = 0

    def count() -> None:
        nonlocal passes
        passes += 1

    server.on_loop_pass.wire(count)
    greeting = b"\0\0\0\5\0\0\0\0\1"
    clients: list[socket.socket] = []
    with looping(server):
        try:
            for number in range(1000):
                client = socket.create_connection(address)
                clients.append(client)
                name = b"\2%d" % number
                client.sendall(greeting + len(name).to_bytes(4, "big") + name)
            wait_until(lambda: len(messaging.connected_peers()) == 1000)
            measured = threading.Event()

            def measure(since: float | None = None) -> None:
                # In the loop's thread: its own CPU time and nobody else's.
                if since is None:
                    server.call_later(1.0, measure, time.thread_time())
                else:
                    cpu.append(time.thread_time() - since)
                    measured.set()

            server.call_soon(measure)
            before = passes
            assert measured.wait(20)
            assert cpu[0] < 0.02, "2 % of a processor would be a lot"
            assert passes - before < 20
        finally:
            for client in clients:
                client.close()
            wait_until(lambda: not messaging.connected_peers())
