"""The pool of threads: started when needed, used again, gone when idle."""

from __future__ import annotations

import gc
import logging
import os
import subprocess
import sys
import threading
import weakref
from collections.abc import Iterator
from typing import Any

import pytest

from snakemq import _sleepers
from snakemq._io.workers import WorkerPool
from tests.helpers import DEADLINE, wait_until


@pytest.fixture
def pool() -> Iterator[WorkerPool]:
    """Two workers who never leave by themselves."""
    pool = WorkerPool(2, "test", idle_timeout=DEADLINE)
    yield pool
    assert pool.stop(DEADLINE)


class Gate:
    """A task that reports when it runs and goes on when it may."""

    def __init__(self) -> None:
        self.entered = threading.Semaphore(0)
        self.open = threading.Event()

    def __call__(self) -> None:
        self.entered.release()
        assert self.open.wait(DEADLINE)

    def wait_entered(self, count: int = 1) -> None:
        for _ in range(count):
            assert self.entered.acquire(timeout=DEADLINE)


def test_runs_a_function_with_its_arguments_in_a_daemon_thread_with_a_name(
    pool: WorkerPool,
) -> None:
    seen: list[Any] = []
    done = threading.Event()

    def task(*args: int) -> None:
        seen.extend((args, threading.current_thread()))
        done.set()

    pool.submit(task, 1, 2)
    assert done.wait(DEADLINE)
    args, thread = seen
    assert args == (1, 2)
    assert thread is not threading.current_thread()
    assert thread.daemon
    assert thread.name == "test-1"


def test_starts_no_thread_before_the_first_task(pool: WorkerPool) -> None:
    assert pool.workers == 0


def test_an_idle_thread_is_used_again(pool: WorkerPool) -> None:
    threads: set[threading.Thread] = set()
    for _ in range(50):
        done = threading.Event()
        pool.submit(lambda done=done: (threads.add(threading.current_thread()), done.set()))
        assert done.wait(DEADLINE)
        wait_until(lambda: pool.idle == 1)
    assert len(threads) == 1
    assert pool.workers == 1


def test_never_more_threads_than_allowed_and_the_rest_in_order(pool: WorkerPool) -> None:
    gate = Gate()
    pool.submit(gate)
    pool.submit(gate)
    gate.wait_entered(2)
    order: list[int] = []
    one_at_a_time = Gate()
    pool.submit(one_at_a_time)  # keeps one of the two busy, so that one does the rest
    for number in range(100):
        pool.submit(order.append, number)
    assert pool.waiting == 101
    assert pool.workers == 2
    gate.open.set()
    wait_until(lambda: len(order) == 100)
    assert order == list(range(100))
    assert pool.workers == 2
    one_at_a_time.open.set()


def test_many_submitters() -> None:
    pool = WorkerPool(8, "test", idle_timeout=DEADLINE)
    lock = threading.Lock()
    seen: list[int] = []

    def task(number: int) -> None:
        with lock:
            seen.append(number)

    def submit(first: int) -> None:
        for number in range(first, first + 500):
            pool.submit(task, number)

    submitters = [threading.Thread(target=submit, args=(n * 500,)) for n in range(8)]
    for thread in submitters:
        thread.start()
    for thread in submitters:
        thread.join(DEADLINE)
    wait_until(lambda: len(seen) == 4000)
    assert sorted(seen) == list(range(4000))
    assert pool.workers <= 8
    assert pool.stop(DEADLINE)


def test_a_thread_without_work_leaves_and_another_one_comes_when_there_is_some() -> None:
    pool = WorkerPool(1, "test", idle_timeout=0.01)
    try:
        # Often, because a task that comes while the only thread leaves must
        # not be left lying.
        for _ in range(20):
            done = threading.Event()
            pool.submit(done.set)
            assert done.wait(DEADLINE)
            wait_until(lambda: pool.workers == 0)
    finally:
        assert pool.stop(DEADLINE)


def test_a_task_at_the_moment_when_the_thread_leaves_is_not_left_lying() -> None:
    pool = WorkerPool(1, "test", idle_timeout=0.0)
    try:
        for _ in range(2000):
            done = threading.Event()
            pool.submit(done.set)
            assert done.wait(DEADLINE)
    finally:
        assert pool.stop(DEADLINE)


@pytest.mark.parametrize("exception", [ValueError("no"), SystemExit(3), KeyboardInterrupt()])
def test_what_a_task_raises_is_logged_and_the_thread_goes_on(
    pool: WorkerPool, caplog: pytest.LogCaptureFixture, exception: BaseException
) -> None:
    def task() -> None:
        raise exception

    with caplog.at_level(logging.ERROR, "snakemq.workers"):
        pool.submit(task)
        wait_until(lambda: pool.idle == 1)
    done = threading.Event()
    pool.submit(done.set)
    assert done.wait(DEADLINE)
    assert pool.workers == 1
    (record,) = caplog.records
    assert record.exc_info is not None
    assert record.exc_info[1] is exception


