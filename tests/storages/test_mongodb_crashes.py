"""The storage on a MongoDB server when processes are killed and the server is away."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from time import monotonic
from typing import Any

import pytest

from snakemq.exceptions import StorageInUse, StorageUnavailable
from snakemq.message import FLAG_PERSISTENT, Message
from snakemq.storage import QueueSummary
from snakemq.storage.mongodb import MongoDbQueuesStorage
from tests.helpers import DEADLINE, wait_until
from tests.servers.mongodb import (
    MongoDbServer,
    mongodb,
    mongodb_client,
    mongodb_of_my_own,
    mongodb_server,
)

__all__ = ["mongodb", "mongodb_client", "mongodb_of_my_own", "mongodb_server"]

ROOT = Path(__file__).resolve().parent.parent.parent
WORKER = Path(__file__).with_name("mongodb_worker.py")

#: How many processes are killed.
ROUNDS = max(8, int(os.environ.get("SNAKEMQ_CRASH_ROUNDS", "0")) // 5)


def item(text: str) -> Message:
    return Message(text.encode(), None, FLAG_PERSISTENT)


def data_of(storage: MongoDbQueuesStorage) -> list[str]:
    return [message.data.decode() for message in storage.get_items("queue")]


class Model:
    """What has to be there, by what the killed processes have told."""

    def __init__(self) -> None:
        self.stored: list[str] = []
        self.received: list[str] = []
        self.next = 0

    def after(self, change: list[Any]) -> tuple[list[str], list[str]]:
        _, pushed, removed, received = change
        stored = [text for text in self.stored if text not in removed]
        return stored + pushed, self.received + received

    def take(self, lines: list[list[Any]]) -> list[Any] | None:
        """Do what was done.

        :returns: the change that was in progress
        """
        begun: list[Any] | None = None
        for line in lines:
            if len(line) == 1:
                assert begun is not None
                self.stored, self.received = self.after(begun)
                begun = None
            else:
                begun = line
            self.next = line[0] + 1
        return begun


def seen(storage: MongoDbQueuesStorage) -> list[object]:
    """What can be read of it."""
    return [
        data_of(storage),
        [each.message.data.decode() for each in storage.get_inbox()],
        storage.summarize(),
        list(dict.fromkeys(storage.load_received("peer"))),
    ]


@pytest.mark.slow
@pytest.mark.timeout(60 + 5 * ROUNDS)
def test_killed_processes_lose_nothing_and_leave_no_part_of_a_change(
    mongodb_server: MongoDbServer, mongodb: Any
) -> None:
    seed = random.randrange(2**32)
    chance = random.Random(seed)
    model = Model()
    for _ in range(ROUNDS):
        # Opening has some forty commands, a change four or so.
        step, when = chance.randrange(5, 120), chance.choice(["before", "after"])
        done = subprocess.run(
            [
                *(sys.executable, WORKER, mongodb_server.uri, mongodb.name),
                *(str(step), when, str(model.next)),
            ],
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            stdout=subprocess.PIPE,
            timeout=60,
            check=False,
            text=True,
        )
        assert done.returncode != 1, f"seed {seed}: the process was not killed, it failed"
        begun = model.take([json.loads(line) for line in done.stdout.splitlines()])
        # Nothing is cleaned up yet, and who looks does not see that.
        with MongoDbQueuesStorage(
            client=mongodb.client, database=mongodb.name, read_only=True
        ) as look:
            before = seen(look)
        with MongoDbQueuesStorage(mongodb_server.uri, database=mongodb.name) as storage:
            assert seen(storage) == before, f"seed {seed}"
            stored = data_of(storage)
            received = [each.message.data.decode() for each in storage.get_inbox()]
            told = f"seed {seed}, step {step} {when}, begun {begun}"
            if (stored, received) != (model.stored, model.received):
                assert begun is not None, told
                assert (stored, received) == model.after(begun), told
                model.stored, model.received = stored, received
            size = sum(map(len, stored))
            assert storage.summarize() == (
                [QueueSummary("queue", len(stored), size)] if stored else []
            ), told
            memory = [uuid.decode() for uuid in storage.load_received("peer")]
            assert list(dict.fromkeys(memory)) == received, told
    assert model.stored


@pytest.mark.slow
def test_who_stands_by_takes_over_when_the_holder_is_killed(
    mongodb_server: MongoDbServer, mongodb: Any
) -> None:
    with (
        subprocess.Popen(
            [sys.executable, WORKER, mongodb_server.uri, mongodb.name, "100000", "before", "0"],
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            stdout=subprocess.PIPE,
            text=True,
        ) as holder,
        ThreadPoolExecutor(1) as pool,
    ):
        try:
            assert holder.stdout is not None
            lines = [json.loads(holder.stdout.readline()) for _ in range(4)]
            standby = pool.submit(
                MongoDbQueuesStorage,
                mongodb_server.uri,
                database=mongodb.name,
                lock_timeout=None,
            )
            with pytest.raises(StorageInUse, match=rf"process {holder.pid} \(mongodb_worker\.py\)"):
                MongoDbQueuesStorage(mongodb_server.uri, database=mongodb.name)
            assert not standby.done()
        finally:
            holder.kill()
        lines += [json.loads(line) for line in holder.stdout]
        model = Model()
        begun = model.take(lines)
        with standby.result(DEADLINE) as storage:
            stored = data_of(storage)
            assert stored == model.stored or (begun and stored == model.after(begun)[0])
            storage.push("queue", item("goes on"))


@pytest.mark.slow
def test_a_server_that_restarts_delays_and_loses_nothing(
    mongodb_of_my_own: MongoDbServer,
) -> None:
    pushed: list[list[str]] = [[], []]
    stop = threading.Event()

    def push(thread: int) -> None:
        number = 0
        while not stop.is_set():
            texts = [f"{thread} {number + part}" for part in range(1 + number % 3)]
            storage.push_many([("queue", item(text)) for text in texts])
            pushed[thread] += texts
            number += len(texts)

    def is_pushing() -> Callable[[], bool]:
        before = [len(each) for each in pushed]
        return lambda: all(len(each) > was for each, was in zip(pushed, before, strict=True))

    storage = MongoDbQueuesStorage(mongodb_of_my_own.uri)
    with storage, ThreadPoolExecutor(2) as pool:
        threads = [pool.submit(push, thread) for thread in range(2)]
        try:
            for _ in range(3):
                wait_until(is_pushing())
                mongodb_of_my_own.stop()
                wait_until(lambda: storage._calls._away is not None)
                storage.may_wait = lambda: False
                start = monotonic()
                with pytest.raises(StorageUnavailable, match="can't be reached"):
                    storage.push("queue", item("refused"))
                assert monotonic() - start < 1.0, "the loop would have been kept waiting"
                assert storage.summarize()
                storage.may_wait = lambda: True
                mongodb_of_my_own.start()
                wait_until(is_pushing())
        finally:
            stop.set()
        for each in threads:
            each.result(DEADLINE)
        stored = data_of(storage)
        assert "refused" not in stored
        for thread in range(2):
            assert [text for text in stored if text.startswith(f"{thread} ")] == pushed[thread]
        count = sum(map(len, pushed))
        size = sum(len(text) for each in pushed for text in each)
        assert storage.summarize() == [QueueSummary("queue", count, size)]
    with MongoDbQueuesStorage(mongodb_of_my_own.uri) as storage:
        assert data_of(storage) == stored


@pytest.mark.slow
def test_patience_ends(mongodb_of_my_own: MongoDbServer) -> None:
    with MongoDbQueuesStorage(mongodb_of_my_own.uri, patience=0.3) as storage:
        storage.push("queue", item("before"))
        mongodb_of_my_own.stop()
        for texts in (["refused"], ["refused", "together"]):
            with pytest.raises(StorageUnavailable, match=r"after 0\.3 seconds"):
                storage.push_many([("queue", item(text)) for text in texts])
        mongodb_of_my_own.start()
        wait_until(lambda: storage._calls._away is None)
        storage.push("queue", item("after"))
        assert data_of(storage) == ["before", "after"]


@pytest.mark.slow
def test_it_can_be_closed_while_the_server_is_away(
    mongodb_of_my_own: MongoDbServer,
) -> None:
    import pymongo

    storage = MongoDbQueuesStorage(mongodb_of_my_own.uri)
    storage.push("queue", item("stored"))
    mongodb_of_my_own.stop()
    start = monotonic()
    storage.close()
    assert monotonic() - start < 15.0
    mongodb_of_my_own.start()
    # Nobody could say that it is free, and the process lives.
    with pymongo.MongoClient(mongodb_of_my_own.uri) as client:
        client.snakemq["snakemq.lock"].update_one({}, {"$set": {"released": True}})
    with MongoDbQueuesStorage(mongodb_of_my_own.uri) as storage:
        assert data_of(storage) == ["stored"]
