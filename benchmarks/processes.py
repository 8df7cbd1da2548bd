"""The processes of a run, as the runner sees them."""

from __future__ import annotations

import json
import queue
import subprocess
import tempfile
import threading
from types import TracebackType
from typing import IO, TYPE_CHECKING, Any, Final

from benchmarks.channel import Facts
from benchmarks.environments import Environment

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["Process", "RunFailed"]

#: Seconds that a step may take.
STEP_TIMEOUT: Final = 330.0


class RunFailed(Exception):
    """A run did not come to its end, or something else arrived than was sent."""

    @property
    def summary(self) -> str:
        """What happened, without all that a process has said about it but the last line."""
        happened, *said = str(self).splitlines()
        return f"{happened} {said[-1].strip()}" if said else happened


class Process:
    """One side of one run.

    :param what: for error messages
    :param program: the module that it runs
    :param arguments: of that
    """

    def __init__(
        self, environment: Environment, what: str, program: str, arguments: list[str]
    ) -> None:
        self._what = what
        self._errors: IO[str] = tempfile.TemporaryFile(  # noqa: SIM115 - closed in __exit__
            "w+", encoding="utf-8", errors="replace"
        )
        self._process = subprocess.Popen(
            [environment.python, "-W", "ignore", "-m", program, *arguments],
            cwd=environment.directory,
            env=environment.variables,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
            encoding="utf-8",
        )
        self._lines: queue.SimpleQueue[str] = queue.SimpleQueue()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._lines.put(line)
        self._lines.put("")

    def tell(self, step: str, **facts: Any) -> None:
        """Have this step done.

        :raises RunFailed: the process is gone
        """
        assert self._process.stdin is not None
        try:
            print(json.dumps({**facts, "step": step}), file=self._process.stdin, flush=True)
        except OSError as exc:
            raise self._failed(f"is gone before {step!r}") from exc

    def hear(self, step: str) -> Facts:
        """Wait until this step is done.

        :raises RunFailed: it is not done in time, or the process ends before
        """
        try:
            line = self._lines.get(timeout=STEP_TIMEOUT)
        except queue.Empty:
            raise self._failed(f"has not done {step!r} within {STEP_TIMEOUT:g} seconds") from None
        if not line:
            raise self._failed(f"ended before {step!r}")
        facts: Facts = json.loads(line)
        if facts["step"] != step:
            raise self._failed(f"has done {facts['step']!r} instead of {step!r}")
        return facts

    def _failed(self, how: str) -> RunFailed:
        self._process.kill()
        self._process.wait()
        self._errors.seek(0)
        said = self._errors.read()[-2000:].strip()
        return RunFailed(f"{self._what} {how}" + (f"; it said:\n{said}" if said else ""))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._process.kill()
        self._process.wait()
        self._reader.join()
        for file in (self._process.stdin, self._process.stdout, self._errors):
            if file is not None:
                file.close()
