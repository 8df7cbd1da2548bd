"""Random histories of whole stacks with faults, held to the promises of acknowledged delivery.

150 of them by default; the environment variable ``SNAKEMQ_SIM_SEEDS`` asks
for another number (CI: 20,000), or for a range like ``5000-6000``. A failing
history prints what is wrong and the line that tells its story. For millions::

    python -m tests.simulation 0-1000000
"""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest

from snakemq._core.features import DeliveryFeature
from snakemq._core.outbox import Outbox, Taken, is_stored
from snakemq._core.received import Received
from snakemq._core.ttl import OfflineClock
from snakemq._incoming import Incoming
from snakemq.message import Message
from snakemq.queues import Queue
from snakemq.storage import Removal
from snakemq.throttle import Throttle
from tests.simulation.disk import DiskStorage
from tests.simulation.plan import KINDS, make_plan
from tests.simulation.world import World, problems_of

DEFAULT_COUNT = 150

#: Seeds per test. Enough tests that they can be spread over processes, few
#: enough that the report stays short.
CHUNK = 100

#: Seeds of histories that once went wrong, and what it was.
REGRESSION_SEEDS = {
    0: "a window was not kept when nothing was under way",
    5: "acknowledgements were put aside by a pause, and came after later ones",
    9: "what came again hid from a restarted receiver that what followed came again, too",
    103: "what a killed process had noted was acknowledged without being on the disk",
    132: "a message for now waited behind one that failed, and was acknowledged",
    143: "an urgent message outlived its connection",
    173: "a pause in on_connect hid what the other side can do",
    174: "a callback that ended the process was called for ever",
    424: "what is not stored waited behind what had expired on the disk",
    2381: "what came again was not among the last ones that are remembered",
    2483: "a message for now followed one that was not noted as handled",
    3538: "a queue stood still behind messages that had expired",
    3931: "what an earlier process had removed came back when the power failed later",
    6493: "a callback closed the connection, and then a ping was answered",
    6928: "a connection counted as dead whose ping waited behind a throttle",
    15493: "an urgent message pushed out of the memory what could come again",
    31983: "what came again and again pushed the rest out of the memory",
    43235: "of two messages with one identifier the second was taken for the first",
}

ROOT = Path(__file__).resolve().parent.parent.parent


def wanted_seeds() -> range:
    wanted = os.environ.get("SNAKEMQ_SIM_SEEDS", str(DEFAULT_COUNT))
    first, dash, last = wanted.partition("-")
    return range(int(first), int(last)) if dash else range(int(first))


def chunks() -> list[range]:
    seeds = wanted_seeds()
    return [seeds[start : start + CHUNK] for start in range(0, len(seeds), CHUNK)]


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    """Histories misbehave on purpose, and log that."""
    logging.disable(logging.CRITICAL)
    yield
    logging.disable(logging.NOTSET)


def report(seed: int, problems: list[str]) -> str:
    story = f"its story: {Path(sys.executable).name} -m tests.simulation {seed} --shrink"
    return "\n".join((f"seed {seed}; {story}", *(f"    {problem}" for problem in problems[:5]), ""))


@pytest.mark.slow
@pytest.mark.parametrize("seeds", chunks(), ids=lambda seeds: f"{seeds[0]}-{seeds[-1]}")
def test_many_histories(seeds: range) -> None:
    failures = {seed: problems for seed in seeds if (problems := problems_of(make_plan(seed)))}
    assert not failures, "\n" + "".join(
        report(seed, problems) for seed, problems in failures.items()
    )


@pytest.mark.parametrize("seed", REGRESSION_SEEDS)
def test_what_once_went_wrong(seed: int) -> None:
    assert problems_of(make_plan(seed)) == []


@pytest.mark.slow
def test_the_histories_are_worth_it() -> None:
    """They contain what they are made for; else a green run would mean nothing."""
    seen: Counter[str] = Counter()
    for seed in range(150):
        world = World(make_plan(seed))
        world.run()
        seen[world.plan.kind] += 1
        seen["SQLite"] += world.plan.sqlite
        for _, _, event, *more in world.events:
            seen[str(event)] += 1
            seen.update(str(word) for word in more if isinstance(word, str))
        for way in world.checker.ways.values():
            for entry in way.entries:
                seen[entry.outcome] += 1
                seen["came again"] += len(entry.deliveries) > 1
                seen["never came"] += not entry.deliveries
                seen["given up"] += entry.dead
                seen["marked for nothing"] += (
                    bool(entry.deliveries) and entry.deliveries[0].redelivered
                )
                seen.update(delivery.outcome for delivery in entry.deliveries)
    wanted = (
        *(*KINDS, "SQLite"),
        *("accepted", "refused", "crashed"),
        *("returned", "raised", "defers", "came again", "never came", "given up"),
        *("dies:", "crash", "power failure", "silently", "is stopped", "starts"),
        *("disk: lost", "disk: backup", "has a full disk", "marked for nothing"),
        *("pauses", "closes", "loses", "EXPIRED", "QUEUE_FULL", "tries again"),
    )
    assert {what: seen[what] for what in wanted if seen[what] < 3} == {}
    assert seen["returned"] > 150 * 10


def has_power_failures(seed: int) -> bool:
    plan = make_plan(seed)
    return plan.kind == "power" and any(peer.durable for peer in plan.peers)


