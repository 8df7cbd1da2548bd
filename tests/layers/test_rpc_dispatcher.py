"""Who is served next: limits, fairness, and nothing left over."""

from __future__ import annotations

import gc
import logging
import os
import random
import subprocess
import sys
import threading
import weakref
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from snakemq._io.workers import WorkerPool
from snakemq.rpc import _dispatcher
from snakemq.rpc._dispatcher import Dispatcher
from tests.helpers import DEADLINE, wait_until


class Job:
    """A task whose run() is a function."""

    def __init__(
        self,
        ident: str = "bob",
        object_name: str = "obj",
        size: int = 1,
        run: Callable[[], object] = lambda: True,
    ) -> None:
        self.ident = ident
        self.object_name = object_name
        self.size = size
        self.func = run

    def run(self) -> bool:
        return self.func() is not False


class Gate:
    """What several jobs run: it reports when it is entered, and holds them."""

    def __init__(self) -> None:
        self.entered = threading.Semaphore(0)
        self.open = threading.Event()

    def __call__(self) -> None:
        self.entered.release()
        assert self.open.wait(DEADLINE)

    def wait_entered(self, count: int = 1) -> None:
        for _ in range(count):
            assert self.entered.acquire(timeout=DEADLINE)


def is_empty(dispatcher: Dispatcher) -> bool:
    """Whether all of its tables are."""
    return not (
        dispatcher._tasks
        or dispatcher._inside
        or dispatcher._lines
        or dispatcher._ready
        or dispatcher._peers.running
        or dispatcher._peers.parked
        or dispatcher._objects.running
        or dispatcher._objects.parked
        or dispatcher.waiting
        or dispatcher.waiting_bytes
    )


@pytest.fixture
def make() -> Iterator[Callable[..., Dispatcher]]:
    made: list[Dispatcher] = []

    def make(**limits: int) -> Dispatcher:
        made.append(Dispatcher("test", **limits))
        return made[-1]

    yield make
    for dispatcher in made:
        assert dispatcher.stop(DEADLINE)
        assert is_empty(dispatcher)


class Now:
    """Instead of the threads: runs at once, here."""

    name = "test"

    def take_next(self) -> None:
        """Nothing waits."""

    def submit(self, func: Callable[..., object], *args: Any) -> None:
        func(*args)

    def stop(self, timeout: float) -> bool:
        return True


class Held(Job):
    """Begins and goes on until the test says that it has finished."""

    def __init__(
        self, world: World, ident: str = "bob", object_name: str = "obj", size: int = 1
    ) -> None:
        super().__init__(ident, object_name, size, self.begin)
        self.world = world

    def begin(self) -> bool:
        self.world.began.append(self)
        return False


class World:
    """A dispatcher without threads: everything happens when the test says so."""

    def __init__(self, **limits: int) -> None:
        self.dispatcher = Dispatcher("test", **limits)
        self.dispatcher._pool = Now()  # type: ignore[assignment]
        self.began: list[Held] = []

    def submit(self, ident: str = "bob", object_name: str = "obj", size: int = 1) -> Held:
        job = Held(self, ident, object_name, size)
        assert self.dispatcher.submit(job)
        return job

    def take_begun(self) -> list[Held]:
        begun = self.began
        self.began = []
        return begun


# Without threads: who is next.


def test_what_may_run_begins_at_once() -> None:
    world = World(max_workers=3)
    jobs = [world.submit() for _ in range(3)]
    assert world.began == jobs
    assert (world.dispatcher.running, world.dispatcher.waiting) == (3, 0)
    for job in jobs:
        world.dispatcher.finished(job)
    assert is_empty(world.dispatcher)


def test_one_peer_and_object_in_order() -> None:
    world = World(max_workers=1)
    jobs = [world.submit() for _ in range(50)]
    for job in jobs:
        assert world.take_begun() == [job]
        world.dispatcher.finished(job)
    assert is_empty(world.dispatcher)


def test_peers_take_turns() -> None:
    world = World(max_workers=1)
    running = world.submit("first")
    waiting = [world.submit("greedy") for _ in range(100)]
    modest = [world.submit("modest") for _ in range(2)]
    other = world.submit("greedy", "other")
    order: list[Held] = []
    world.take_begun()
    for _ in range(6):
        world.dispatcher.finished(running)
        (running,) = world.take_begun()
        order.append(running)
    assert order == [waiting[0], modest[0], other, waiting[1], modest[1], waiting[2]]


