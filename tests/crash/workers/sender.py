"""Sends numbered messages in bursts until it is told to end. Usage: ``sender.py OPTIONS``.

Options: those of :func:`stacks.make_stack`; ``to``; ``records`` (path); ``run``
(see :class:`records.Workload`); ``incarnation``; ``seed``; ``persistent``;
``ahead``: how many messages may be queued when a burst begins; ``sending``:
``send``, ``batch`` or ``outbox`` (each burst in a transaction that is written to
a table ``outbox``, too, and sometimes rolled back); ``answers`` (path):
where answers are recorded.

Commands: ``mark``: stop producing, send one more message and tell its number;
``drain``: tell when nothing is queued; ``die``: kill yourself when so many more
messages were accepted; ``stop``: close everything and end.
"""

from __future__ import annotations

import random
from pathlib import Path

from control import Control, die
from records import (
    ACCEPTED,
    ANSWERS,
    BEGUN,
    ENDED,
    OFFERED,
    RECEIVED,
    TOGETHER,
    Recorder,
    Workload,
    highest_offered,
)
from stacks import make_stack


class RolledBack(Exception):
    """On purpose."""


class Sender:
    def __init__(self, control: Control) -> None:
        options = control.options
        self._control = control
        self._to: str = options["to"]
        self._persistent: bool = options["persistent"]
        self._ahead: int = options["ahead"]
        self._rng = random.Random(f"{options['seed']} {options['incarnation']}")
        self._workload = Workload(options["run"].encode())
        self._number = highest_offered(Path(options["records"]))
        self._recorder = Recorder(options["records"], options["incarnation"])
        self._producing = True
        self._wanted = 0
        self._die_in: int | None = None
        self._draining = False
        self._answers = Recorder(options["answers"], options["incarnation"])
        self._answers.write(BEGUN)
        self.stack = make_stack(options, control.changed, self._receive_answer)
        self._burst = {
            "send": self._send_burst,
            "batch": self._send_batch,
            "outbox": self._send_in_transaction,
        }[options.get("sending", "send")]
        if options.get("sending") == "outbox":
            self._database = self.stack.connect_storage()
            self._database.execute("CREATE TABLE IF NOT EXISTS outbox (number INTEGER)")
        control.at_once("die", self._plan_death)

    def run(self) -> None:
        self._recorder.write(BEGUN)
        self._control.start()
        self._control.say(ready=None)
        self.stack.run(self.turn)
        self._recorder.write(ENDED)
        self._answers.write(ENDED)

    def _receive_answer(self, uuid: bytes, data: bytes, redelivered: bool) -> int:
        number, damaged = ANSWERS.number(data)
        self._answers.write(RECEIVED, number, uuid, len(data), redelivered, damaged)
        return number

    def turn(self) -> bool | None:
        """Obey a command or send a burst; whether there is more to do now, ``None`` to end."""
        command = self._control.next()
        if command is not None:
            return self._obey(**command)
        if self._draining and not self.stack.queued(self._to):
            self._draining = False
            self._control.say(drained=True)
        if self._producing and self.stack.queued(self._to) <= self._wanted:
            self._burst(self._rng.choice((1, 3, 10, 30, 100)))
            self._wanted = self._rng.choice((0, self._ahead // 2, self._ahead))
            return True
        return False

    def _obey(self, do: str) -> bool | None:
        if do == "stop":
            return None
        if do == "drain":
            self._draining = True
        if do == "mark":
            self._producing = False
            self._burst(1)
            self._control.say(marked=self._number)
        return True

    def _offer(self) -> tuple[int, bytes, bytes]:
        """The next message."""
        self._number += 1
        uuid, data = self._workload.uuid(self._number), self._workload.data(self._number)
        self._recorder.write(OFFERED, self._number, uuid, len(data))
        return self._number, uuid, data

    def _accepted(self, number: int) -> None:
        self._recorder.write(ACCEPTED, number, self._workload.uuid(number))
        if self._die_in is not None:
            self._die_in -= 1
            if self._die_in <= 0:
                die()

    def _send_burst(self, count: int) -> None:
        for _ in range(count):
            number, uuid, data = self._offer()
            self.stack.send(self._to, data, uuid, self._persistent)
            self._accepted(number)

    def _send_batch(self, count: int) -> None:
        self._recorder.write(TOGETHER, count)
        numbers = []
        with self.stack.peer.batch() as batch:
            for _ in range(count):
                number, uuid, data = self._offer()
                batch.send(self._to, data, uuid=uuid)
                numbers.append(number)
        for number in numbers:
            self._accepted(number)

    def _send_in_transaction(self, count: int) -> None:
        count = min(count, 10)
        self._recorder.write(TOGETHER, count)
        numbers = []
        try:
            with self.stack.peer.transaction(self._database) as transaction:
                for _ in range(count):
                    number, uuid, data = self._offer()
                    self._database.execute("INSERT INTO outbox VALUES (?)", (number,))
                    transaction.send(self._to, data, uuid=uuid)
                    numbers.append(number)
                if self._producing and self._rng.random() < 0.2:
                    raise RolledBack
        except RolledBack:
            return
        for number in numbers:
            self._accepted(number)

    def _plan_death(self, count: int) -> None:
        self._die_in = count


if __name__ == "__main__":
    Sender(Control()).run()