class TestTheSame:
    SEEDS = (1, 3, 7, 53)

    @pytest.mark.parametrize("seed", SEEDS)
    def test_one_seed_is_one_history(self, seed: int) -> None:
        first, second = World(make_plan(seed)), World(make_plan(seed))
        assert first.run() == second.run()
        assert first.story() == second.story()
        assert len(first.events) > 20

    def test_also_in_another_process_with_other_hashes(self) -> None:
        """Nothing depends on the order of a set of strings."""
        digests = set()
        for hash_seed in ("1", "2"):
            environment = {**os.environ, "PYTHONHASHSEED": hash_seed}
            digests.add(
                subprocess.run(
                    [sys.executable, "-c", DIGEST, *map(str, self.SEEDS)],
                    cwd=ROOT,
                    env=environment,
                    capture_output=True,
                    text=True,
                    check=True,
                    timeout=60,
                ).stdout
            )
        assert len(digests) == 1
        assert len(digests.pop()) > 20


DIGEST = """
import logging, sys, zlib
from tests.simulation.plan import make_plan
from tests.simulation.world import World
logging.disable(logging.CRITICAL)
for seed in map(int, sys.argv[1:]):
    world = World(make_plan(seed))
    world.run()
    print(seed, zlib.crc32(world.story().encode()))
"""


class TestTheHistoriesFindFaults:
    """Promises that a broken stack keeps would be none."""

    @staticmethod
    def found(text: str, seeds: Iterable[int] = range(400)) -> bool:
        return any(
            text in problem for seed in seeds for problem in problems_of(make_plan(seed))[:3]
        )

    def test_messages_out_of_order(self, monkeypatch: pytest.MonkeyPatch) -> None:
        take = Outbox.take

        def reversed_take(self: Outbox, *args: Any) -> Taken:
            taken = take(self, *args)
            return taken._replace(messages=taken.messages[::-1])

        monkeypatch.setattr(Outbox, "take", reversed_take)
        assert self.found("came for the first time after")

    def test_messages_that_come_twice(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(Received, "recognise", lambda self, uuid: False)
        assert self.found("came again; before at")

    def test_repetitions_that_are_not_marked(self, monkeypatch: pytest.MonkeyPatch) -> None:
        is_wanted = Incoming.is_wanted

        def careless_is_wanted(self: Incoming, connection: Any, message: Message) -> bool:
            wanted = is_wanted(self, connection, message)
            message.redelivered = False
            return wanted

        monkeypatch.setattr(Incoming, "is_wanted", careless_is_wanted)
        assert self.found("came again and is not marked as redelivered")

    def test_messages_marked_for_nothing(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(Received, "knows_all", lambda self, stream: False)
        assert self.found("is marked as redelivered, but the receiver knows better")

    def test_messages_that_get_lost_on_disconnect(self, monkeypatch: pytest.MonkeyPatch) -> None:
        disconnect = Queue.disconnect

        def forgetful_disconnect(self: Queue) -> None:
            disconnect(self)
            with self.manager.room.lock:
                while self.drop_oldest() or self.drop_oldest_stored():
                    self._overflow.clear()
                    self._removals.clear()

        monkeypatch.setattr(Queue, "disconnect", forgetful_disconnect)
        assert self.found("is lost")

    def test_messages_removed_when_they_are_sent(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """As 1.6 does it."""
        sent = Queue.sent

        def careless_sent(self: Queue, count: int) -> tuple[list[Message], list[Message]]:
            messages, leaving = sent(self, count)
            stored = [entry for entry in self._outbox._unconfirmed if is_stored(entry)]
            self._remove([Removal(self.name, [entry.position for entry in stored], 0)])
            return messages, leaving

        monkeypatch.setattr(Queue, "sent", careless_sent)
        assert self.found("was removed from the storage, but is not delivered")

    def test_an_inbox_that_does_not_reach_the_disk(self, monkeypatch: pytest.MonkeyPatch) -> None:
        change = DiskStorage._change

        def late_change(self: DiskStorage, method: str, *args: Any, **options: Any) -> object:
            options["late"] = options.get("late", False) or method == "push_inbox"
            return change(self, method, *args, **options)

        monkeypatch.setattr(DiskStorage, "_change", late_change)
        # About one in 150 of the histories with power failures shows it.
        seeds = (seed for seed in range(4000, 6000) if has_power_failures(seed))
        assert self.found("is lost", seeds)

    def test_acknowledgements_of_what_is_not_on_the_disk(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(DiskStorage, "sync", lambda self: None)
        assert self.found("which a power failure can take")

    def test_attempts_that_are_not_counted(self, monkeypatch: pytest.MonkeyPatch) -> None:
        advance = DiskStorage.advance_inbox

        def careless_advance(self: DiskStorage, done: int | None, starting: int | None) -> None:
            advance(self, done, None)

        monkeypatch.setattr(DiskStorage, "advance_inbox", careless_advance)
        assert self.found("has attempt")

    def test_a_window_that_is_not_kept(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(
            DeliveryFeature, "decode", classmethod(lambda cls, value: cls(100, 100_000))
        )
        assert self.found("into a window of") or self.found("bytes into the window")

    def test_messages_that_expire_too_early(self, monkeypatch: pytest.MonkeyPatch) -> None:
        reading = OfflineClock.reading
        monkeypatch.setattr(OfflineClock, "reading", lambda self, now: 2 * reading(self, now))
        assert self.found("expired too early")

    def test_connections_that_stay(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def forget_nothing(self: Throttle, conn_id: str) -> None:
            self.on_disconnect(conn_id)

        monkeypatch.setattr(Throttle, "_handle_disconnect", forget_nothing)
        assert self.found("left behind")