def test_the_limit_of_a_peer_leaves_workers_to_others() -> None:
    world = World(max_workers=10, max_per_peer=2)
    greedy = [world.submit("greedy", f"object {n}") for n in range(5)]
    assert world.take_begun() == greedy[:2]
    modest = world.submit("modest", "object 0")
    assert world.take_begun() == [modest]
    assert world.dispatcher.running_by_peer() == {"greedy": 2, "modest": 1}
    assert world.dispatcher.waiting_by_peer() == {"greedy": 3}
    for n in range(3):
        world.dispatcher.finished(greedy[n])
        assert world.take_begun() == [greedy[n + 2]]


def test_the_limit_of_an_object_leaves_workers_to_others() -> None:
    world = World(max_workers=10, max_per_object=2)
    slow = [world.submit(f"peer {n}", "slow") for n in range(5)]
    assert world.take_begun() == slow[:2]
    fast = world.submit("peer 4", "fast")
    assert world.take_begun() == [fast]
    for n in range(3):
        world.dispatcher.finished(slow[n])
        assert world.take_begun() == [slow[n + 2]]


def test_limits_are_never_more_than_there_are_workers() -> None:
    dispatcher = Dispatcher("test", max_workers=5)
    assert (dispatcher.max_per_peer, dispatcher.max_per_object) == (5, 5)
    dispatcher = Dispatcher("test", max_workers=100)
    assert (dispatcher.max_per_peer, dispatcher.max_per_object) == (100, 64)
    dispatcher = Dispatcher("test")
    assert (dispatcher.max_workers, dispatcher.max_per_peer) == (256, 128)
    assert (dispatcher.max_waiting, dispatcher.max_waiting_bytes) == (65536, 256 * 1024 * 1024)
    assert dispatcher.max_waiting_per_peer == 16384
    assert dispatcher.max_waiting_bytes_per_peer == 64 * 1024 * 1024


@pytest.mark.parametrize("what", ["max_workers", "max_per_peer", "max_per_object"])
def test_limits_that_allow_nothing(what: str) -> None:
    with pytest.raises(ValueError, match=f"{what} must be at least 1, not 0"):
        Dispatcher("test", **{what: 0})
    with pytest.raises(ValueError, match="max_waiting must be at least 0, not -1"):
        Dispatcher("test", max_waiting=-1)


def test_the_waiting_line_has_an_end() -> None:
    world = World(max_workers=1, max_waiting=2)
    first = world.submit()
    world.submit()
    world.submit("other")
    refused = Held(world)
    assert not world.dispatcher.submit(refused)
    assert not world.dispatcher.cancel(refused)
    assert world.dispatcher.waiting == 2
    world.dispatcher.finished(first)
    world.submit()
    assert world.dispatcher.waiting == 2


def test_without_a_waiting_line() -> None:
    world = World(max_workers=1, max_waiting=0)
    first = world.submit()
    assert not world.dispatcher.submit(Held(world))
    world.dispatcher.finished(first)
    world.submit()


def test_the_waiting_line_has_a_size() -> None:
    world = World(max_workers=1, max_waiting_bytes=100)
    first = world.submit(size=1000)  # it does not wait
    second = world.submit(size=1000)  # too large, but alone
    assert not world.dispatcher.submit(Held(world, size=1))
    assert world.dispatcher.waiting_bytes == 1000
    world.dispatcher.finished(first)
    world.submit(size=60)
    world.submit(size=40)
    assert not world.dispatcher.submit(Held(world, size=1))
    assert world.dispatcher.waiting_bytes == 100
    assert world.dispatcher.cancel(second) is False
    world.dispatcher.finished(second)
    assert world.dispatcher.waiting_bytes == 40


