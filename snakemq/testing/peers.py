"""A pair of real, connected peers in one line.

::

    with snakemq.testing.peer_pair() as (alice, bob):
        alice.send("bob", "hello")
        assert bob.receive(timeout=10).text == "hello"
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from snakemq.peer import Peer

__all__ = ["peer_pair"]


@contextmanager
def peer_pair(
    names: tuple[str, str] = ("alice", "bob"), *, timeout: float = 20.0, **options: Any
) -> Iterator[tuple[Peer, Peer]]:
    """Two connected peers over TCP on the loopback interface; the first dialled.

    Unlike :func:`snakemq.testing.pair` this is the real thing: threads, sockets
    and real time. The port is a free one.

    :param names: their identifiers
    :param timeout: how long they may take to connect, in seconds
    :param options: more arguments of :class:`snakemq.Peer`, for both
    :raises TimeoutError: they did not connect in time
    """
    with ExitStack() as stack:
        second = stack.enter_context(Peer(names[1], listen=("127.0.0.1", 0), **options))
        first = stack.enter_context(Peer(names[0], connect=second.addresses[0], **options))
        for peer, other in ((first, second), (second, first)):
            if not peer.wait_connected(other.identifier, timeout):
                raise TimeoutError(f"{names[0]!r} and {names[1]!r} did not connect")
        yield first, second
