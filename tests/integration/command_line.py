"""Runs the command line in processes of its own, as a shell would."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
from pathlib import Path
from types import TracebackType
from typing import IO, Any

from tests.helpers import DEADLINE, wait_until

__all__ = ["ROOT", "Background", "environment", "run", "run_in_vain"]

ROOT = Path(__file__).resolve().parents[2]


def environment(**more: str) -> dict[str, str]:
    """Of a fresh clone: nothing is installed, the package is found by its place."""
    return {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONUTF8": "1", **more}


def command(*args: object) -> list[str]:
    # What is left open is a fault of the command, too.
    return [sys.executable, "-W", "error::ResourceWarning", "-m", "snakemq", *map(str, args)]


def run(
    *args: object, stdin: bytes = b"", timeout: float = 2 * DEADLINE, **kwargs: Any
) -> subprocess.CompletedProcess[str]:
    """Run ``snakemq ARGS`` to its end."""
    done = subprocess.run(
        command(*args),
        input=stdin,
        capture_output=True,
        timeout=timeout,
        env=environment(),
        check=False,
        **kwargs,
    )
    result = subprocess.CompletedProcess(
        done.args, done.returncode, done.stdout.decode(), done.stderr.decode()
    )
    assert "Traceback (most" not in result.stderr.replace("  | Traceback", ""), result.stderr
    return result


def run_in_vain(*args: object, until: str) -> subprocess.CompletedProcess[str]:
    """Run ``snakemq ARGS``, which waits for something in vain.

    It waits as briefly as it can, and longer if that was too short for the reason
    to come.

    :param until: the reason, as it is printed; ``{timeout}`` is how long it waited
    """
    for timeout in ("0.3", "3", f"{DEADLINE:g}"):
        result = run(*args, "--timeout", timeout)
        if until.format(timeout=timeout) in result.stdout + result.stderr:
            return result
    raise AssertionError(f"{until!r} is not in {result}")


class Background:
    """``snakemq ARGS`` while it runs.

    :param stdout: where its output goes, if not here
    """

    def __init__(self, *args: object, stdout: int = subprocess.PIPE) -> None:
        self._process = subprocess.Popen(
            command(*args),
            stdin=subprocess.DEVNULL,
            stdout=stdout,
            stderr=subprocess.PIPE,
            env=environment(),
        )
        self.out = b""
        self.err = b""
        self._readers = [
            threading.Thread(target=self._read, args=(name, stream), daemon=True)
            for name, stream in (("out", self._process.stdout), ("err", self._process.stderr))
            if stream is not None
        ]
        for reader in self._readers:
            reader.start()

    def _read(self, name: str, stream: IO[bytes]) -> None:
        while data := stream.read1(65536):  # type: ignore[attr-defined]
            setattr(self, name, getattr(self, name) + data)
        stream.close()

    def wait_err(self, pattern: str) -> re.Match[str]:
        """Wait until standard error has this regular expression."""
        compiled = re.compile(pattern)
        wait_until(
            lambda: compiled.search(self.err.decode()), what=lambda: f"{pattern!r} in {self}"
        )
        found = compiled.search(self.err.decode())
        assert found is not None
        return found

    def wait_out(self, text: bytes) -> None:
        """Wait until standard output has this."""
        wait_until(lambda: text in self.out, what=lambda: f"{text!r} in {self}")

    def address(self) -> tuple[str, int]:
        """Where it says that it listens."""
        found = self.wait_err(r"listens on ([\d.]+):(\d+)")
        return found[1], int(found[2])

    def interrupt(self) -> int:
        """Press Ctrl-C.

        :return: exit status
        """
        self._process.send_signal(signal.SIGINT)
        return self.wait()

    def terminate(self) -> int:
        """Send SIGTERM.

        :return: exit status
        """
        self._process.terminate()
        return self.wait()

    def wait(self) -> int:
        """Wait for its end.

        :return: exit status
        """
        status = self._process.wait(2 * DEADLINE)
        for reader in self._readers:
            reader.join(DEADLINE)
        assert "Traceback" not in self.err.decode(), self.err.decode()
        return status

    def __str__(self) -> str:
        return f"{self._process.args!r}: out {self.out[-2000:]!r}, err {self.err[-2000:]!r}"

    def __enter__(self) -> Background:
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
        for reader in self._readers:
            reader.join(DEADLINE)