def test_one_peer_does_not_get_all_of_the_waiting_line() -> None:
    world = World(max_workers=1, max_waiting=4, max_waiting_per_peer=2)
    first = world.submit()
    second = world.submit()
    world.submit(object_name="another")
    assert not world.dispatcher.submit(Held(world))
    assert not world.dispatcher.submit(Held(world, object_name="a third"))
    assert world.dispatcher.submit(Held(world), force=True)
    world.submit("other")
    assert world.dispatcher.waiting_by_peer() == {"bob": 3, "other": 1}
    assert not world.dispatcher.submit(Held(world, "a fourth"))  # it is full
    assert world.dispatcher.cancel(second)
    world.submit("other")
    world.dispatcher.finished(first)
    assert not world.dispatcher.cancel(second)
    assert len(world.dispatcher.drop_waiting()) == 3
    assert world.dispatcher.waiting_by_peer() == {}
    for _ in range(2):
        world.submit()
    assert not world.dispatcher.submit(Held(world))


def test_one_peer_does_not_get_all_bytes_of_the_waiting_line() -> None:
    world = World(max_workers=1, max_waiting_bytes=1000, max_waiting_bytes_per_peer=100)
    first = world.submit(size=5)
    second = world.submit(size=600)  # too large, but the only one of its peer
    assert not world.dispatcher.submit(Held(world, size=1))
    world.submit("other", size=60)
    world.submit("other", size=40)
    assert not world.dispatcher.submit(Held(world, "other", size=1))
    assert world.dispatcher.waiting_bytes == 700
    world.dispatcher.finished(first)
    world.submit(size=100)
    assert not world.dispatcher.submit(Held(world, size=1))
    world.dispatcher.finished(second)


def test_a_peer_without_a_place_in_the_waiting_line() -> None:
    world = World(max_workers=1, max_waiting_per_peer=0)
    world.submit()
    assert not world.dispatcher.submit(Held(world))
    for name in ("max_waiting_per_peer", "max_waiting_bytes_per_peer"):
        with pytest.raises(ValueError, match=f"{name} must be at least 0, not -1"):
            Dispatcher("test", **{name: -1})


def test_cancelling() -> None:
    world = World(max_workers=1)
    first, second, third = (world.submit() for _ in range(3))
    other = world.submit("other")
    assert world.dispatcher.cancel(second)
    assert not world.dispatcher.cancel(second)
    assert not world.dispatcher.cancel(first)
    assert world.dispatcher.cancel(other)
    world.dispatcher.finished(first)
    assert not world.dispatcher.cancel(first)
    world.dispatcher.finished(third)
    assert world.began == [first, third]
    assert is_empty(world.dispatcher)


def test_cancelling_all_that_is_parked() -> None:
    world = World(max_workers=5, max_per_peer=1)
    first = world.submit()
    parked = [world.submit(object_name=f"object {n}") for n in range(3)]
    for job in parked:
        assert world.dispatcher.cancel(job)
    assert not world.dispatcher._peers.parked
    world.dispatcher.finished(first)
    assert is_empty(world.dispatcher)


def test_the_chance_of_a_cancelled_one_goes_to_the_next() -> None:
    world = World(max_workers=3, max_per_peer=1)
    blocking = world.submit("bob", "a")
    parked = [world.submit("bob", name) for name in "bcd"]
    busy, _also_busy = world.submit("other"), world.submit("another")
    waits = world.submit("third")
    # The worker goes to the one that is ready; the first that was parked is ready now.
    world.dispatcher.finished(blocking)
    assert world.began[-1] is waits
    assert world.dispatcher.cancel(parked[0])
    world.dispatcher.finished(busy)
    assert world.began[-1] is parked[1]


def test_finished_more_than_once_or_without_need() -> None:
    world = World(max_workers=2)
    job = world.submit()
    stranger = Held(world)
    for _ in range(3):
        world.dispatcher.finished(stranger)
        world.dispatcher.finished(job)
    assert is_empty(world.dispatcher)


def test_a_task_that_has_finished_before_its_run_returns() -> None:
    world = World(max_workers=1)

    def run() -> bool:
        world.dispatcher.finished(job)
        assert world.dispatcher.running == 1
        return False

    job = Job(run=run)
    assert world.dispatcher.submit(job)
    assert is_empty(world.dispatcher)


def test_dropping_what_waits() -> None:
    world = World(max_workers=2, max_per_peer=1)
    running = world.submit("a", "x")
    jobs = [world.submit("a", "x"), world.submit("a", "y")]
    other = world.submit("b")
    jobs.append(world.submit("c"))
    assert sorted(map(id, world.dispatcher.drop_waiting())) == sorted(map(id, jobs))
    assert (world.dispatcher.running, world.dispatcher.waiting) == (2, 0)
    world.dispatcher.finished(running)
    world.dispatcher.finished(other)
    assert world.began == [running, other]
    assert is_empty(world.dispatcher)


