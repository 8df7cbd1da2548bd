"""What is on the disk when it matters, as near to a power loss as one machine gets.

The files of a database are copied at the very moment at which something is
promised, and opened elsewhere: when ``send`` returns, and when an
acknowledgement is handed to the system. And the system calls are watched: what
was written was synced before that.
"""

from __future__ import annotations

import contextlib
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from snakemq import Peer
from snakemq._core.frames import FrameType
from snakemq.contracts import Buffer
from snakemq.message import Message
from snakemq.storage.sqlite import SqliteQueuesStorage
from tests.compat.harness import PythonEnv
from tests.crash.processes import Worker
from tests.crash.workers.records import ACCEPTED, OFFERED, RECEIVED, Workload
from tests.helpers import DEADLINE


class Copies:
    """Copies of a database, each in a directory of its own, opened with a storage.

    Without its ``-shm`` file, which is gone after a power loss, too.
    """

    def __init__(self, database: Path, directory: Path) -> None:
        self._database = database
        self._directory = directory
        self._count = 0

    def make(self) -> Path:
        """Copy it as it is now."""
        self._count += 1
        directory = self._directory / f"copy {self._count}"
        directory.mkdir(parents=True)
        for suffix in ("", "-wal"):
            with contextlib.suppress(FileNotFoundError):
                shutil.copy(f"{self._database}{suffix}", directory)
        return directory / self._database.name


class AcknowledgementHook:
    """Calls a function before each acknowledgement that a peer hands to the system.

    :param peer: it is between its packeter and its link
    :param func: called in the loop's thread with the number of messages acknowledged
    """

    def __init__(self, peer: Peer, func: Callable[[int], object]) -> None:
        self._func = func
        self._send = peer.link.send
        self._streams: dict[str, bytes] = {}
        self._sending: dict[str, bytes] = {}
        peer.link.send = self._before_send  # type: ignore[method-assign]
        peer.link.on_ready_to_send.add(self._after_send)

    def _before_send(self, conn_id: str, *data: Buffer) -> None:
        self._sending[conn_id] = b"".join(data)
        frames, _ = self._frames(self._streams.get(conn_id, b"") + self._sending[conn_id])
        for frame in frames:
            if frame[0] == FrameType.ACKNOWLEDGEMENT:
                self._func(int.from_bytes(frame[1:], "big"))
        self._send(conn_id, *data)

    def _after_send(self, conn_id: str, taken: int) -> None:
        """What was not taken will be handed over again."""
        stream = self._streams.get(conn_id, b"") + self._sending.pop(conn_id)[:taken]
        _, self._streams[conn_id] = self._frames(stream)

    @staticmethod
    def _frames(stream: bytes) -> tuple[list[bytes], bytes]:
        """The frames that are complete, and the rest."""
        frames = []
        while len(stream) >= 4:
            size = int.from_bytes(stream[:4], "big")
            if len(stream) < 4 + size:
                break
            frames.append(stream[4 : 4 + size])
            stream = stream[4 + size :]
        return frames, stream


class TestSender:
    """When ``send`` returns, the message is on the disk."""

    def test_each_message(self, tmp_path: Path) -> None:
        copies = Copies(tmp_path / "queues.db", tmp_path)
        taken = []
        with Peer("sender", storage=tmp_path / "queues.db") as sender:
            for number in range(20):
                sender.send("receiver", str(number))
                taken.append(copies.make())
            sender.send("receiver", b"x" * 1_000_000)
            large = copies.make()
        for count, copy in enumerate(taken, 1):
            with SqliteQueuesStorage(copy) as storage:
                found = [item.data for item in storage.get_items("receiver")]
            assert found == [str(number).encode() for number in range(count)]
        with SqliteQueuesStorage(large) as storage:
            assert len(storage.get_items("receiver")) == 21

    def test_a_batch(self, tmp_path: Path) -> None:
        copies = Copies(tmp_path / "queues.db", tmp_path)
        with Peer("sender", storage=tmp_path / "queues.db") as sender:
            messages = [Message(str(number).encode(), None, 1) for number in range(500)]
            sender.messaging.send_messages(("receiver", message) for message in messages)
            copy = copies.make()
        with SqliteQueuesStorage(copy) as storage:
            found = storage.get_items("receiver")
        assert [item.uuid for item in found] == [message.uuid for message in messages]


