"""What all servers of our own have in common.

Nothing of one is outside of one directory; it listens on free ports of the
loopback interface, reads no file in ``/etc``, and does not run as root where
there is somebody else to run it.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final

from benchmarks.environments import Unavailable

__all__ = ["Daemon", "find_program", "free_ports"]

#: Whom it runs as when this runs as root, and there is no user of its own.
_NOBODY: Final = "nobody"

#: Where Debian has servers; not on everybody's PATH.
_PLACES: Final = ("/usr/sbin", "/usr/local/sbin")

#: Seconds until it has to answer, and until it has to have ended.
_START_TIMEOUT: Final = 60.0
_STOP_TIMEOUT: Final = 20.0


def find_program(name: str, places: Sequence[str] = ()) -> str:
    """The program of a server.

    :param name: also that of Debian's package
    :param places: where to look first
    :raises Unavailable: there is none, or none that can be run here
    """
    if os.name != "posix":
        raise Unavailable(f"this knows how to run a {name} of its own on POSIX systems only")
    for path in (os.pathsep.join(places), None, os.pathsep.join(_PLACES)):
        found = shutil.which(name, path=path)
        if found is not None:
            return found
    raise Unavailable(f"there is no {name}; Debian's package has that name: apt-get install {name}")


def free_ports(count: int) -> list[int]:
    """Ports of the loopback interface that nobody listens on, all different."""
    with contextlib.ExitStack() as stack:
        sockets = [
            stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(count)
        ]
        return [int(sock.getsockname()[1]) for sock in sockets]


class Daemon:
    """A server's directory and its processes.

    :param name: for error messages
    :param home: its directory, and that it works in
    :param user: whom it runs as; ``None``: whoever runs this
    :param ends: what is to be done in the end
    """

    def __init__(self, name: str, home: Path, user: str | None, ends: contextlib.ExitStack) -> None:
        self.home = home
        self._name = name
        self._user = user
        self._ends = ends
        self._log = ends.enter_context((home / "output.txt").open("w+b"))

    @classmethod
    @contextlib.contextmanager
    def of(cls, name: str, directory: Path, users: Sequence[str]) -> Iterator[Daemon]:
        """With a new directory, until it is left: then there is nothing any more.

        :param directory: for its own
        :param users: whom it may run as when this runs as root; the first that there is
        """
        home = Path(tempfile.mkdtemp(prefix=f"{name}-", dir=directory))
        with contextlib.ExitStack() as ends:
            ends.callback(shutil.rmtree, home, ignore_errors=True)
            user = _user_for(home, (*users, _NOBODY))
            if user is not None:
                shutil.chown(home, user)
            yield cls(name, home, user, ends)

    def start(
        self, command: Sequence[str], variables: Mapping[str, str] | None = None
    ) -> subprocess.Popen[bytes]:
        """Start one of its processes. It is ended with all that it has started.

        :param variables: all that it gets; ``None``: those of this process
        """
        process = subprocess.Popen(
            command,
            cwd=self.home,
            env=variables,
            stdin=subprocess.DEVNULL,
            stdout=self._log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            user=self._user,
        )
        self._ends.callback(_end, process)
        return process

    def wait_for(self, ask: Callable[[], str | None], process: subprocess.Popen[bytes]) -> str:
        """Wait until it answers.

        :param ask: gives the answer, or ``None`` if there is none yet
        :param process: where the answer comes from
        :raises Unavailable: there is none, and will not be one
        """
        deadline = time.monotonic() + _START_TIMEOUT
        while (answer := _ask(ask)) is None:
            if process.poll() is not None:
                why = f"it ended with status {process.returncode}"
            elif time.monotonic() > deadline:
                why = f"it does not answer after {_START_TIMEOUT:g} seconds"
            else:
                time.sleep(0.05)
                continue
            said = (self.home / "output.txt").read_text("utf-8", "replace").strip()[-500:]
            raise Unavailable(f"{self._name} can't be started: {why}; it said: {said or 'nothing'}")
        return answer


def _ask(ask: Callable[[], str | None]) -> str | None:
    with contextlib.suppress(OSError):
        return ask()
    return None


def _user_for(directory: Path, users: Sequence[str]) -> str | None:
    """Whom to run the server as; ``None``: whoever runs this."""
    if not hasattr(os, "geteuid") or os.geteuid() != 0:
        return None
    if not all(parent.stat().st_mode & 0o001 for parent in directory.parents):
        # Another user can't get there.
        return None
    import pwd

    for user in users:
        with contextlib.suppress(KeyError):
            pwd.getpwnam(user)
            return user
    return None


def _end(process: subprocess.Popen[bytes]) -> None:
    """End it and all that it has started."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, number)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(_STOP_TIMEOUT)