def test_an_idle_thread_keeps_nothing_alive(pool: WorkerPool) -> None:
    class Big:
        pass

    for _ in range(2):  # the first task of a thread and a later one
        big = Big()
        gone = weakref.ref(big)
        pool.submit(id, big)
        del big
        wait_until(lambda: pool.idle == 1)
        gc.collect()
        assert gone() is None


def test_stop_refuses_new_tasks_drops_the_waiting_and_waits_for_the_running() -> None:
    pool = WorkerPool(1, "test", idle_timeout=DEADLINE)
    gate = Gate()
    pool.submit(gate)
    gate.wait_entered()
    dropped = threading.Event()
    pool.submit(dropped.set)
    assert not pool.stop()
    with pytest.raises(RuntimeError, match="'test' was stopped"):
        pool.submit(dropped.set)
    gate.open.set()
    assert pool.stop(DEADLINE)
    assert pool.workers == 0
    assert not dropped.is_set()


def test_stop_ends_idle_threads() -> None:
    pool = WorkerPool(3, "test", idle_timeout=DEADLINE)
    gate = Gate()
    for _ in range(3):
        pool.submit(gate)
    gate.wait_entered(3)
    gate.open.set()
    wait_until(lambda: pool.idle == 3)
    assert pool.stop(DEADLINE)
    assert (pool.workers, pool.idle) == (0, 0)


def test_a_task_may_stop_its_pool() -> None:
    pool = WorkerPool(2, "test", idle_timeout=DEADLINE)
    result: list[bool] = []
    pool.submit(lambda: result.append(pool.stop(DEADLINE)))
    wait_until(lambda: result)
    assert result == [True]  # it does not wait for itself
    assert pool.stop(DEADLINE)