class TestReceiver:
    """When an acknowledgement leaves, what it acknowledges is on the disk."""

    COUNT = 150

    def send(self, port: int, *, storage: Path | None) -> list[bytes]:
        """Send numbered messages until all are acknowledged; their identifiers."""
        with Peer("sender", connect=port, storage=storage) as sender:
            uuids = [sender.send("receiver", str(number)) for number in range(self.COUNT)]
            assert sender.flush("receiver", DEADLINE)
        return uuids

    @pytest.mark.parametrize("persistent", [True, False])
    def test_the_memory_of_what_came(self, tmp_path: Path, persistent: bool) -> None:
        copies = Copies(tmp_path / "memory.db", tmp_path)
        taken: list[tuple[int, Path]] = []
        with Peer(
            "receiver", listen=0, storage=tmp_path / "memory.db", on_message=lambda _: None
        ) as receiver:
            AcknowledgementHook(receiver, lambda total: taken.append((total, copies.make())))
            uuids = self.send(
                receiver.addresses[0][1], storage=tmp_path / "sender.db" if persistent else None
            )
        assert taken[-1][0] == self.COUNT
        for total, copy in taken:
            with SqliteQueuesStorage(copy) as storage:
                assert storage.load_received("sender")[:total] == uuids[:total]

    @pytest.mark.parametrize("persistent", [True, False])
    def test_the_inbox(self, tmp_path: Path, persistent: bool) -> None:
        """Received durably, and nobody takes it: all of it is there."""
        copies = Copies(tmp_path / "inbox.db", tmp_path)
        taken: list[tuple[int, Path]] = []
        with Peer(
            "receiver", listen=0, storage=tmp_path / "inbox.db", durable_receive=True
        ) as receiver:
            AcknowledgementHook(receiver, lambda total: taken.append((total, copies.make())))
            uuids = self.send(
                receiver.addresses[0][1], storage=tmp_path / "sender.db" if persistent else None
            )
        assert taken[-1][0] == self.COUNT
        for total, copy in taken:
            with SqliteQueuesStorage(copy) as storage:
                items = storage.get_inbox()
                assert [item.message.uuid for item in items][:total] == uuids[:total]
                assert [item.message.data for item in items[:total]] == [
                    str(number).encode() for number in range(total)
                ]
                assert storage.load_received("sender")[:total] == uuids[:total]


class Call(NamedTuple):
    """A system call that writes or syncs.

    :ivar path: of the file; something else for a socket
    :ivar data: the beginning of what is written
    """

    name: str
    path: str
    data: bytes


class Tracer:
    """Runs a worker under strace."""

    RUN = "trace"

    def __init__(self, where: PythonEnv, directory: Path) -> None:
        self._where = where
        self._directory = directory
        self._trace = directory / "trace"
        self.database = str(directory / "queues.db")

    @contextlib.contextmanager
    def run(self, program: str, **options: object) -> Iterator[Worker]:
        """A worker that is ready; it has ended when this has."""
        worker = Worker(
            self._where,
            program,
            {
                "api": "peer",
                "ident": "traced",
                "run": self.RUN,
                "incarnation": 1,
                "storage": self.database,
                "records": str(self._directory / "records"),
                **options,
            },
            self._directory / "stderr",
            (
                *("strace", "-f", "-y", "-xx", "-s", "64", "-o", str(self._trace)),
                *("-e", "trace=fsync,fdatasync,write,pwrite64,sendto,sendmsg"),
            ),
        )
        try:
            yield worker
            worker.tell("stop")
            assert worker.join() == 0, worker.complaints()
        finally:
            # Its end is also that of what it runs, which sees the end of its input.
            worker.kill()
            worker.join()

    def calls(self) -> Iterator[Call]:
        """What it did, in order. A sync counts when it is done, all else when it begins."""
        pending: dict[str, Call] = {}
        for line in self._trace.read_text("ascii").splitlines():
            if match := re.match(r'(\d+) +(\w+)\(\d+<([^>]*)>(?:, "([^"]*)")?', line):
                process, name, path, data = match.groups()
                call = Call(name, _text(path).decode(), _text(data or ""))
                if "sync" in name and line.endswith("<unfinished ...>"):
                    pending[process] = call
                else:
                    yield call
            elif match := re.match(r"(\d+) +<\.\.\. f\w*sync resumed>.*= 0$", line):
                yield pending.pop(match[1])

    def is_database(self, call: Call) -> bool:
        """Whether it is about the storage, that is its file or the log beside it."""
        return call.path in (self.database, f"{self.database}-wal", f"{self.database}-journal")


