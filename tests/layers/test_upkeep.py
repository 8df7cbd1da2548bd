"""What a storage has to do now and then is done when nothing else is."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import pytest

from snakemq._upkeep import IDLE, PAUSE
from snakemq.exceptions import StorageError
from snakemq.message import FLAG_PERSISTENT, Message
from snakemq.storage import MemoryQueuesStorage, Removal
from snakemq.testing import SimNetwork, SimStack
from tests.layers.delivery_support import connect


class WatchedStorage(MemoryQueuesStorage):
    """Writes down when it is asked for what."""

    def __init__(self, network: SimNetwork) -> None:
        super().__init__()
        self.network = network
        self.pieces = 0
        self.calls: list[tuple[str, float]] = []
        self.fails: set[str] = set()

    def _call(self, what: str) -> None:
        self.calls.append((what, self.network.time()))
        if what in self.fails:
            raise StorageError(f"{what}: the disk is full")

    def when(self, what: str) -> list[float]:
        return [when for call, when in self.calls if call == what]

    def maintain(self) -> bool:
        self._call("maintain")
        self.pieces -= 1
        return self.pieces > 0

    def sync(self) -> None:
        self._call("sync")

    def change_items(
        self,
        push: Sequence[tuple[str, Message]],
        remove: Sequence[Removal] = (),
        *,
        sync: bool = True,
    ) -> list[int]:
        self._call("push" if push else "remove")
        return super().change_items(push, remove, sync=sync)


@pytest.fixture
def network() -> SimNetwork:
    return SimNetwork(seed=1)


@pytest.fixture
def storage(network: SimNetwork) -> WatchedStorage:
    return WatchedStorage(network)


@pytest.fixture
def alice(network: SimNetwork, storage: WatchedStorage) -> SimStack:
    stack = SimStack(network, "alice", storage=storage)
    storage.calls.clear()
    return stack


def push(stack: SimStack) -> None:
    stack.send("bob", b"x", flags=FLAG_PERSISTENT)


def test_what_an_earlier_process_left_is_made_durable_at_the_start(
    network: SimNetwork, storage: WatchedStorage
) -> None:
    SimStack(network, "alice", storage=storage)
    assert storage.calls == [("sync", 0.0)]


def test_when_nothing_was_stored_for_a_while(
    network: SimNetwork, storage: WatchedStorage, alice: SimStack
) -> None:
    network.run(10)
    assert storage.calls == [], "there is nothing to do"
    push(alice)
    start = network.time()
    network.run(IDLE / 2)
    assert storage.when("maintain") == []
    network.run(IDLE)
    assert storage.when("maintain") == [pytest.approx(start + IDLE, abs=0.01)]
    assert alice.link.pending_timers == 0
    network.run(100)
    assert len(storage.when("maintain")) == 1


def test_not_while_something_is_stored_all_the_time(
    network: SimNetwork, storage: WatchedStorage, alice: SimStack
) -> None:
    for _ in range(20):
        push(alice)
        network.run(IDLE / 3)
    assert storage.when("maintain") == []
    last = network.time() - IDLE / 3
    network.run(3 * IDLE)
    (when,) = storage.when("maintain")
    assert last + IDLE <= when <= last + 2 * IDLE


def test_piece_by_piece(network: SimNetwork, storage: WatchedStorage, alice: SimStack) -> None:
    storage.pieces = 5
    push(alice)
    network.run(10)
    times = storage.when("maintain")
    assert len(times) == 5
    gaps = [later - earlier for earlier, later in itertools.pairwise(times)]
    assert gaps == [pytest.approx(PAUSE, abs=0.01)] * 4


def test_removals_are_made_durable(
    network: SimNetwork, storage: WatchedStorage, alice: SimStack
) -> None:
    bob = SimStack(network, "bob")
    connect(network, alice, bob)
    network.run(1)
    push(alice)
    network.run(0.5)
    assert bob.received
    (removed,) = storage.when("remove")
    assert storage.when("sync") == []
    network.run(3 * IDLE)
    (synced,) = storage.when("sync")
    assert removed < synced <= removed + 2 * IDLE
    network.run(100)
    assert len(storage.when("sync")) == 1


def test_what_could_not_be_removed_is_tried_again_until_it_is(
    network: SimNetwork,
    storage: WatchedStorage,
    alice: SimStack,
    caplog: pytest.LogCaptureFixture,
) -> None:
    bob = SimStack(network, "bob")
    connect(network, alice, bob)
    network.run(1)
    storage.fails.add("remove")
    errors: list[Exception] = []
    alice.messaging.on_error.add(lambda conn_id, exc: errors.append(exc))
    push(alice)
    network.run(10)
    assert len(storage.get_items("bob")) == 1
    assert [str(exc) for exc in errors] == ["remove: the disk is full"] * len(errors) != []
    assert 5 <= len(storage.when("remove")) <= 12, "about once a second"
    assert "is removed later" in caplog.text
    storage.fails.clear()
    network.run(2 * IDLE)
    assert storage.get_items("bob") == []
    calls = len(storage.calls)
    network.run(100)
    assert len(storage.calls) <= calls + 1


def test_it_goes_along_with_the_next_message(
    network: SimNetwork, storage: WatchedStorage, alice: SimStack
) -> None:
    bob = SimStack(network, "bob")
    connect(network, alice, bob)
    network.run(1)
    storage.fails.add("remove")
    push(alice)
    network.run(0.5)
    storage.fails.clear()
    push(alice)
    assert len(storage.get_items("bob")) == 1, "the first has left with the change"


def test_a_failure_is_logged_and_holds_nobody_up(
    network: SimNetwork,
    storage: WatchedStorage,
    alice: SimStack,
    caplog: pytest.LogCaptureFixture,
) -> None:
    storage.fails.add("maintain")
    errors: list[tuple[str | None, Exception]] = []
    alice.messaging.on_error.add(lambda *args: errors.append(args))
    push(alice)
    network.run(10)
    assert [(conn_id, type(exc)) for conn_id, exc in errors] == [(None, StorageError)]
    assert "maintain: the disk is full" in caplog.text
    assert {record.name for record in caplog.records} == {"snakemq.queuesmanager"}
    assert len(storage.when("maintain")) == 1
    push(alice)
    assert len(storage.get_items("bob")) == 2


def test_not_after_the_end(network: SimNetwork, storage: WatchedStorage, alice: SimStack) -> None:
    push(alice)
    network.run(IDLE / 2)
    alice.close()
    calls = len(storage.calls)
    network.run(10)
    assert len(storage.calls) == calls
