"""Whole stacks with everything for remote calls: on sockets, and on the simulated network."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from snakemq.link import Link, SSLConfig
from snakemq.messaging import Messaging, ReceiveHook
from snakemq.packeter import Packeter
from snakemq.rpc import RpcClient, RpcServer
from snakemq.storage.sqlite import SqliteQueuesStorage
from snakemq.testing import SimNetwork, SimStack
from tests.helpers import DEADLINE, wait_until

__all__ = ["RpcNode", "RpcNodes", "SimPair", "leftovers_of_client", "leftovers_of_server"]

LOCALHOST = "127.0.0.1"


class RpcNode:
    """A stack on real sockets, with the thread of its loop.

    :param ident: its identifier
    :param connect: port to dial
    :param listen: whether it listens
    :param storage: path of an SQLite file
    :param tls: for its connections
    :param server_options: more arguments of ``RpcServer``
    """

    def __init__(
        self,
        ident: str,
        connect: int | None = None,
        *,
        listen: bool = False,
        storage: Path | None = None,
        tls: SSLConfig | None = None,
        **server_options: Any,
    ) -> None:
        self.link = Link()
        self.link.reconnect_interval = 0.01
        self.link.reconnect_interval_max = 0.05
        self.packeter = Packeter(self.link)
        kept = None if storage is None else SqliteQueuesStorage(str(storage))
        self.messaging = Messaging(ident, "", self.packeter, kept)
        self.messaging.takeover_wait = 0.05
        self.hook = ReceiveHook(self.messaging)
        self.server = RpcServer(self.hook, **server_options)
        self.client = RpcClient(self.hook)
        self.port = 0
        if listen:
            self.port = self.link.add_listener((LOCALHOST, 0), ssl_config=tls)[1]
        if connect is not None:
            self.link.add_connector((LOCALHOST, connect), ssl_config=tls)
        self._thread = threading.Thread(target=self.link.loop, name=f"loop of {ident}")

    def start(self) -> RpcNode:
        self._thread.start()
        return self

    def halt(self) -> None:
        """As if the process had ended, except that methods still run."""
        self.link.stop()
        if self._thread.ident is not None:
            self._thread.join(DEADLINE)
            assert not self._thread.is_alive()
        self.link.cleanup()

    def stop(self) -> None:
        self.client.close()
        self.halt()
        assert self.server.close(DEADLINE), "a method that was called does not end"
        self.messaging.close()

    def in_loop(self, func: Callable[[], object]) -> None:
        """Call in the thread of the loop, and wait."""
        done = threading.Event()
        self.link.call_soon(func)
        self.link.call_soon(done.set)
        assert done.wait(DEADLINE)

    def wait_for(self, ident: str) -> None:
        wait_until(lambda: self.messaging.is_connected(ident))

    def cut(self) -> None:
        """Break all connections from here; connectors dial again."""

        def close() -> None:
            for conn_id in list(self.messaging._connections):
                self.packeter.close(conn_id)

        self.in_loop(close)


class RpcNodes:
    """Those of one test."""

    def __init__(self) -> None:
        self._stack = contextlib.ExitStack()

    def add(self, ident: str, connect: int | None = None, **options: Any) -> RpcNode:
        node = RpcNode(ident, connect, **options)
        self._stack.callback(node.stop)
        return node.start()

    def pair(self, through: int | None = None, **server_options: Any) -> tuple[RpcNode, RpcNode]:
        """Alice, who serves and listens, and bob, who has connected."""
        alice = self.add("alice", listen=True, **server_options)
        bob = self.add("bob", through or alice.port)
        alice.wait_for("bob")
        bob.wait_for("alice")
        return alice, bob

    def close(self) -> None:
        self._stack.close()


class SimPair:
    """Bob calls alice over the simulated network. Methods run in real threads.

    Time is virtual: it passes only in :meth:`until` and :meth:`run`.
    """

    def __init__(self, network: SimNetwork, **server_options: Any) -> None:
        self.network = network
        self.alice = SimStack(network, "alice")
        self.bob = SimStack(network, "bob")
        self.server = RpcServer(self.alice.hook, **server_options)
        self.client = RpcClient(self.bob.hook)
        self.proxy: Any = self.client.get_proxy("alice", "obj")
        self.bob.connect(self.alice, reconnect_interval=0.1)
        self.wait_connected()

    def wait_connected(self) -> None:
        assert self.network.run_until(
            lambda: (
                self.alice.messaging.is_connected("bob")
                and self.bob.messaging.is_connected("alice")
            )
        )

    def until(self, condition: Callable[[], object]) -> None:
        """Let time pass until this is so; a thread may have to do its part."""
        wait_until(lambda: condition() or self.network.run_until(condition, timeout=0.05))

    def run(self, seconds: float) -> None:
        self.network.run(seconds)

    def disconnect(self) -> None:
        """Cut the connection, and have none until :meth:`reconnect`."""
        self.network.cut("alice", "bob")
        self.bob.disconnect(self.alice)
        self.network.heal()
        assert self.network.run_until(
            lambda: (
                not self.alice.messaging.is_connected("bob")
                and not self.bob.messaging.is_connected("alice")
            )
        )

    def reconnect(self) -> None:
        self.bob.connect(self.alice, reconnect_interval=0.1)
        self.wait_connected()

    def close(self) -> None:
        self.client.close()
        self.network.run(0.01)
        self.alice.close()
        self.bob.close()
        assert self.server.close(DEADLINE)


@contextlib.contextmanager
def sim_pair(seed: int = 0, **server_options: Any) -> Iterator[SimPair]:
    pair = SimPair(SimNetwork(seed), **server_options)
    try:
        yield pair
    finally:
        pair.close()


def leftovers_of_server(server: RpcServer) -> dict[str, object]:
    """What a server that is idle, and whose callers have all they asked for, should not have."""
    dispatcher = server.dispatcher
    parts = server.answers._parts
    found = {
        "executions": len(server.executions),
        "bytes of answers": server.executions.kept_bytes,
        "answers under way": server.answers.under_way,
        "streams": len(server.streams.open),
        "callers that are away": len(server.streams.away),
        "running": dispatcher.running,
        "waiting": dispatcher.waiting,
        "bytes waiting": dispatcher.waiting_bytes,
        "lines": len(dispatcher._lines) + len(dispatcher._ready),
        "running by peer": len(dispatcher._peers.running) + len(dispatcher._peers.parked),
        "running by object": len(dispatcher._objects.running) + len(dispatcher._objects.parked),
        "unread": len(server._unread._counts) + len(server._unread.cancelled),
        "bytes in parts": parts.waiting_bytes() + server._parts.held_bytes,
        "parts flying": sum(len(remote.flying) for remote in parts._remotes.values()),
    }
    return {what: value for what, value in found.items() if value}


def leftovers_of_client(client: RpcClient) -> dict[str, object]:
    """What a client without calls should not have."""
    sender = client._sender
    found = {
        "calls": client.pending_calls(),
        "deadlines": len(client._deadlines),
        "deadlines in the heap": len(client._deadlines._heap),
        "timers": int(client._deadlines._timer is not None),
        "bytes in parts": sender.waiting_bytes() + client._receiver.held_bytes,
        "parts flying": sum(len(remote.flying) for remote in sender._remotes.values()),
    }
    return {what: value for what, value in found.items() if value}