def _text(digits: str) -> bytes:
    return bytes.fromhex(digits.replace("\\x", ""))


@pytest.fixture
def tracer(this_env: PythonEnv, tmp_path: Path) -> Tracer:
    """Skips the test where there is no strace, or where it is not allowed to work."""
    try:
        subprocess.run(["strace", "-o", tmp_path / "trial", "true"], check=True, timeout=DEADLINE)
    except (OSError, subprocess.SubprocessError) as exc:
        pytest.skip(f"needs strace: {exc}")
    return Tracer(this_env, tmp_path)


@pytest.mark.slow
class TestSynced:
    """Not only written but synced: the system would have it after a power loss."""

    @pytest.mark.parametrize("sending", ["send", "batch", "outbox"])
    def test_before_send_returns(self, tracer: Tracer, tmp_path: Path, sending: str) -> None:
        """Or the block that they are sent in has ended."""
        with tracer.run(
            "sender.py",
            to="receiver",
            persistent=True,
            ahead=100,
            seed=1,
            sending=sending,
            answers=str(tmp_path / "answers"),
        ) as worker:
            worker.hear("ready")
            worker.tell("mark")
            worker.hear("marked")
        accepted = 0
        synced = dirty = False
        for call in tracer.calls():
            if tracer.is_database(call):
                synced |= dirty and "sync" in call.name
                dirty = "sync" not in call.name
            elif call.path.endswith("records") and call.data[:1] == OFFERED:
                synced = dirty = False
            elif call.path.endswith("records") and call.data[:1] == ACCEPTED:
                accepted += 1
                assert synced, f"message {accepted} was accepted and not synced"
                # What the application has committed is put into its queue, which
                # may be late: it would be put there again.
                assert sending == "outbox" or not dirty, f"{accepted} was not synced at last"
        assert accepted

    @pytest.mark.parametrize("durable", [False, True])
    def test_before_an_acknowledgement_leaves(
        self, tracer: Tracer, tmp_path: Path, durable: bool
    ) -> None:
        keywords = {"durable_receive": durable}
        workload = Workload(Tracer.RUN.encode())
        with tracer.run("receiver.py", listen=True, keywords=keywords) as worker:
            port = worker.hear("ready")
            with Peer("sender", connect=port, storage=tmp_path / "sender.db") as sender:
                for number in range(1, 100):
                    sender.send("traced", workload.data(number), uuid=workload.uuid(number))
                    if number < 10:
                        assert sender.flush("traced", DEADLINE)
                assert sender.flush("traced", DEADLINE)
        received = acknowledged = 0
        dirty = synced = False
        for call in tracer.calls():
            if tracer.is_database(call):
                synced |= dirty and "sync" in call.name
                dirty = "sync" not in call.name
            elif call.path.endswith("records"):
                received += call.data[:1] == RECEIVED
            elif call.name.startswith("send") and FrameType.ACKNOWLEDGEMENT in call.data[4:5]:
                total = int.from_bytes(call.data[5:13], "big")
                assert synced, f"message {total} was acknowledged and not synced"
                # What happened to a message in the inbox since may be later.
                assert durable or not dirty, f"message {total} was acknowledged and not synced"
                assert durable or total <= received, f"{total} acknowledged before its callback"
                acknowledged = total
                synced = False
        assert acknowledged == 99
