"""A sender, a receiver, a proxy between them, and faults.

Each round is one fault: at a moment that the seed chooses and the traffic
determines, a connection is cut or a process is killed, and replaced by a new
one that opens the same storage. The traffic goes on all the time.
"""

from __future__ import annotations

import enum
import random
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from tests.compat.harness import PythonEnv
from tests.crash.meter import Findings, compare
from tests.crash.processes import Role
from tests.crash.proxy import CuttingProxy, Direction, Ending, Trap
from tests.crash.workers.records import (
    ACCEPTED,
    ANSWERS,
    OFFERED,
    RECEIVED,
    Record,
    Workload,
    read_records,
)
from tests.helpers import DEADLINE, wait_until

__all__ = ["CUTS", "KILLS", "Fault", "Run", "Setup", "Stuck"]

#: How many messages may be queued when the sender begins another burst.
AHEAD: Final = 200


class Stuck(AssertionError):
    """Something that has to happen does not."""


class Fault(enum.Enum):
    """What happens in a round."""

    CUT = "connection cut"
    KILL_SENDER = "sender killed"
    KILL_RECEIVER = "receiver killed"
    KILL_BOTH = "both killed"
    #: right after ``send`` returned
    SENDER_DIES = "sender dies after send"
    #: before or after it recorded the message
    RECEIVER_DIES = "receiver dies in its callback"


CUTS: Final = (Fault.CUT,)
KILLS: Final = tuple(fault for fault in Fault if fault is not Fault.CUT)


@dataclass(frozen=True)
class Setup:
    """What is put to the test, and what it promises.

    :ivar faults: one of these in each round, chosen by the seed
    :ivar api: on which of :mod:`tests.crash.workers.stacks` both run
    :ivar persistent: whether the sender has a storage and the messages use it
    :ivar receiver_storage: whether the receiver has a storage
    :ivar sending: see :mod:`tests.crash.workers.sender`
    :ivar receiving: see :mod:`tests.crash.workers.stacks`
    :ivar keywords: more arguments for the receiver's ``Peer`` or ``Messaging``
    :ivar endings: how connections are cut
    :ivar both_ways: whether the receiver sends something, too, to be cut at
    """

    faults: tuple[Fault, ...]
    api: str = "peer"
    persistent: bool = True
    receiver_storage: bool = True
    sending: str = "send"
    receiving: str = "callback"
    keywords: dict[str, Any] = field(default_factory=dict)
    endings: tuple[Ending, ...] = (Ending.CLOSE, Ending.RESET, Ending.SILENCE)
    both_ways: bool = True

    @property
    def remembers(self) -> bool:
        """Whether a receiver that was killed knows each message that it had received."""
        return self.receiver_storage and self.persistent


