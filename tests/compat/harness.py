"""What the compatibility tests share: peers in their own processes, logs of events.

Nothing here sleeps: every wait is for a condition, with a deadline that is
only reached when something is broken.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import signal
import socket
import subprocess
import threading
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.helpers import DEADLINE

PEERS = Path(__file__).parent / "peers"

Event = dict[str, Any]


@dataclass(frozen=True)
class PythonEnv:
    """A Python and the environment in which it finds one certain snakemq."""

    name: str
    python: str
    env: Mapping[str, str]


class EventLog:
    """Events in the order in which they came; any thread adds, any thread waits."""

    def __init__(self, explain: Callable[[], str] = str) -> None:
        self._events: list[Event] = []
        self._changed = threading.Condition()
        self._closed = False
        self._explain = explain

    def add(self, event: str, **fields: Any) -> None:
        with self._changed:
            self._events.append({**fields, "event": event})
            self._changed.notify_all()

    def close(self) -> None:
        """Nothing more comes: whoever waits fails at once."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def mark(self) -> int:
        """A point in the history, for ``since``."""
        with self._changed:
            return len(self._events)

    def all(self, event: str, since: int = 0, **fields: Any) -> list[Event]:
        """The matching events that have come until now."""
        with self._changed:
            return [e for e in self._events[since:] if _matches(e, event, fields)]

    def wait(
        self,
        event: str,
        *,
        since: int = 0,
        count: int = 1,
        timeout: float = DEADLINE,
        **fields: Any,
    ) -> list[Event]:
        """The first ``count`` matching events, as soon as they are there."""
        found: list[Event] = []
        position = since

        def complete() -> bool:
            nonlocal position
            found.extend(e for e in self._events[position:] if _matches(e, event, fields))
            position = len(self._events)
            return len(found) >= count or self._closed

        with self._changed:
            self._changed.wait_for(complete, timeout)
            if len(found) < count:
                raise AssertionError(
                    f"{len(found)} of {count} events {event!r} {fields} came"
                    f"{' before the end' if self._closed else f' in {timeout} s'};"
                    f" the last ones: {self._events[-8:]}\n{self._explain()}"
                )
        return found[:count]

    def wait_one(self, event: str, **how: Any) -> Event:
        return self.wait(event, count=1, **how)[0]


def _matches(event: Event, name: str, fields: Mapping[str, Any]) -> bool:
    return event["event"] == name and all(event.get(k) == v for k, v in fields.items())