def test_closed_it_takes_nothing_and_ends_what_waits() -> None:
    world = World(max_workers=1)
    first, second = world.submit(), world.submit()
    world.dispatcher.close()
    assert not world.dispatcher.submit(Held(world))
    world.dispatcher.finished(first)
    assert world.began == [first, second]
    assert not world.dispatcher.idle(0)
    world.dispatcher.finished(second)
    assert world.dispatcher.idle(0)


def calls_made_by(func: Callable[[], object]) -> int:
    """How many functions it calls, as a measure of work that no other program disturbs."""
    count = 0

    def profile(frame: object, event: str, arg: object) -> None:
        nonlocal count
        count += event in ("call", "c_call")

    sys.setprofile(profile)
    try:
        func()
    finally:
        sys.setprofile(None)
    return count


@pytest.mark.parametrize("limit", ["max_per_peer", "max_per_object"])
def test_what_is_parked_costs_nothing(limit: str) -> None:
    def work(parked: int) -> int:
        world = World(max_workers=3, max_waiting=100_000, **{limit: 1})
        world.submit("blocked", "blocked")
        for n in range(parked):
            world.submit("blocked", "blocked")
            if n % 10 == 0:
                # Many lines, too.
                if limit == "max_per_peer":
                    world.submit("blocked", f"object {n}")
                else:
                    world.submit(f"peer {n}", "blocked")
        running = world.submit("free", "free")

        def others() -> None:
            nonlocal running
            for _ in range(100):
                following = world.submit("free", "free")
                world.dispatcher.finished(running)
                running = following
                assert world.dispatcher.cancel(world.submit("blocked", "blocked"))

        return calls_made_by(others)

    # The workers run when they like.
    assert abs(work(10_000) - work(1)) < 100


class Model:
    """What has to hold, written down without any thought of speed."""

    def __init__(self, rng: random.Random) -> None:
        self.rng = rng
        self.workers = rng.randint(1, 8)
        self.per_peer = rng.randint(1, self.workers)
        self.per_object = rng.randint(1, self.workers)
        self.max_waiting = rng.choice([0, 3, 30])
        self.world = World(
            max_workers=self.workers,
            max_per_peer=self.per_peer,
            max_per_object=self.per_object,
            max_waiting=self.max_waiting,
        )
        self.waiting: list[Held] = []
        self.running: list[Held] = []

    def may_run(self, job: Held) -> bool:
        return (
            len(self.running) < self.workers
            and sum(other.ident == job.ident for other in self.running) < self.per_peer
            and sum(other.object_name == job.object_name for other in self.running)
            < self.per_object
        )

    def submit(self) -> None:
        job = Held(
            self.world,
            self.rng.choice(["a", "a", "b", "c"]),
            self.rng.choice(["x", "x", "y", "z"]),
            self.rng.randint(0, 9),
        )
        expected = self.may_run(job) or len(self.waiting) < self.max_waiting
        assert self.world.dispatcher.submit(job) is expected
        if expected:
            self.waiting.append(job)

    def finish(self) -> None:
        if self.running:
            job = self.running.pop(self.rng.randrange(len(self.running)))
            self.world.dispatcher.finished(job)

    def cancel(self) -> None:
        for jobs, waits in ((self.waiting, True), (self.running, False)):
            if jobs:
                job = self.rng.choice(jobs)
                assert self.world.dispatcher.cancel(job) is waits
                if waits:
                    jobs.remove(job)

    def drop(self) -> None:
        dropped = self.world.dispatcher.drop_waiting()
        assert Counter(dropped) == Counter(self.waiting)
        self.waiting.clear()

    def check(self) -> None:
        for job in self.world.take_begun():
            assert self.may_run(job)
            line = (job.ident, job.object_name)
            assert job is next(w for w in self.waiting if (w.ident, w.object_name) == line)
            self.waiting.remove(job)
            self.running.append(job)
        assert not any(map(self.may_run, self.waiting))
        dispatcher = self.world.dispatcher
        assert dispatcher.running == len(self.running)
        assert dispatcher.waiting == len(self.waiting)
        assert dispatcher.waiting_bytes == sum(job.size for job in self.waiting)
        assert dispatcher.running_by_peer() == Counter(job.ident for job in self.running)
        assert dispatcher.waiting_by_peer() == Counter(job.ident for job in self.waiting)


