"""A sender, a receiver, a proxy between them, and faults.

Each round is one fault: at a moment that the seed chooses and the traffic
determines, a connection is cut or a process is killed, and replaced by a new
one that opens the same storage. The traffic goes on all the time.
"""

from __future__ import annotations

import enum
import random
import sqlite3
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from tests.compat.harness import PythonEnv
from tests.crash.meter import Findings, compare
from tests.crash.processes import Role
from tests.crash.proxy import CuttingProxy, Direction, Ending, Trap
from tests.crash.workers.records import RECEIVED, Workload, read_records
from tests.helpers import DEADLINE, wait_until

__all__ = ["CUTS", "KILLS", "Fault", "Run", "Setup"]

#: How many messages may be queued when the sender begins another burst.
AHEAD: Final = 200


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
    :ivar remembers: whether the receiver has a storage
    :ivar keywords: more arguments for the receiver's ``Peer``
    :ivar endings: how connections are cut
    :ivar both_ways: whether the receiver sends something, too, to be cut at
    """

    faults: tuple[Fault, ...]
    api: str = "peer"
    persistent: bool = True
    remembers: bool = True
    keywords: dict[str, Any] = field(default_factory=dict)
    endings: tuple[Ending, ...] = (Ending.CLOSE, Ending.RESET, Ending.SILENCE)
    both_ways: bool = True


class Run:
    """Any number of rounds, and what the meter says in the end.

    :param directory: for the files of this run
    :param setup: what to run
    :param where: the Python and the snakemq of both processes
    :param seed: determines the faults and where they hit
    """

    def __init__(self, directory: Path, setup: Setup, where: PythonEnv, seed: int) -> None:
        self._setup = setup
        self._rng = random.Random(f"{setup} {seed}")
        run = f"run{seed % 10**5:05}"
        self._workload = Workload(run.encode())
        self.proxy = CuttingProxy()
        common = {"api": setup.api, "run": run, "takeover_wait": 0.05}
        self._sender_storage = directory / "sender.db"
        self.receiver = Role(
            "receiver",
            where,
            directory,
            **common,
            listen=True,
            storage=str(directory / "receiver.db") if setup.remembers else None,
            keywords=setup.keywords,
        )
        self.sender = Role(
            "sender",
            where,
            directory,
            **common,
            connect=self.proxy.port,
            storage=str(self._sender_storage) if setup.persistent else None,
            to="receiver",
            seed=seed,
            persistent=setup.persistent,
            ahead=AHEAD,
        )

    def __enter__(self) -> Run:
        try:
            self._begin(self.receiver, self.sender)
        except BaseException:
            self.close()
            raise
        return self

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
            self.sender.worker.tell("die", count=self._count(2))
            self._replace(self.sender)
        elif fault is Fault.RECEIVER_DIES:
            recorded = self._rng.random() < 0.5
            self.receiver.worker.tell("die", count=self._count(2), recorded=recorded)
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

    def finish(self, mark_timeout: float = DEADLINE, marks: int = 1) -> Findings:
        """Let everything arrive, end both processes, and see what is wrong.

        :param mark_timeout: how long a message may take, in seconds
        :param marks: after how many that did not come in time to give up
        """
        self._wait_for_mark(mark_timeout, marks)
        self.sender.worker.tell("drain")
        self.sender.worker.hear("drained")
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
        with closing(sqlite3.connect(self._sender_storage)) as connection:
            count: int = connection.execute("SELECT count(*) FROM items").fetchone()[0]
            return count

    def _wait_for_mark(self, timeout: float, marks: int) -> None:
        """A last message arrives: as there are no more faults, all before it came or never will."""
        position = sum(1 for _ in read_records(self.receiver.records))
        for left in reversed(range(marks)):
            self.sender.worker.tell("mark")
            number = self.sender.worker.hear("marked")

            def arrived(number: int = number) -> bool:
                nonlocal position
                for record in read_records(self.receiver.records, position):
                    position += 1
                    if record.kind == RECEIVED and record.number == number:
                        return True
                return False

            try:
                wait_until(arrived, timeout, what=self._state)
                return
            except AssertionError:
                if not left:
                    raise

    def _state(self) -> str:
        return (
            f"message {self.findings()}; passed {self.proxy.passed}, "
            f"connections {self.proxy.connections}\n"
            + "\n".join(role.worker.complaints() for role in (self.sender, self.receiver))
        )

    # Faults.

    def _count(self, magnitude: float) -> int:
        """From 1 to ten to the power of ``magnitude``, the small ones as often as the large."""
        return int(10 ** self._rng.uniform(0, magnitude))

    def _place(self) -> tuple[Direction, int]:
        """Behind which byte it happens: in a handshake, in a small message, in a large one."""
        if self._setup.both_ways and self._rng.random() < 0.3:
            return Direction.TO_CONNECTOR, self._count(2.3)
        return Direction.TO_LISTENER, self._count(5.5)

    def _spring(self, trap: Trap) -> None:
        self.proxy.arm(trap)
        assert trap.wait(), f"nothing happens: {trap!r}\n{self._state()}"

    def _replace(self, *roles: Role) -> None:
        """These are being killed: let others take their places."""
        for role in roles:
            role.worker.join()
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
