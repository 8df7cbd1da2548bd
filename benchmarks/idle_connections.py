"""What idle connections cost: memory for each, and CPU while nothing happens.

    python3 benchmarks/idle_connections.py
    python3 benchmarks/idle_connections.py --connections 5000 --seconds 30
    python3 benchmarks/idle_connections.py --keepalive 30
    python3 benchmarks/idle_connections.py --package DIR    what is installed there, such as 1.6

A peer in a process of its own accepts the connections. The other side is in
this process: plain sockets that identify themselves as many peers, answer
pings, and say nothing else. Memory is the growth of the peer's resident set;
what the kernel holds for its sockets is not in it.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import selectors
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent

PING = bytes.fromhex("00000001 04")
PONG = bytes.fromhex("00000001 05")

#: Seconds for all connections to be there, after which something is wrong.
DEADLINE = 300.0

#: Connections that are made and kept before anything is measured: what is
#: loaded and allocated once is not part of what a connection costs.
WARM_UP = 20


def greeting(identifier: str) -> bytes:
    """What a peer sends when it is connected: version and identification."""
    frames = [b"\0\0\0\1", identifier.encode()]
    return b"".join(
        struct.pack("!IB", len(payload) + 1, kind) + payload
        for kind, payload in zip((0, 2), frames, strict=True)
    )


def allow_open_files(count: int) -> None:
    """Raise the limit of open files, where there is one that may be raised."""
    with contextlib.suppress(ImportError, ValueError, OSError):
        import resource

        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        if soft != resource.RLIM_INFINITY and soft < count:
            resource.setrlimit(resource.RLIMIT_NOFILE, (count, hard))


def resident_bytes() -> int:
    """The resident set of this process. Linux only."""
    pages = int(Path("/proc/self/statm").read_text("ascii").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def run_peer(keepalive: float | None) -> None:
    """The peer that is measured. A line on standard input asks, a line of JSON answers."""
    import gc

    import snakemq.link
    import snakemq.messaging
    import snakemq.packeter
    import snakemq.version

    link = snakemq.link.Link()
    messaging = snakemq.messaging.Messaging("measured", "", snakemq.packeter.Packeter(link))
    messaging.keepalive_interval = keepalive
    messaging.keepalive_wait = 10.0
    identified = 0

    def connected(conn_id: str, ident: str) -> None:
        nonlocal identified
        identified += 1

    messaging.on_connect.add(connected)
    address = link.add_listener(("127.0.0.1", 0))
    threading.Thread(target=link.loop, daemon=True).start()

    def answer(**facts: object) -> None:
        print(json.dumps(facts), flush=True)

    answer(port=address[1], version=snakemq.version.VERSION)
    for line in sys.stdin:
        if line.strip() == "collect":
            gc.collect()
        answer(
            connections=identified,
            resident=resident_bytes(),
            cpu=time.process_time(),
            time=time.monotonic(),
        )


class Measured:
    """The process of the measured peer."""

    def __init__(self, arguments: list[str], package: Path) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-W", "ignore", __file__, "--peer", *arguments],
            env=dict(os.environ, PYTHONPATH=str(package)),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.facts = self._read()

    def ask(self, what: str = "") -> dict[str, float]:
        """How it is now."""
        assert self._process.stdin is not None
        print(what, file=self._process.stdin, flush=True)
        return self._read()

    def wait_for_connections(self, count: int) -> None:
        """Until so many peers are connected and identified."""
        deadline = time.monotonic() + DEADLINE
        while (there := self.ask()["connections"]) < count:
            if time.monotonic() > deadline:
                sys.exit(f"only {there} of {count} connections within {DEADLINE:g} seconds")
            time.sleep(0.1)

    def close(self) -> None:
        self._process.kill()
        self._process.communicate()

    def _read(self) -> dict[str, float]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            sys.exit("the measured peer ended early")
        facts: dict[str, float] = json.loads(line)
        return facts


class Others:
    """Everybody who is connected to the measured peer."""

    def __init__(self, port: int) -> None:
        self._address = ("127.0.0.1", port)
        self._sockets: list[socket.socket] = []
        self._selector = selectors.DefaultSelector()
        self.pings = 0

    def add(self, count: int) -> None:
        """So many more."""
        for _ in range(count):
            sock = socket.create_connection(self._address, DEADLINE)
            self._sockets.append(sock)
            self._selector.register(sock, selectors.EVENT_READ)
            sock.sendall(greeting(f"peer {len(self._sockets)}"))

    def answer_pings(self, seconds: float) -> None:
        """Let time pass."""
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            for key, _ in self._selector.select(left):
                assert isinstance(key.fileobj, socket.socket)
                data = key.fileobj.recv(4096)
                if not data:
                    sys.exit("the measured peer closed a connection")
                count = data.count(PING)
                self.pings += count
                key.fileobj.sendall(PONG * count)

    def close(self) -> None:
        for sock in self._sockets:
            sock.close()
        self._selector.close()


@contextlib.contextmanager
def measured_peer(
    options: argparse.Namespace,
) -> Iterator[tuple[Measured, Others]]:
    """The peer and those who are going to connect to it."""
    keepalive = [] if options.keepalive is None else ["--keepalive", str(options.keepalive)]
    with contextlib.ExitStack() as cleanup:
        peer = Measured(keepalive, options.package)
        cleanup.callback(peer.close)
        others = Others(int(peer.facts["port"]))
        cleanup.callback(others.close)
        yield peer, others


def measure(options: argparse.Namespace) -> None:
    """Connect, look, wait, look again."""
    with measured_peer(options) as (peer, others):
        print(f"snakemq {peer.facts['version']}, Python {sys.version.split()[0]}, {sys.platform}")
        others.add(WARM_UP)
        peer.wait_for_connections(WARM_UP)
        before = peer.ask("collect")

        others.add(options.connections)
        peer.wait_for_connections(WARM_UP + options.connections)
        ready = peer.ask("collect")
        grown = ready["resident"] - before["resident"]
        print(
            f"{options.connections} connections identified in"
            f" {ready['time'] - before['time']:.2f} s"
        )
        print(
            f"memory: {grown / options.connections / 1024:.1f} KiB each"
            f" ({before['resident'] / 2**20:.1f} MiB before, {ready['resident'] / 2**20:.1f} after)"
        )

        others.answer_pings(min(1.0, options.seconds))  # the greetings that have not been read
        others.pings = 0
        start = peer.ask()
        others.answer_pings(options.seconds)
        end = peer.ask()
        cpu, wall = end["cpu"] - start["cpu"], end["time"] - start["time"]
        print(
            f"idle: {cpu * 1000:.1f} ms CPU in {wall:.1f} s ({cpu / wall:.3%} of a core),"
            f" {others.pings} pings answered"
        )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--connections", type=int, default=1000, metavar="N")
    parser.add_argument("--seconds", type=float, default=10.0, help="how long to be idle")
    parser.add_argument(
        "--keepalive", type=float, metavar="SECONDS", help="keepalive_interval (default: none)"
    )
    parser.add_argument("--package", type=Path, default=ROOT, metavar="DIR")
    parser.add_argument("--peer", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    allow_open_files(options.connections + WARM_UP + 100)
    if options.peer:
        allow_open_files(1 << 16)
        run_peer(options.keepalive)
    else:
        measure(options)


if __name__ == "__main__":
    main()
