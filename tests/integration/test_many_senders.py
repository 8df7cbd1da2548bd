"""Many threads that send through one peer, while the connections are cut behind any byte.

Nothing is lost, nothing comes twice, and what one thread sends to one peer
comes in the order in which it was sent, in whatever way it was sent.
"""

from __future__ import annotations

import contextlib
import random
import struct
import sys
import threading
from collections import defaultdict
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from snakemq import DeliveryState, Peer, ReceivedMessage, SSLConfig
from tests.crash.proxy import CuttingProxy, Direction, Ending, Trap
from tests.helpers import DEADLINE
from tests.layers.tls_support import Files

THREADS = 16
RECEIVERS = 3

#: thread, number of the message from it to this receiver
_HEADER = struct.Struct("!II")

#: By sender and thread: the numbers that came.
Numbers = defaultdict[tuple[str, int], list[int]]


@pytest.fixture
def _eager_threads() -> Iterator[None]:
    """Threads that take turns ten times as often as they do otherwise."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(before / 10)
    try:
        yield
    finally:
        sys.setswitchinterval(before)


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Files:
    return Files(tmp_path_factory.mktemp("certificates"))


def _numbers() -> Numbers:
    return defaultdict(list)


class Receiver:
    """Keeps what comes, sends some of it back, and serves calls."""

    def __init__(self, name: str, tls: SSLConfig | None) -> None:
        self.name = name
        self.numbers = _numbers()
        self.calls: defaultdict[int, int] = defaultdict(int)
        #: how many messages it has sent
        self.answers = 0
        self.peer = Peer(
            name, listen=0, tls=tls, on_message=self._received, serve={"counting": self}
        )

    def _received(self, received: ReceivedMessage) -> None:
        thread, number = _HEADER.unpack_from(received.data)
        self.numbers[received.ident, thread].append(number)
        if number % 3 == 0:
            self.peer.send("alice", _HEADER.pack(0, self.answers))
            self.answers += 1

    def effect(self, token: int) -> int:
        """Called remotely, in threads of the server."""
        self.calls[token] += 1
        return -token


class Sender:
    """One of the threads: sends to all receivers in all ways."""

    def __init__(self, alice: Peer, thread: int, seed: int, names: list[str]) -> None:
        self._alice = alice
        self.thread = thread
        self._rng = random.Random(seed * 1000 + thread)
        self._names = names
        self.sent = dict.fromkeys(names, 0)
        self.called: list[tuple[str, int]] = []
        self._ways: list[Callable[[str], object]] = [
            self._send,
            self._send_with_ttl,
            self._send_and_wait,
            self._send_batch,
            self._call,
            self._call_later,
        ]

    def run(self, stop: threading.Event) -> None:
        """Go on until told to stop, but not before all has been tried for a while."""
        while not stop.is_set() or sum(self.sent.values()) < 20 or not self.called:
            self._rng.choice(self._ways)(self._rng.choice(self._names))

    def _next(self, name: str) -> bytes:
        number = self.sent[name]
        self.sent[name] = number + 1
        return _HEADER.pack(self.thread, number) + bytes(int(10 ** self._rng.uniform(0, 3.5)))

    def _send(self, name: str) -> None:
        for _ in range(self._rng.randrange(1, 5)):
            self._alice.send(name, self._next(name))

    def _send_with_ttl(self, name: str) -> None:
        self._alice.send(name, self._next(name), ttl=3600)

    def _send_and_wait(self, name: str) -> None:
        delivery = self._alice.send(name, self._next(name), track=True)
        assert delivery.wait(timeout=DEADLINE) is DeliveryState.ACKNOWLEDGED

    def _send_batch(self, _: str) -> None:
        names = self._rng.choices(self._names, k=self._rng.randrange(1, 8))
        self._alice.send_messages([(name, self._next(name)) for name in names])

    def _token(self, name: str) -> int:
        token = len(self.called) * THREADS + self.thread
        self.called.append((name, token))
        return token

    def _call(self, name: str) -> None:
        token = self._token(name)
        assert self._remote(name).effect(token) == -token

    def _call_later(self, name: str) -> None:
        tokens = [self._token(name) for _ in range(self._rng.randrange(1, 5))]
        futures = [self._remote(name).effect.future(token) for token in tokens]
        assert [future.result(DEADLINE) for future in futures] == [-token for token in tokens]

    def _remote(self, name: str) -> Any:
        return self._alice.proxy(name, "counting", timeout=DEADLINE)


@pytest.mark.slow
@pytest.mark.usefixtures("_eager_threads")
@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("encrypted", [False, True], ids=["plain", "tls"])
def test_nothing_is_lost_doubled_or_overtaken(
    seed: int, encrypted: bool, certificates: Files
) -> None:
    rng = random.Random(seed)
    tls = certificates.config() if encrypted else None
    answers = _numbers()

    def answered(received: ReceivedMessage) -> None:
        answers[received.ident, 0].append(_HEADER.unpack(received.data)[1])

    with contextlib.ExitStack() as stack:
        receivers = [Receiver(f"bob {number}", tls) for number in range(RECEIVERS)]
        proxies = []
        for receiver in receivers:
            stack.enter_context(receiver.peer)
            proxy = stack.enter_context(CuttingProxy())
            proxy.lead_to(receiver.peer.addresses[0][1])
            proxies.append(proxy)
        alice = stack.enter_context(
            Peer(
                "alice",
                connect=[proxy.port for proxy in proxies],
                reconnect_interval=0.01,
                tls=tls,
                on_message=answered,
            )
        )
        names = [receiver.name for receiver in receivers]
        senders = [Sender(alice, thread, seed, names) for thread in range(THREADS)]

        stop = threading.Event()
        with ThreadPoolExecutor(THREADS) as pool:
            results = [pool.submit(sender.run, stop) for sender in senders]
            try:
                for _ in range(20):
                    _cut(rng.choice(proxies), rng)
            finally:
                stop.set()
        for result in results:
            result.result()

        assert alice.flush(timeout=DEADLINE)
        for receiver in receivers:
            assert receiver.peer.flush(timeout=DEADLINE)
            for sender in senders:
                came = receiver.numbers["alice", sender.thread]
                assert came == [*range(sender.sent[receiver.name])]
            made = {
                token
                for sender in senders
                for name, token in sender.called
                if name == receiver.name
            }
            assert receiver.calls == dict.fromkeys(made, 1)
            assert answers[receiver.name, 0] == [*range(receiver.answers)]


def _cut(proxy: CuttingProxy, rng: random.Random) -> None:
    """Cut what goes through behind some byte that is soon to come."""
    trap = Trap(
        rng.choice(list(Direction)),
        int(10 ** rng.uniform(0, 3.5)),
        rng.choice((Ending.CLOSE, Ending.RESET)),
    )
    assert proxy.arm(trap).wait()