def test_without_a_thread_to_be_had_the_others_do_the_work(
    pool: WorkerPool, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = Gate()
    pool.submit(gate)
    gate.wait_entered()

    def no_thread(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", no_thread)
    done = threading.Event()
    pool.submit(done.set)
    assert pool.waiting == 1
    gate.open.set()
    assert done.wait(DEADLINE)


def test_without_any_thread_the_submitter_is_told(
    pool: WorkerPool, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_thread(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", no_thread)
        with pytest.raises(RuntimeError, match="can't start"):
            pool.submit(print)
    assert (pool.workers, pool.waiting) == (0, 0)
    done = threading.Event()
    pool.submit(done.set)
    assert done.wait(DEADLINE)


def test_a_pool_of_nobody_is_refused() -> None:
    with pytest.raises(ValueError, match="at least 1, not 0"):
        WorkerPool(0, "test")


def test_repr_says_what_it_does(pool: WorkerPool) -> None:
    gate = Gate()
    for _ in range(3):
        pool.submit(gate)
    gate.wait_entered(2)
    assert repr(pool) == "<WorkerPool 'test' workers=2 idle=0 waiting=1>"
    gate.open.set()


def run_python(code: str) -> str:
    """What a program of its own prints."""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code],
        stdout=subprocess.PIPE,
        timeout=DEADLINE * 2,
        check=True,
        text=True,
    )
    return done.stdout


def test_a_busy_worker_does_not_keep_the_program_from_ending() -> None:
    code = (
        "import threading\n"
        "from snakemq._io.workers import WorkerPool\n"
        "pool = WorkerPool(1, 'test')\n"
        "entered = threading.Event()\n"
        "pool.submit(lambda: (entered.set(), threading.Event().wait()))\n"
        "entered.wait()\n"
        "print('bye')\n"
    )
    assert run_python(code) == "bye\n"


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
def test_the_child_of_a_fork_begins_with_an_empty_pool() -> None:
    code = (
        "import os, threading\n"
        "from snakemq._io.workers import WorkerPool\n"
        "pool = WorkerPool(1, 'test')\n"
        "entered = threading.Event()\n"
        "pool.submit(lambda: (entered.set(), threading.Event().wait()))\n"
        "pool.submit(print, 'of the parent')\n"
        "entered.wait()\n"
        "child = os.fork()\n"
        "if child:\n"
        "    os.waitpid(child, 0)\n"
        "else:\n"
        "    done = threading.Event()\n"
        "    print(pool.workers, pool.waiting)\n"
        "    pool.submit(done.set)\n"
        "    print(done.wait(10), flush=True)\n"
        "    os._exit(0)\n"
    )
    assert run_python(code) == "0 0\nTrue\n"


def test_many_tasks_at_once_wake_one_worker_after_the_other() -> None:
    """Who is done before the next one is awake takes its task, and all are run."""
    pool = WorkerPool(4, "test")
    done: list[int] = []
    for number in range(200):
        pool.submit(done.append, number)
    wait_until(lambda: len(done) == 200)
    assert sorted(done) == list(range(200))
    assert pool.stop(DEADLINE)


def test_tasks_that_wait_for_each_other_all_have_a_worker() -> None:
    """One that is called calls the next before it begins: none waits behind another."""
    pool = WorkerPool(8, "test")
    together = threading.Barrier(9)
    for _ in range(8):
        pool.submit(together.wait, DEADLINE)
    together.wait(DEADLINE)
    wait_until(lambda: pool.idle == 8)
    for _ in range(8):
        pool.submit(together.wait, DEADLINE)
    together.wait(DEADLINE)
    assert pool.stop(DEADLINE)


def test_a_task_that_no_thread_can_be_had_for_is_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_thread(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    pool = WorkerPool(1, "test")
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", no_thread)
        with pytest.raises(RuntimeError, match="can't start"):
            pool.submit(print)
    assert pool.waiting == 0
    done = threading.Event()
    pool.submit(done.set)
    assert done.wait(DEADLINE)
    assert pool.stop(DEADLINE)


def test_what_there_is_a_worker_for_is_run_also_if_the_pool_is_stopped_at_once() -> None:
    for _ in range(50):
        pool = WorkerPool(3, "test")
        pool.submit(int)
        wait_until(lambda pool=pool: pool.idle == 1)  # type: ignore[misc]
        done: list[int] = []
        for number in range(3):
            pool.submit(done.append, number)
        assert pool.stop(DEADLINE)
        assert sorted(done) == [0, 1, 2]


def test_what_there_is_no_worker_for_is_dropped_then(caplog: pytest.LogCaptureFixture) -> None:
    pool = WorkerPool(1, "test")
    leave = threading.Event()
    busy = threading.Event()
    pool.submit(lambda: (busy.set(), leave.wait(DEADLINE)))
    assert busy.wait(DEADLINE)
    done: list[int] = []
    pool.submit(done.append, 1)
    assert not pool.stop()
    leave.set()
    assert pool.stop(DEADLINE)
    assert not done
    assert "1 tasks dropped" in caplog.text


def test_a_worker_that_is_woken_for_nothing_sleeps_again(pool: WorkerPool) -> None:
    """Who had its sleeper before may have been woken late."""
    done = threading.Event()
    pool.submit(done.set)
    assert done.wait(DEADLINE)
    wait_until(lambda: pool.idle == 1)
    (sleeper,) = pool._idle
    for _ in range(100):
        sleeper.wake()
    # It stands there once, and somebody comes for each of two that need one another.
    gates = Gate(), Gate()
    for gate in gates:
        pool.submit(gate)
    for gate in gates:
        gate.wait_entered()
    for gate in gates:
        gate.open.set()
    wait_until(lambda: pool.idle == 2)
    assert len(set(pool._idle)) == 2


def test_workers_that_come_and_go_use_the_same_descriptors() -> None:
    _sleepers._spare.clear()
    gc.collect()
    before = len(_sleepers._descriptors)
    pool = WorkerPool(4, "test", idle_timeout=0.001)
    for _ in range(20):
        gates = [Gate() for _ in range(4)]
        for gate in gates:
            pool.submit(gate)
        for gate in gates:
            gate.wait_entered()
            gate.open.set()
        wait_until(lambda: not pool.workers)
    assert pool.stop(DEADLINE)
    # One that leaves may not have returned its own when the next one comes.
    assert len(_sleepers._descriptors) - before <= 8


def test_a_task_may_go_on_with_the_next_by_itself_and_leaves_the_rest_to_others() -> None:
    pool = WorkerPool(2, "test")
    first, other = Gate(), threading.Event()
    taken: list[tuple[Any, ...] | None] = []
    done = threading.Event()

    def task(number: int) -> None:
        if number > 0:
            other.set()
            return
        first()
        while (following := pool.take_next()) is not None:
            taken.append(following)
            # Busy until the other worker has done the rest.
            assert other.wait(DEADLINE)
        taken.append(following)
        done.set()

    # A second worker that is busy until the tasks wait.
    second = Gate()
    pool.submit(second)
    pool.submit(task, 0)
    first.wait_entered()
    second.wait_entered()
    pool.submit(task, 1)
    pool.submit(task, 2)
    first.open.set()
    wait_until(lambda: taken == [(1,)])
    second.open.set()
    assert done.wait(DEADLINE)
    assert taken == [(1,), None]
    assert pool.stop(DEADLINE)


def test_what_nobody_waits_for_can_not_be_taken(pool: WorkerPool) -> None:
    assert pool.take_next() is None