@pytest.mark.parametrize("seed", range(60))
def test_against_the_model(seed: int) -> None:
    rng = random.Random(seed)
    model = Model(rng)
    for _ in range(20):
        steps = rng.choices(
            [model.submit, model.finish, model.cancel, model.drop],
            [rng.randint(1, 9), rng.randint(1, 9), rng.randint(0, 3), rng.choice([0, 0, 0.1])],
            k=25,
        )
        for step in steps:
            step()
            model.check()
    while model.running:
        model.finish()
        model.check()
    assert not model.waiting
    assert is_empty(model.world.dispatcher)


def test_everybody_is_served_while_others_never_stop() -> None:
    """However the limits mix, a waiting task begins after a bounded number of others."""
    world = World(max_workers=4, max_per_peer=2, max_per_object=2)
    rng = random.Random(1)
    keys = [(peer, name) for peer in "abc" for name in "xyz"]
    waits: dict[Held, int] = {}
    running: list[Held] = []
    served = 0
    per_line: dict[tuple[str, str], int] = defaultdict(int)
    for _ in range(3000):
        for key in keys:  # each line always has something to do
            while per_line[key] < 2:
                waits[world.submit(*key)] = served
                per_line[key] += 1
        for job in world.take_begun():
            per_line[job.ident, job.object_name] -= 1
            assert served - waits.pop(job) < 10 * len(keys)
            served += 1
            running.append(job)
        world.dispatcher.finished(running.pop(rng.randrange(len(running))))
    assert served > 2500


# With threads.


def test_tasks_run_in_threads_with_a_name(make: Callable[..., Dispatcher]) -> None:
    dispatcher = make()
    names: list[str] = []
    assert dispatcher.submit(Job(run=lambda: names.append(threading.current_thread().name)))
    assert dispatcher.idle(DEADLINE)
    assert names == ["test-1"]


def test_a_worker_goes_on_with_the_next_task(make: Callable[..., Dispatcher]) -> None:
    dispatcher = make(max_workers=1)
    gate = Gate()
    threads: list[int] = []
    assert dispatcher.submit(Job(run=gate))
    gate.wait_entered()
    for _ in range(20):
        assert dispatcher.submit(Job(run=lambda: threads.append(threading.get_ident())))
    gate.open.set()
    assert dispatcher.idle(DEADLINE)
    assert len(threads) == 20
    assert len(set(threads)) == 1


def test_one_that_ends_may_let_two_begin(make: Callable[..., Dispatcher]) -> None:
    dispatcher = make(max_workers=4, max_per_peer=1, max_per_object=1)
    first, both = Gate(), Gate()
    assert dispatcher.submit(Job("a", "x", run=first))
    first.wait_entered()
    assert dispatcher.submit(Job("a", "y", run=both))
    assert dispatcher.submit(Job("b", "x", run=both))
    assert dispatcher.waiting == 2
    first.open.set()
    both.wait_entered(2)
    both.open.set()


@pytest.mark.parametrize("exception", [ValueError("no"), SystemExit(3), KeyboardInterrupt()])
def test_what_a_task_raises_is_logged_and_frees_its_place(
    make: Callable[..., Dispatcher], caplog: pytest.LogCaptureFixture, exception: BaseException
) -> None:
    dispatcher = make(max_workers=1)

    def fail() -> None:
        raise exception

    done = threading.Event()
    with caplog.at_level(logging.ERROR):
        assert dispatcher.submit(Job(run=fail))
        assert dispatcher.submit(Job(run=done.set))
        assert done.wait(DEADLINE)
        assert dispatcher.idle(DEADLINE)
    (record,) = caplog.records
    assert record.exc_info is not None
    assert record.exc_info[1] is exception


def test_what_ends_elsewhere_keeps_its_place_and_no_thread(
    make: Callable[..., Dispatcher],
) -> None:
    dispatcher = make(max_workers=2, max_per_object=1)
    began = threading.Event()
    outside = Job(run=lambda: bool(began.set()))
    assert dispatcher.submit(outside)
    assert began.wait(DEADLINE)
    wait_until(lambda: not dispatcher._inside)
    done = threading.Event()
    assert dispatcher.submit(Job(run=done.set))
    assert (dispatcher.running, dispatcher.waiting) == (1, 1)
    assert not dispatcher.idle(0)
    assert not done.is_set()
    dispatcher.finished(outside)
    assert done.wait(DEADLINE)
    assert dispatcher.idle(DEADLINE)