class PeerProcess(EventLog):
    """A program of ``peers/``, running in its own process.

    :param where: the Python and the snakemq it runs on
    :param program: file name in ``peers/``
    :param options: its options, see ``peers/console.py``
    """

    def __init__(self, where: PythonEnv, program: str, **options: Any) -> None:
        super().__init__(self._stderr_tail)
        self.where = where
        self.ident: str = options["ident"]
        self._numbers = itertools.count(1)
        self._stderr: deque[str] = deque(maxlen=60)
        self._process = subprocess.Popen(
            [where.python, str(PEERS / program), json.dumps(options)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=dict(where.env),
            text=True,
            encoding="utf-8",
        )
        self._readers = [
            threading.Thread(target=self._read_events, daemon=True),
            threading.Thread(target=self._read_stderr, daemon=True),
        ]
        for reader in self._readers:
            reader.start()
        try:
            ready = self.wait_one("ready")
        except BaseException:
            self.kill()
            raise
        self.version: str = ready["version"]
        #: Where a connector reaches it.
        self.port: int | None = ready["listening"][1] if ready["listening"] else None

    def _read_events(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            event = json.loads(line)
            self.add(event.pop("event"), **event)
        self.close()

    def _read_stderr(self) -> None:
        assert self._process.stderr is not None
        for line in self._process.stderr:
            self._stderr.append(line)

    def _stderr_tail(self) -> str:
        # The end of a process is seen on stdout a little before the last of stderr.
        if self._process.poll() is not None:
            self._readers[1].join(DEADLINE)
        return f"stderr of {self.ident} ({self.where.name}):\n" + "".join(self._stderr)

    @property
    def stderr(self) -> str:
        """The end of what it has written there."""
        return "".join(self._stderr)

    def tell(self, do: str, **arguments: Any) -> int:
        """Give a command and do not wait; the number of the command."""
        number = next(self._numbers)
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps({"do": do, "id": number, **arguments}) + "\n")
        self._process.stdin.flush()
        return number

    def do(self, do: str, **arguments: Any) -> Any:
        """Give a command, wait until it is done, return what it returned."""
        since = self.mark()
        number = self.tell(do, **arguments)
        outcome: list[Event] = []

        def answered() -> bool:
            outcome[:] = [
                e
                for e in self._events[since:]
                if e.get("id") == number and e["event"] in ("done", "failed")
            ]
            return bool(outcome) or self._closed

        with self._changed:
            self._changed.wait_for(answered, DEADLINE)
        assert outcome, f"no answer to {do} {arguments}\n{self._stderr_tail()}"
        assert outcome[0]["event"] == "done", outcome[0]
        return outcome[0]["value"]

    def pause(self) -> None:
        """Stop it as a debugger does: its sockets stay open and silent."""
        self._process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        self._process.send_signal(signal.SIGCONT)

    def kill(self) -> None:
        """End it without a chance to clean up."""
        self._process.kill()
        self._reap()

    def stop(self) -> int:
        """Let it end by itself; its exit status.

        What runs on this package has nothing to say on stderr: no warning, no
        traceback of a thread, nothing that was left open.
        """
        with contextlib.suppress(OSError):
            self.tell("stop")
        self._reap()
        assert self.version == "1.6" or not self._stderr, self._stderr_tail()
        return self._process.returncode

    def _reap(self) -> None:
        try:
            self._process.wait(DEADLINE)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait(DEADLINE)
            raise AssertionError(f"it does not end\n{self._stderr_tail()}") from None
        finally:
            for reader in self._readers:
                reader.join(DEADLINE)
            for stream in (self._process.stdin, self._process.stdout, self._process.stderr):
                assert stream is not None
                with contextlib.suppress(OSError):
                    stream.close()

    @property
    def ended(self) -> bool:
        return self._process.poll() is not None


class PeerProcesses:
    """Starts peers and ends those which are left over."""

    def __init__(self, environments: Mapping[str, PythonEnv]) -> None:
        self.environments = environments
        self._started: list[PeerProcess] = []

    def start(self, which: str, program: str, **options: Any) -> PeerProcess:
        """:param which: ``old`` (the real 1.6) or ``new`` (this package)"""
        peer = PeerProcess(self.environments[which], program, **options)
        self._started.append(peer)
        assert (peer.version == "1.6") == (which == "old"), peer.version
        return peer

    def listener(
        self, which: str, program: str, ident: str, port: int = 0, **options: Any
    ) -> PeerProcess:
        return self.start(which, program, ident=ident, listen=["127.0.0.1", port], **options)

    def connector(
        self, which: str, program: str, ident: str, port: int | None, **options: Any
    ) -> PeerProcess:
        options.setdefault("reconnect_interval", 0.1)
        return self.start(which, program, ident=ident, connect=[["127.0.0.1", port]], **options)

    def kill_all(self) -> None:
        for peer in self._started:
            if not peer.ended:
                if hasattr(signal, "SIGCONT"):
                    peer.resume()
                peer.kill()


@contextlib.contextmanager
def peer_processes(environments: Mapping[str, PythonEnv]) -> Iterator[PeerProcesses]:
    peers = PeerProcesses(environments)
    try:
        yield peers
    finally:
        peers.kill_all()


def environ_with(path: Path | str, **more: str) -> dict[str, str]:
    """This process's environment with ``path`` as the only ``PYTHONPATH``."""
    return {**os.environ, "PYTHONPATH": str(path), "PYTHONDONTWRITEBYTECODE": "1", **more}


def run_python(
    where: PythonEnv, arguments: Sequence[str], timeout: float = 60.0
) -> subprocess.CompletedProcess[str]:
    """Run a short program to its end.

    Use this with ``-c``: there the working directory is searched before
    ``PYTHONPATH``, and the directory in which tests run has a snakemq in it.
    """
    return subprocess.run(
        [where.python, *arguments],
        env=dict(where.env),
        cwd=where.env["PYTHONPATH"],
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )


class Tap:
    """A TCP relay that counts the frames that come, by direction and type.

    :param target: port on loopback to which connections are relayed
    """

    def __init__(self, target: int) -> None:
        self._target = target
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self.log = EventLog()
        self._sockets = [self._listener]
        self._threads: list[threading.Thread] = []
        self._swallowed: dict[str, int | None] = {}
        self._spawn(self._accept)

    def swallow(self, direction: str, kind: int | None) -> None:
        """From now on let no frame of that type pass; ``None``: let all pass."""
        self._swallowed[direction] = kind

    def cut(self) -> None:
        """Break the connections that are there."""
        connections, self._sockets = self._sockets[1:], self._sockets[:1]
        for sock in connections:
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
            sock.close()

    def _spawn(self, func: Callable[..., None], *args: Any) -> None:
        thread = threading.Thread(target=func, args=args, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                near, _ = self._listener.accept()
                far = socket.create_connection(("127.0.0.1", self._target))
                self._sockets += [near, far]
                self._spawn(self._relay, near, far, "to listener")
                self._spawn(self._relay, far, near, "to connector")

    def _relay(self, source: socket.socket, sink: socket.socket, direction: str) -> None:
        pending = b""
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                pending += data
                while len(pending) >= 4:
                    end = 4 + int.from_bytes(pending[:4], "big")
                    if len(pending) < end:
                        break
                    kind = pending[4] if end > 4 else None
                    self.log.add("frame", direction=direction, kind=kind)
                    if kind is None or kind != self._swallowed.get(direction):
                        sink.sendall(pending[:end])
                    pending = pending[end:]
        for sock in (source, sink):
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        for sock in self._sockets:
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join(DEADLINE)
        for sock in self._sockets:
            sock.close()