class Run:
    """Any number of rounds, and what the meter says in the end.

    :param directory: for the files of this run
    :param setup: what to run
    :param where: the Python and the snakemq of both processes
    :param seed: determines the faults and where they hit
    :param patience: how long anything may take, in seconds
    """

    def __init__(
        self,
        directory: Path,
        setup: Setup,
        where: PythonEnv,
        seed: int,
        patience: float = DEADLINE,
    ) -> None:
        self._patience = patience
        self._setup = setup
        self._rng = random.Random(f"{setup} {seed}")
        run = f"run{seed % 10**5:05}"
        self._workload = Workload(run.encode())
        self.proxy = CuttingProxy()
        self._answers = directory / "answers.records"
        common = {"api": setup.api, "run": run, "takeover_wait": 0.05}
        self.receiver = Role(
            "receiver",
            where,
            directory,
            **common,
            listen=True,
            has_storage=setup.receiver_storage,
            receiving=setup.receiving,
            keywords=setup.keywords,
        )
        self.sender = Role(
            "sender",
            where,
            directory,
            **common,
            connect=self.proxy.port,
            has_storage=setup.persistent,
            to="receiver",
            seed=seed,
            persistent=setup.persistent,
            sending=setup.sending,
            ahead=AHEAD,
            answers=str(self._answers),
        )

    def __enter__(self) -> Run:
        try:
            self.begin()
        except BaseException:
            self.close()
            raise
        return self

    def begin(self) -> None:
        """Start both processes."""
        self._begin(self.receiver, self.sender)

    def __exit__(self, *exc: object) -> None:
        self.close()

    def close(self) -> None:
        """End both processes and the proxy, whatever they are doing."""
        for role in (self.sender, self.receiver):
            role.kill()
        self.proxy.close()

    def round(self) -> Fault:
        """Let one fault happen, and mend it."""
        fault = self._rng.choice(self._setup.faults)
        self.do(fault)
        return fault

    def do(self, fault: Fault) -> None:
        """As :meth:`round`, with a given fault."""
        if fault is Fault.CUT:
            self._spring(Trap(*self._place(), self._rng.choice(self._setup.endings)))
        elif fault is Fault.SENDER_DIES:
            self.sender.worker.tell("die", count=self._count(0, 2))
            self._replace(self.sender)
        elif fault is Fault.RECEIVER_DIES:
            recorded = self._rng.random() < 0.5
            self.receiver.worker.tell("die", count=self._count(0, 2), recorded=recorded)
            self._replace(self.receiver)
        else:
            roles = {
                Fault.KILL_SENDER: [self.sender],
                Fault.KILL_RECEIVER: [self.receiver],
                Fault.KILL_BOTH: [self.sender, self.receiver],
            }[fault]
            self._rng.shuffle(roles)

            def kill() -> None:
                for role in roles:
                    role.worker.kill()

            self._spring(Trap(*self._place(), action=kill))
            self._replace(*roles)

    def start_over(self) -> None:
        """Replace both processes, whatever they are doing."""
        for role in (self.sender, self.receiver):
            role.worker.kill()
        self._replace(self.sender, self.receiver)

    def settle(self) -> None:
        """Send a last message and wait for it.

        There are no more faults, so what was before it came, or never will.
        """
        position = sum(1 for _ in read_records(self.receiver.records))
        with self._or_stuck():
            self.sender.worker.tell("mark")
            number = self.sender.worker.hear("marked", self._patience)
            self._wait_for_record(self.receiver.records, position, number)

    def _wait_for_record(self, records: Path, position: int, number: int) -> None:
        def arrived() -> bool:
            nonlocal position
            for record in read_records(records, position):
                position += 1
                if record.kind == RECEIVED and record.number == number:
                    return True
            return False

        wait_until(arrived, self._patience, what=f"message {number} comes")

    def finish(self) -> Findings:
        """Let everything arrive, end both processes, and see what is wrong."""
        self.settle()
        self.sender.worker.tell("drain")
        with self._or_stuck():
            self.sender.worker.hear("drained", self._patience)
            if self._setup.receiving == "transaction":
                self._wait_for_record(self._answers, 0, self._numbers_received()[-1])
        for role in (self.sender, self.receiver):
            role.worker.tell("stop")
            assert role.worker.join() == 0, role.worker.complaints()
        return self.findings()

    def findings(self) -> Findings:
        """What the records say now."""
        return compare(
            read_records(self.sender.records),
            read_records(self.receiver.records),
            self._workload,
            remembers=self._setup.remembers,
        )

    def left_in_storage(self) -> int:
        """How many messages the sender's storage still has."""
        if not self._setup.persistent:
            return 0
        (count,) = self._select(self.sender, "SELECT count(*) FROM items")
        return count

    def check_tables(self) -> None:
        """What the two applications wrote into their databases is what was sent and received."""
        received = self._numbers_received()
        if self._setup.sending == "outbox":
            assert self._select(self.sender, "SELECT number FROM outbox ORDER BY 1") == received
        if self._setup.receiving == "transaction":
            effects = self._select(self.receiver, "SELECT number FROM effects ORDER BY rowid")
            assert effects == received

    def answers(self) -> Findings:
        """What became of the answers: there is one to each message that was received."""
        sent = []
        for number in self._numbers_received():
            sent += [Record(OFFERED, 0, number), Record(ACCEPTED, 0, number)]
        return compare(sent, read_records(self._answers), ANSWERS)

    def _numbers_received(self) -> list[int]:
        records = read_records(self.receiver.records)
        return sorted({record.number for record in records if record.kind == RECEIVED})

    @staticmethod
    def _select(role: Role, sql: str) -> list[int]:
        with closing(sqlite3.connect(role.storage)) as connection:
            return [row[0] for row in connection.execute(sql)]

    @contextmanager
    def _or_stuck(self) -> Iterator[None]:
        try:
            yield
        except AssertionError as exc:
            raise Stuck(f"{exc}\n{self._state()}") from None

    def _state(self) -> str:
        return (
            f"{self.findings()}; passed {sum(self.proxy.passed.values())} bytes "
            f"on {self.proxy.connections} connections\n"
            + "".join(role.worker.complaints() for role in (self.sender, self.receiver))
        )

    # Faults.

    def _count(self, least: float, most: float) -> int:
        """From ten to the power of ``least`` on, the small ones as often as the large."""
        return int(10 ** self._rng.uniform(least, most))

    def _place(self) -> tuple[Direction, int]:
        """Behind which byte it happens: in a handshake, in small messages, in large ones."""
        if self._setup.both_ways and self._rng.random() < 0.3:
            return Direction.TO_CONNECTOR, self._count(*self._rng.choice(((0, 2), (2, 3))))
        return Direction.TO_LISTENER, self._count(*self._rng.choice(((0, 2), (2, 4), (4, 6))))

    def _spring(self, trap: Trap) -> None:
        self.proxy.arm(trap)
        if not trap.wait(self._patience):
            raise Stuck(f"nothing happens: {trap!r}\n{self._state()}")

    def _replace(self, *roles: Role) -> None:
        """These are being killed: let others take their places."""
        for role in roles:
            with self._or_stuck():
                role.worker.join(self._patience)
        self._begin(*roles)

    def _begin(self, *roles: Role) -> None:
        if self.receiver in roles:
            self.proxy.lead_to(None)
        for role in roles:
            role.begin()
        for role in roles:
            port = role.worker.hear("ready")
            if role is self.receiver:
                self.proxy.lead_to(port)