def test_a_task_that_waits_for_all_others(make: Callable[..., Dispatcher]) -> None:
    dispatcher = make(max_workers=3)
    gate = Gate()
    result: list[bool] = []
    assert dispatcher.submit(Job(run=gate))
    gate.wait_entered()
    assert dispatcher.submit(
        Job(run=lambda: result.extend((dispatcher.idle(0), dispatcher.idle(DEADLINE))))
    )
    wait_until(lambda: result or dispatcher._observers)
    gate.open.set()
    assert dispatcher.idle(DEADLINE)
    assert result == [False, True]


def test_stopping_waits_for_what_runs_and_drops_what_waits(
    make: Callable[..., Dispatcher], caplog: pytest.LogCaptureFixture
) -> None:
    dispatcher = make(max_workers=1)
    gate = Gate()
    dropped = threading.Event()
    assert dispatcher.submit(Job(run=gate))
    gate.wait_entered()
    assert dispatcher.submit(Job(run=dropped.set))
    assert not dispatcher.stop()
    assert "test: 1 tasks dropped" in caplog.text
    assert not dispatcher.submit(Job())
    gate.open.set()
    assert dispatcher.stop(DEADLINE)
    assert not dropped.is_set()
    assert dispatcher._pool.workers == 0


def test_a_task_may_stop_its_dispatcher(make: Callable[..., Dispatcher]) -> None:
    dispatcher = make()
    result: list[bool] = []
    assert dispatcher.submit(Job(run=lambda: result.append(dispatcher.stop(DEADLINE))))
    wait_until(lambda: result)
    assert result == [True]


