"""A worker without a task may bring about the next one before it falls asleep."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator

import pytest

from snakemq._io.workers import WorkerPool
from tests.helpers import DEADLINE, wait_until

Wanted = Callable[[], bool]


class Linger:
    """What workers do meanwhile; says when one has begun, and goes on when it may.

    :ivar act: what is done inside, by the first one only
    """

    def __init__(self) -> None:
        self.began = threading.Semaphore(0)
        self.ended = threading.Semaphore(0)
        self.threads: list[int] = []
        self.inside = self.most_inside = 0
        self.act: Callable[[Wanted], object] = lambda wanted: None

    def __call__(self, wanted: Wanted) -> None:
        self.threads.append(threading.get_ident())
        self.inside += 1
        self.most_inside = max(self.most_inside, self.inside)
        act, self.act = self.act, lambda wanted: None
        self.began.release()
        try:
            act(wanted)
        finally:
            self.inside -= 1
            self.ended.release()


@pytest.fixture
def linger() -> Linger:
    return Linger()


@pytest.fixture
def pool(linger: Linger) -> Iterator[WorkerPool]:
    pool = WorkerPool(3, "test", idle_timeout=DEADLINE, linger=linger)
    yield pool
    assert pool.stop(DEADLINE)


class Ran:
    """Tasks that note where they ran."""

    def __init__(self) -> None:
        self.where: dict[object, int] = {}

    def __call__(self, name: object) -> None:
        self.where[name] = threading.get_ident()

    def wait(self, *names: object) -> None:
        wait_until(lambda: self.where.keys() >= set(names), what=lambda: self.where)


def until_unwanted(wanted: Wanted) -> None:
    wait_until(lambda: not wanted())


def test_what_it_brings_about_it_takes_itself(pool: WorkerPool, linger: Linger) -> None:
    ran = Ran()
    linger.act = lambda wanted: pool.submit(ran, "next")
    pool.submit(ran, "first")
    ran.wait("next")
    assert ran.where["next"] == ran.where["first"] == linger.threads[0]
    assert pool.workers == 1


def test_if_it_brings_nothing_about_it_falls_asleep(pool: WorkerPool, linger: Linger) -> None:
    ran = Ran()
    pool.submit(ran, "first")
    wait_until(lambda: pool.idle == 1)
    assert len(linger.threads) == 1
    pool.submit(ran, "second")
    ran.wait("second")
    assert ran.where["second"] == ran.where["first"]
    wait_until(lambda: pool.idle == 1)
    assert len(linger.threads) == 2


def test_it_is_wanted_until_there_is_a_task(pool: WorkerPool, linger: Linger) -> None:
    ran, seen = Ran(), []

    def act(wanted: Wanted) -> None:
        seen.append(wanted())
        pool.submit(ran, "next")
        seen.append(wanted())

    linger.act = act
    pool.submit(ran, "first")
    ran.wait("next")
    assert seen == [True, False]


@pytest.mark.parametrize("error", [ValueError("oh"), SystemExit(3)])
def test_what_it_raises_is_logged_and_ends_nothing(
    pool: WorkerPool, linger: Linger, error: BaseException, caplog: pytest.LogCaptureFixture
) -> None:
    def act(wanted: Wanted) -> None:
        raise error

    ran = Ran()
    linger.act = act
    with caplog.at_level(logging.ERROR, "snakemq.workers"):
        pool.submit(ran, "first")
        wait_until(lambda: pool.idle == 1)
        pool.submit(ran, "second")
        ran.wait("second")
    assert ran.where["second"] == ran.where["first"]
    assert [record.exc_info[1] for record in caplog.records if record.exc_info] == [error]


def test_what_it_brought_about_before_it_raised_is_run(pool: WorkerPool, linger: Linger) -> None:
    def act(wanted: Wanted) -> None:
        pool.submit(ran, "next")
        raise SystemExit

    ran = Ran()
    linger.act = act
    pool.submit(ran, "first")
    ran.wait("next")


def test_what_others_bring_is_taken_at_once(pool: WorkerPool, linger: Linger) -> None:
    ran = Ran()
    linger.act = until_unwanted
    pool.submit(ran, "first")
    assert linger.began.acquire(timeout=DEADLINE)
    pool.submit(ran, "from another thread")
    ran.wait("from another thread")
    assert ran.where["from another thread"] == linger.threads[0]
    assert pool.workers == 1


def test_several_tasks_at_once_have_others_come(pool: WorkerPool, linger: Linger) -> None:
    together = threading.Barrier(3)
    done = threading.Semaphore(0)

    def task() -> None:
        together.wait(DEADLINE)
        done.release()

    def act(wanted: Wanted) -> None:
        for _ in range(3):
            pool.submit(task)

    linger.act = act
    pool.submit(int)
    for _ in range(3):
        assert done.acquire(timeout=DEADLINE)


def test_one_does_it_at_a_time(pool: WorkerPool, linger: Linger) -> None:
    open_ = threading.Event()
    running = threading.Semaphore(0)

    def task() -> None:
        running.release()
        assert open_.wait(DEADLINE)

    linger.act = lambda wanted: wait_until(lambda: pool.idle == 2)
    for _ in range(3):
        pool.submit(task)
    for _ in range(3):
        assert running.acquire(timeout=DEADLINE)
    open_.set()
    # Two fall asleep while the one that was first stays awake.
    wait_until(lambda: pool.idle == 3)
    assert linger.most_inside == 1


def test_stop_ends_it(linger: Linger) -> None:
    pool = WorkerPool(3, "test", idle_timeout=DEADLINE, linger=linger)
    linger.act = until_unwanted
    pool.submit(int)
    assert linger.began.acquire(timeout=DEADLINE)
    assert pool.stop(DEADLINE)
    assert pool.workers == 0


def test_what_it_brings_about_after_stop_is_refused(linger: Linger) -> None:
    refused: list[str] = []

    def act(wanted: Wanted) -> None:
        until_unwanted(wanted)
        try:
            pool.submit(int)
        except RuntimeError as exc:
            refused.append(str(exc))

    pool = WorkerPool(3, "test", idle_timeout=DEADLINE, linger=linger)
    linger.act = act
    pool.submit(int)
    assert linger.began.acquire(timeout=DEADLINE)
    assert pool.stop(DEADLINE)
    assert refused == ["the worker pool 'test' was stopped"]


def test_what_was_taken_before_stop_is_still_run(linger: Linger) -> None:
    ran = Ran()

    def act(wanted: Wanted) -> None:
        pool.submit(ran, "next")
        began.set()
        wait_until(lambda: pool._stopped)

    began = threading.Event()
    pool = WorkerPool(3, "test", idle_timeout=DEADLINE, linger=linger)
    linger.act = act
    pool.submit(int)
    assert began.wait(DEADLINE)
    assert pool.stop(DEADLINE)
    assert ran.where.keys() == {"next"}


def test_many_tasks_from_many_threads_are_all_run(pool: WorkerPool, linger: Linger) -> None:
    counts = [0, 0, 0, 0]

    def count(index: int) -> None:
        counts[index] += 1  # one thread submits the next when this one has run
        if counts[index] < 200:
            pool.submit(count, index)

    for index in range(4):
        threading.Thread(target=pool.submit, args=(count, index)).start()
    wait_until(lambda: counts == [200] * 4, what=lambda: counts)
    wait_until(lambda: pool.idle == pool.workers)
    assert linger.most_inside <= 1


def test_nobody_does_while_others_are_at_work(pool: WorkerPool, linger: Linger) -> None:
    ran, entered, may_go = Ran(), threading.Event(), threading.Event()

    def work() -> None:
        entered.set()
        assert may_go.wait(DEADLINE)

    pool.submit(work)
    assert entered.wait(DEADLINE)
    pool.submit(ran, "beside it")
    ran.wait("beside it")
    wait_until(lambda: pool.idle == 1)
    assert linger.threads == []
    may_go.set()
    wait_until(lambda: pool.idle == 2)
    assert len(linger.threads) == 1
