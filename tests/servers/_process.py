"""What private database servers have in common: a directory, a port, a process."""

from __future__ import annotations

import json
import os
import pwd
import queue
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.helpers import unassigned_port, wait_until

__all__ = ["PrivateServer", "find_program"]

_GUARD = Path(__file__).parent / "_guard.py"

#: How long a server may take to start or to end, in seconds.
PATIENCE = 40.0


def find_program(name: str, *directories: str) -> str:
    """Where a program is, or the test is skipped.

    :param directories: where Debian has it; looked at before the path
    """
    for directory in directories:
        if os.access(os.path.join(directory, name), os.X_OK):
            return os.path.join(directory, name)
    found = shutil.which(name)
    if found is None:
        pytest.skip(f"there is no {name} on this machine")
    return found


class PrivateServer:
    """A server with a temporary directory, on a free port, without root's rights.

    :param user: who runs it if these are root's tests; "nobody" if there is no
        such user
    :param farewell: the signal that ends it quickly
    """

    def __init__(self, user: str, farewell: signal.Signals = signal.SIGTERM) -> None:
        # Not below pytest's own directory, which is for root's eyes only.
        self.directory = Path(tempfile.mkdtemp(prefix="snakemq-test-"))
        self.user: str | None = None
        if os.getuid() == 0:
            known = {entry.pw_name: entry for entry in pwd.getpwall()}
            owner = known.get(user) or known["nobody"]
            os.chown(self.directory, owner.pw_uid, owner.pw_gid)
            self.user = owner.pw_name
        self.port = 0
        self._lines: queue.SimpleQueue[int] = queue.SimpleQueue()
        self._running = False
        self._guard = subprocess.Popen(
            [sys.executable, _GUARD, self.directory, str(int(farewell))],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self._guard.stdout is not None
        for line in self._guard.stdout:
            pid = int(line)
            self._running = pid != 0
            self._lines.put(pid)

    def run(self, command: Sequence[str | Path]) -> None:
        """Run something that sets it up."""
        done = subprocess.run(
            [*self._as_user(), *command],
            cwd=self.directory,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=PATIENCE,
            check=False,
            text=True,
        )
        assert done.returncode == 0, f"{command} failed:\n{done.stdout}\n{done.stderr}"

    def _as_user(self) -> list[str]:
        if self.user is None:
            return []
        return [
            find_program("setpriv"),
            f"--reuid={self.user}",
            "--init-groups",
            "--regid",
            self._group(),
        ]

    def _group(self) -> str:
        return str(self.directory.stat().st_gid)

    # For the subclass

    def command(self) -> list[str]:
        """What to run, with the port in it."""
        raise NotImplementedError

    def answers(self) -> bool:
        """Whether it can be connected to."""
        raise NotImplementedError

    # For the tests

    def start(self) -> None:
        """Start it; the first time at a free port, afterwards at the same one."""
        first = not self.port
        for _ in range(5):
            if first:
                self.port = unassigned_port()
            self._tell(self.command())
            assert self._lines.get(timeout=PATIENCE)
            wait_until(lambda: not self._running or self.answers(), PATIENCE, what=self._why_not)
            if self._running:
                return
            self._lines.get(timeout=PATIENCE)
            # Somebody else was quicker to get the port, or, after it was
            # killed, what is left of it is in the way for a moment.
        pytest.fail(self._why_not())

    def _why_not(self) -> str:
        log = self.directory / "log"
        end = log.read_text("utf-8", "replace")[-3000:] if log.exists() else ""
        return f"{type(self).__name__} does not start:\n{end}"

    def send(self, what: signal.Signals) -> None:
        """Send it a signal."""
        self._tell(int(what))

    def stop(self, how: signal.Signals) -> None:
        """End it by a signal, and wait until it has ended."""
        self.send(how)
        assert self._lines.get(timeout=PATIENCE) == 0

    def close(self) -> None:
        """End it, and remove its directory."""
        assert self._guard.stdin is not None
        self._guard.stdin.close()
        self._guard.wait(PATIENCE)
        self._reader.join(PATIENCE)
        assert self._guard.stdout is not None
        self._guard.stdout.close()

    def _tell(self, order: object) -> None:
        assert self._guard.stdin is not None
        self._guard.stdin.write(json.dumps(order).encode() + b"\n")
        self._guard.stdin.flush()