def test_without_any_thread_the_submitter_is_told_and_nothing_is_left(
    make: Callable[..., Dispatcher], monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_thread(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    dispatcher = make(max_workers=2, max_per_object=1)
    began = threading.Event()
    outside = Job(run=lambda: bool(began.set()))
    assert dispatcher.submit(outside)
    assert began.wait(DEADLINE)
    wait_until(lambda: not dispatcher._inside)
    done = threading.Event()
    waits = Job(run=done.set)
    assert dispatcher.submit(waits)
    assert dispatcher._pool.stop(DEADLINE)
    monkeypatch.setattr(dispatcher, "_pool", WorkerPool(2, "test"))
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", no_thread)
        with pytest.raises(RuntimeError, match="can't start"):
            dispatcher.submit(Job(object_name="other"))
        dispatcher.finished(outside)  # nobody can take over what waits
        assert (dispatcher.running, dispatcher.waiting) == (0, 1)
    assert dispatcher.submit(Job(object_name="other"))
    assert done.wait(DEADLINE)
    assert dispatcher.stop(DEADLINE)


def test_nothing_is_kept_alive(make: Callable[..., Dispatcher]) -> None:
    dispatcher = make()
    job = Job()
    gone = weakref.ref(job)
    assert dispatcher.submit(job)
    del job
    assert dispatcher.idle(DEADLINE)
    wait_until(lambda: gc.collect() >= 0 and gone() is None)


def test_a_worker_goes_on_without_asking_the_pool_and_keeps_nothing(
    make: Callable[..., Dispatcher], monkeypatch: pytest.MonkeyPatch
) -> None:
    dispatcher = make()
    pool = dispatcher._pool
    pool.max_workers = 1
    asked: list[object] = []
    ask = pool._next_task
    monkeypatch.setattr(pool, "_next_task", lambda *args, **more: asked.append(1) or ask(*args))
    gates = [Gate() for _ in range(3)]
    jobs = [Job(run=gate) for gate in gates]
    left = [weakref.ref(job) for job in jobs]
    for job in jobs:
        assert dispatcher.submit(job)
    jobs.clear()
    del job
    for number, gate in enumerate(gates):
        gate.wait_entered()
        gc.collect()
        assert [ref() is None for ref in left[:number]] == [True] * number
        gate.open.set()
    assert dispatcher.idle(DEADLINE)
    wait_until(lambda: pool.idle == 1)
    assert len(asked) <= 2  # when it began, and when nothing was left


def test_many_threads(make: Callable[..., Dispatcher]) -> None:
    """Eight submitters, some of whom cancel; no limit is broken and nothing is lost."""
    dispatcher = make(max_workers=6, max_per_peer=3, max_per_object=2, max_waiting=200)
    lock = threading.Lock()
    running: Counter[str] = Counter()
    broken: list[str] = []
    ran: list[int] = []
    cancelled: list[int] = []
    taken: list[int] = []
    later: list[Job] = []

    def body(job: Job, number: int) -> bool:
        with lock:
            for name, most in (("all", 6), (job.ident, 3), (job.object_name, 2)):
                running[name] += 1
                if running[name] > most:
                    broken.append(name)
        for _ in range(random.Random(number).randrange(200)):
            pass
        with lock:
            running.subtract(("all", job.ident, job.object_name))
            ran.append(number)
            if number % 5 == 0:
                later.append(job)
        return number % 5 != 0

    def submit(first: int) -> None:
        rng = random.Random(first)
        for number in range(first, first + 400):
            job = Job(f"peer {rng.randrange(3)}", f"object {rng.randrange(4)}")
            job.func = lambda job=job, number=number: body(job, number)  # type: ignore[misc]
            while not dispatcher.submit(job):
                end_some()
            with lock:
                taken.append(number)
            if rng.random() < 0.2 and dispatcher.cancel(job):
                with lock:
                    cancelled.append(number)
            end_some()

    def end_some() -> None:
        with lock:
            ended, later[:] = later[:], []
        for job in ended:
            dispatcher.finished(job)

    threads = [threading.Thread(target=submit, args=(n * 400,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(DEADLINE)

    def ended() -> bool:
        end_some()
        return dispatcher.idle(0)

    wait_until(ended)
    assert not broken
    assert sorted(ran + cancelled) == sorted(taken) == list(range(3200))
    wait_until(lambda: is_empty(dispatcher))


@pytest.mark.parametrize("limits", [{"max_workers": 1}, {"max_workers": 4, "max_per_object": 1}])
def test_short_tasks_from_many_threads_are_never_forgotten(
    make: Callable[..., Dispatcher], limits: dict[str, int]
) -> None:
    """The moment when a worker leaves and a task comes, very often."""
    dispatcher = make(**limits)

    def submit(ident: str) -> None:
        for _ in range(300):
            done = threading.Event()
            assert dispatcher.submit(Job(ident, run=done.set))
            assert done.wait(DEADLINE)

    threads = [threading.Thread(target=submit, args=(f"peer {n}",)) for n in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(DEADLINE)
        assert not thread.is_alive()
    assert dispatcher.idle(DEADLINE)


def test_repr(make: Callable[..., Dispatcher]) -> None:
    assert repr(make()) == "<Dispatcher 'test' running=0 waiting=0 (0 bytes)>"


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
def test_the_child_of_a_fork_begins_empty() -> None:
    code = (
        "import os, threading\n"
        f"from {_dispatcher.__name__} import Dispatcher\n"
        "class Job:\n"
        "    ident, object_name, size = 'bob', 'obj', 1\n"
        "    def __init__(self, func):\n"
        "        self.func = func\n"
        "    def run(self):\n"
        "        self.func()\n"
        "        return True\n"
        "dispatcher = Dispatcher('test', max_workers=1)\n"
        "entered = threading.Event()\n"
        "dispatcher.submit(Job(lambda: (entered.set(), threading.Event().wait())))\n"
        "dispatcher.submit(Job(lambda: print('of the parent')))\n"
        "entered.wait()\n"
        "child = os.fork()\n"
        "if child:\n"
        "    os.waitpid(child, 0)\n"
        "else:\n"
        "    done = threading.Event()\n"
        "    print(dispatcher.running, dispatcher.waiting)\n"
        "    dispatcher.submit(Job(done.set))\n"
        "    print(done.wait(10), dispatcher.idle(10), flush=True)\n"
        "    os._exit(0)\n"
    )
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code],
        stdout=subprocess.PIPE,
        timeout=DEADLINE * 2,
        check=True,
        text=True,
    )
    assert done.stdout == "0 0\nTrue True\n"
