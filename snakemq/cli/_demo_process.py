"""The demo's side of its two processes."""

from __future__ import annotations

import contextlib
import json
import os
import queue
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import TracebackType
from typing import IO, TYPE_CHECKING, Any, Final

from snakemq.cli._exit import CommandError

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["DemoProcess"]

#: How long anything may take before the demo has failed, in seconds. Generous,
#: for machines that are busy with something else.
PATIENCE: Final = 30.0

#: What each of the processes runs.
PROGRAM: Final = ("-m", "snakemq.cli._demo_peer")

Report = dict[str, Any]


class DemoProcess:
    """A peer in a process of its own; see :mod:`snakemq.cli._demo_peer`.

    :param identifier: of the peer
    :param options: its command line
    """

    def __init__(self, identifier: str, *options: str) -> None:
        self.identifier = identifier
        self._reports: queue.Queue[Report | None] = queue.Queue()
        self._seen: list[Report] = []
        package_parent = str(Path(__file__).resolve().parents[2])
        path = [package_parent, *filter(None, [os.environ.get("PYTHONPATH")])]
        self._process = subprocess.Popen(
            [sys.executable, *PROGRAM, identifier, *options],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            encoding="utf-8",
            env={**os.environ, "PYTHONPATH": os.pathsep.join(path), "PYTHONUTF8": "1"},
            # Ctrl-C is for the demo, which then ends its processes itself.
            start_new_session=os.name != "nt",
            creationflags=getattr(subprocess, "CREATE_NEW_PROCESS_GROUP", 0),
        )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._stdin: IO[str] = self._process.stdin
        self._stdout: IO[str] = self._process.stdout
        # A thread, because Windows has no other way to read a pipe with a timeout.
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    @property
    def pid(self) -> int:
        """Process number."""
        return self._process.pid

    def _read(self) -> None:
        for line in self._stdout:
            self._reports.put(json.loads(line))
        self._reports.put(None)

    def tell(self, do: str, **fields: object) -> None:
        """Send it a command.

        :raises CommandError: it is not there any more
        """
        try:
            self._stdin.write(json.dumps({"do": do, **fields}) + "\n")
            self._stdin.flush()
        except OSError as exc:
            raise CommandError(f"{self.identifier}'s process is gone: {exc}") from exc

    def expect(self, event: str) -> Report:
        """The next report of an event; wait for it.

        :raises CommandError: it did not come in time, or can't come any more
        """
        for number, report in enumerate(self._seen):
            if report["event"] == event:
                return self._seen.pop(number)
        deadline = time.monotonic() + PATIENCE
        while (left := deadline - time.monotonic()) > 0:
            try:
                # Short waits, because on Windows a long one is deaf to Ctrl-C.
                report_or_end = self._reports.get(timeout=min(left, 0.5))
            except queue.Empty:
                continue
            if report_or_end is None:
                raise CommandError(f"{self.identifier}'s process ended before {event!r}")
            if report_or_end["event"] == event:
                return report_or_end
            self._seen.append(report_or_end)
        raise CommandError(
            f"{self.identifier} did not report {event!r} within {PATIENCE:g} seconds"
        )

    def unexpected(self, event: str) -> list[Report]:
        """The reports of an event that nobody asked for so far. After its end: all."""
        while not self._reports.empty():
            report = self._reports.get()
            if report is not None:
                self._seen.append(report)
        return [report for report in self._seen if report["event"] == event]

    def stop(self) -> int:
        """Let it end by itself.

        :return: its exit status
        """
        self.tell("stop")
        return self._finish()

    def kill(self) -> int:
        """End it at once; it gets no chance to do anything.

        :return: its exit status
        """
        self._process.kill()
        return self._finish()

    def _finish(self) -> int:
        try:
            status = self._process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            raise CommandError(
                f"{self.identifier}'s process did not end within {PATIENCE:g} seconds"
            ) from None
        self._reader.join()
        return status

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._process.poll() is None:
            self._process.kill()
            self._process.wait()
        self._reader.join()
        self._stdout.close()
        with contextlib.suppress(OSError):  # what is left in its buffer can't be written
            self._stdin.close()
