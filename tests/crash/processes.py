"""The workers, each in its own process."""

from __future__ import annotations

import contextlib
import json
import queue
import subprocess
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from tests.compat.harness import PythonEnv
from tests.helpers import DEADLINE

__all__ = ["Role", "Worker"]

WORKERS: Final = Path(__file__).parent / "workers"


class Worker:
    """One process.

    :param where: the Python and the snakemq it runs on
    :param program: file name in ``workers/``
    :param options: of the program
    :param stderr: file to which its standard error is appended
    :param prefix: a command that runs it, and to which all the rest are arguments
    """

    def __init__(
        self,
        where: PythonEnv,
        program: str,
        options: dict[str, Any],
        stderr: Path,
        prefix: Sequence[str] = (),
    ) -> None:
        self._stderr = stderr
        self._lines: queue.SimpleQueue[dict[str, Any] | None] = queue.SimpleQueue()
        with stderr.open("ab") as file:
            self._process = subprocess.Popen(
                [*prefix, where.python, str(WORKERS / program), json.dumps(options)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=file,
                env=dict(where.env),
            )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    @property
    def pid(self) -> int:
        return self._process.pid

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._lines.put(json.loads(line))
        self._lines.put(None)

    def tell(self, do: str, **arguments: Any) -> None:
        """Give a command. One that is dead does not hear it."""
        assert self._process.stdin is not None
        with contextlib.suppress(OSError):
            self._process.stdin.write(json.dumps({"do": do, **arguments}).encode() + b"\n")
            self._process.stdin.flush()

    def hear(self, what: str, timeout: float = DEADLINE) -> Any:
        """Wait for a line that says this.

        :raises AssertionError: it does not come in time, or the process ended
        """
        try:
            line = self._lines.get(timeout=timeout)
        except queue.Empty:
            raise AssertionError(f"not {what} within {timeout:g} s\n{self.complaints()}") from None
        assert line is not None, f"ended before it was {what}\n{self.complaints()}"
        assert what in line, line
        return line[what]

    def kill(self) -> None:
        """Begin to end it without a chance to clean up. From any thread."""
        self._process.kill()

    def join(self, timeout: float = DEADLINE) -> int:
        """Wait until it has ended; its exit status.

        :raises AssertionError: it does not end; it is killed
        """
        try:
            return self._process.wait(timeout)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait(DEADLINE)
            raise AssertionError(f"it does not end\n{self.complaints()}") from None
        finally:
            self._reader.join(DEADLINE)
            for stream in (self._process.stdin, self._process.stdout):
                assert stream is not None
                with contextlib.suppress(OSError):
                    stream.close()

    @property
    def running(self) -> bool:
        return self._process.poll() is None

    def complaints(self) -> str:
        """The end of what it, and those before it, wrote to standard error."""
        return f"{self._stderr.name}:\n{self._stderr.read_text('utf-8', 'replace')[-4000:]}"


class Role:
    """The sender or the receiver: one process after the other.

    :param name: ``sender`` or ``receiver``, a program in ``workers/``
    :param where: the Python and the snakemq they run on
    :param directory: where the files of all of them are
    :param has_storage: whether it has one
    :param options: of the program
    """

    def __init__(
        self,
        name: str,
        where: PythonEnv,
        directory: Path,
        *,
        has_storage: bool,
        **options: Any,
    ) -> None:
        self.name = name
        self.storage = directory / f"{name}.db"
        self.records = directory / f"{name}.records"
        self.stderr = directory / f"{name}.stderr"
        self._where = where
        self._options = {
            **options,
            "ident": name,
            "records": str(self.records),
            "storage": str(self.storage) if has_storage else None,
        }
        self.incarnation = 0
        self._worker: Worker | None = None

    @property
    def worker(self) -> Worker:
        """The process of now, or the last one."""
        assert self._worker is not None
        return self._worker

    def begin(self) -> Worker:
        """Start the next process; it says ``ready`` when it is."""
        assert self._worker is None or not self._worker.running
        self.incarnation += 1
        options = {**self._options, "incarnation": self.incarnation}
        self._worker = Worker(self._where, f"{self.name}.py", options, self.stderr)
        return self._worker

    def kill(self) -> None:
        """Kill it, if there is one, and wait for its end."""
        if self._worker is not None:
            self._worker.kill()
            self._worker.join()
