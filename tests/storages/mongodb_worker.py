"""A process that uses the storage on a MongoDB server until it is killed.

    python mongodb_worker.py URI DATABASE STEP WHEN FIRST

It kills itself, with SIGKILL, before its main thread sends its STEP-th command to
the server (WHEN is "before"), or when the answer to that is there ("after"). So
nothing that matters is on its way then. What it does is
told on its standard output, a JSON list in a line for each: the number of the
change, from FIRST on, what it pushes, what it removes, what it receives; and
the number again when it is done.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading

from pymongo.monitoring import CommandListener

from snakemq.message import FLAG_PERSISTENT, Message
from snakemq.storage import Removal
from snakemq.storage.mongodb import MongoDbQueuesStorage


class Killer(CommandListener):
    """Ends this process in the middle of whatever it does."""

    def __init__(self, step: int, when: str) -> None:
        self._left = step
        self._when = when

    def _count(self, when: str) -> None:
        if when == self._when and threading.current_thread() is threading.main_thread():
            self._left -= 1
            if self._left == 0:
                os.kill(os.getpid(), getattr(signal, "SIGKILL", signal.SIGTERM))

    def started(self, event: object) -> None:
        self._count("before")

    def succeeded(self, event: object) -> None:
        self._count("after")

    def failed(self, event: object) -> None:
        self._count("after")


def tell(*what: object) -> None:
    print(json.dumps(what), flush=True)


def item(text: str) -> Message:
    return Message(text.encode(), None, FLAG_PERSISTENT, text.encode()[:16])


def main() -> None:
    uri, database, step, when, first = sys.argv[1:]
    storage = MongoDbQueuesStorage(
        uri, database=database, event_listeners=[Killer(int(step), when)]
    )
    number = int(first)
    while True:
        kind = number % 4
        count = (1, 3, 2, 4)[kind]
        texts = [f"{number} {part}" for part in range(count)]
        if kind == 3:
            tell(number, [], [], texts)
            storage.push_inbox("peer", [item(text) for text in texts], keep=1000)
        else:
            page = storage.get_page("queue", 0, max_messages=4, max_bytes=10**6)
            if kind < 2:
                page = []
            tell(number, texts, [each.message.data.decode() for each in page], [])
            removal = Removal(
                "queue",
                [each.position for each in page],
                sum(len(each.message.data) for each in page),
            )
            storage.change_items([("queue", item(text)) for text in texts], [removal])
        tell(number)
        number += 1


if __name__ == "__main__":
    main()
