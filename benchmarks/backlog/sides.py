"""The processes of a run. Started by :mod:`benchmarks.backlog.runner`, not by hand.

=================  =======================================================
the runner tells   the process answers
=================  =======================================================
``queue``          ``queued``: seconds, CPU, memory, size of the file
``listen``         ``listening``: address
``open``           ``opened``: seconds, memory
``drain``          ``drained``: all is sent; from when until when, CPU, memory
``finish``         ``finished``: what is wrong with what arrived, when the
                   last one has
``close``          ``closed``
=================  =======================================================
"""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Final

import snakemq
from benchmarks.backlog import BATCH, SIZE
from benchmarks.channel import Channel
from benchmarks.memory import forget_peak, peak_resident
from benchmarks.payloads import Inbox, Payloads, clock
from snakemq.storage.sqlite import SqliteQueuesStorage
from snakemq.version import VERSION

__all__ = ["main"]

SENDER: Final = "sender"
RECEIVER: Final = "receiver"


def main() -> None:
    side, file, count = sys.argv[1:]
    _SIDES[side](Channel(), Path(file), int(count))


def queue(runner: Channel, file: Path, count: int) -> None:
    """Queue everything."""
    payloads = Payloads(SIZE, count)
    runner.hear("queue")
    _warm_up(file)
    forget_peak()
    before = peak_resident()
    with snakemq.Peer(SENDER, storage=str(file)) as peer:
        started = clock()
        cpu = time.process_time()
        for batch in payloads.batches(BATCH):
            peer.send_messages([(RECEIVER, data) for data in batch])
        seconds = clock() - started
        cpu = time.process_time() - cpu
        peak = peak_resident()
    size = sum(path.stat().st_size for path in file.parent.glob(f"{file.name}*"))
    runner.tell("queued", seconds=seconds, cpu=cpu, growth=_growth(before, peak), size=size)
    runner.hear("close")
    runner.tell("closed")


def drain(runner: Channel, file: Path, count: int) -> None:
    """Open what is queued, and send it."""
    runner.hear("open")
    _warm_up(file)
    forget_peak()
    before = peak_resident()
    started = clock()
    peer = snakemq.Peer(SENDER, storage=str(file)).start()
    seconds = clock() - started
    growth = _growth(before, peak_resident())
    runner.tell(
        "opened",
        seconds=seconds,
        growth=growth,
        wrong="" if peer.queued() == count else f"{peer.queued()} are queued of {count}",
        version=str(VERSION),
    )

    address = runner.hear("drain")["address"]
    connected: list[float] = []
    peer.on_peer_connect.add(lambda ident: connected.append(clock()))
    peer.add_connector(tuple(address))
    cpu = time.process_time()
    peer.wait_connected(RECEIVER)
    peer.flush()
    runner.tell(
        "drained",
        at=connected[0],
        until=clock(),
        cpu=time.process_time() - cpu,
        growth=_growth(before, peak_resident()),
    )

    runner.hear("close")
    peer.stop()
    with SqliteQueuesStorage(str(file)) as storage:
        assert not storage.get_queues(), "messages are left"
    runner.tell("closed")


def receive(runner: Channel, file: Path, count: int) -> None:
    """The peer that was not there."""
    runner.hear("listen")
    inbox = Inbox(SIZE)
    inbox.expect(count)
    peer = snakemq.Peer(
        RECEIVER, listen=0, on_message=lambda received: inbox.receive(received.data)
    )
    peer.start()
    runner.tell("listening", address=peer.addresses[0])
    runner.hear("finish")
    inbox.wait()
    runner.tell("finished", wrong=inbox.check(Payloads(SIZE, count)), at=inbox.completed_at)
    runner.hear("close")
    peer.stop()
    runner.tell("closed")


def _warm_up(file: Path) -> None:
    """What is loaded and allocated once does not depend on what is queued."""
    with snakemq.Peer(SENDER, storage=f"{file.parent}/warm-up.db", listen=0) as peer:
        peer.send(RECEIVER, b"")


def _growth(before: int | None, peak: int | None) -> int | None:
    return None if before is None or peak is None else max(0, peak - before)


_SIDES: Final = {"queue": queue, "drain": drain, "receive": receive}


if __name__ == "__main__":
    main()
