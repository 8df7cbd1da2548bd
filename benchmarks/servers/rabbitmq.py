"""A RabbitMQ server of our own: nothing of it is outside of one directory.

It listens on free ports of the loopback interface, has a name that no other
server has, reads no file in ``/etc``, and does not run as root where there is
somebody else to run it.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from benchmarks.environments import Unavailable
from benchmarks.servers import Server

__all__ = ["find_server", "rabbitmq"]

#: Where the program itself is. What packages put on PATH may be a wrapper that
#: insists on the directories of the system's own server.
_PLACES: Final = (
    "/usr/lib/rabbitmq/bin",
    "/opt/homebrew/opt/rabbitmq/sbin",
    "/usr/local/opt/rabbitmq/sbin",
)

#: Whom it runs as when this runs as root; the first that there is.
_USERS: Final = ("rabbitmq", "nobody")

#: Seconds until it has to answer, and until it has to have ended.
_START_TIMEOUT: Final = 60.0
_STOP_TIMEOUT: Final = 20.0

#: What a client says first, and what is in the server's answer: a name of 7
#: characters, and a string with its length in front.
_GREETING: Final = b"AMQP\0\0\x09\x01"
_VERSION: Final = re.compile(rb"\x07versionS\0\0\0.([0-9.]+)", re.DOTALL)


def find_server() -> str:
    """The program.

    :raises Unavailable: there is none
    """
    if os.name != "posix":
        raise Unavailable("this knows how to run a RabbitMQ of its own on POSIX systems only")
    found = shutil.which("rabbitmq-server", path=os.pathsep.join(_PLACES))
    found = found or shutil.which("rabbitmq-server")
    if found is None:
        raise Unavailable("there is no rabbitmq-server; Debian's package has that name")
    for needed in ("erl", "epmd"):
        if shutil.which(needed) is None:
            raise Unavailable(f"rabbitmq-server needs {needed}, which is not on PATH")
    return found


@contextlib.contextmanager
def rabbitmq(directory: Path) -> Iterator[Server]:
    """Run a server, with its data in a new directory below ``directory``.

    :return: its address is the port for clients
    :raises Unavailable: it can't be started
    """
    program = find_server()
    home = Path(tempfile.mkdtemp(prefix="rabbitmq-", dir=directory))
    user = _user_for(home)
    with contextlib.ExitStack() as stack:
        stack.callback(shutil.rmtree, home, ignore_errors=True)
        if user is not None:
            shutil.chown(home, user)
        log = stack.enter_context((home / "output.txt").open("w+b"))
        port, distribution, mapper = _free_ports(3)
        variables = {
            "PATH": os.environ["PATH"],
            "LANG": "C.UTF-8",
            "HOME": str(home),
            "ERL_CRASH_DUMP": os.devnull,
            "ERL_EPMD_ADDRESS": "127.0.0.1",
            "ERL_EPMD_PORT": str(mapper),
            "RABBITMQ_CONF_ENV_FILE": os.devnull,
            "RABBITMQ_CONFIG_FILE": str(home / "rabbitmq.conf"),
            "RABBITMQ_DIST_PORT": str(distribution),
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(home / "plugins"),
            "RABBITMQ_LOG_BASE": str(home / "log"),
            "RABBITMQ_MNESIA_BASE": str(home / "data"),
            "RABBITMQ_NODENAME": f"snakemq-{os.getpid()}-{port}@localhost",
            "RABBITMQ_NODE_IP_ADDRESS": "127.0.0.1",
            "RABBITMQ_NODE_PORT": str(port),
            # A file in a directory that the server may write to.
            "RABBITMQ_PID_FILE": str(home / "pid"),
        }
        # Erlang would start it by itself, and leave it running.
        mapper_command = ["epmd", "-address", "127.0.0.1", "-port", str(mapper)]
        for command in (mapper_command, [program]):
            process = subprocess.Popen(
                command,
                cwd=home,
                env=variables,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                user=user,
            )
            stack.callback(_end, process)
        version = _wait_until_it_answers(port, process, home / "output.txt")
        yield Server(port, f"RabbitMQ {version}")


def _user_for(directory: Path) -> str | None:
    """Whom to run the server as; ``None``: whoever runs this."""
    if not hasattr(os, "geteuid") or os.geteuid() != 0:
        return None
    if not all(parent.stat().st_mode & 0o001 for parent in directory.parents):
        # Another user can't get there.
        return None
    import pwd

    for user in _USERS:
        with contextlib.suppress(KeyError):
            pwd.getpwnam(user)
            return user
    return None


def _free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        sockets = [
            stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(count)
        ]
        return [int(sock.getsockname()[1]) for sock in sockets]


def _wait_until_it_answers(port: int, process: subprocess.Popen[bytes], output: Path) -> str:
    deadline = time.monotonic() + _START_TIMEOUT
    while (version := _ask_version(port)) is None:
        if process.poll() is not None:
            why = f"it ended with status {process.returncode}"
        elif time.monotonic() > deadline:
            why = f"it does not answer after {_START_TIMEOUT:g} seconds"
        else:
            time.sleep(0.1)
            continue
        said = output.read_text("utf-8", "replace").strip()[-500:]
        raise Unavailable(f"rabbitmq-server can't be started: {why}; it said: {said or 'nothing'}")
    return version


def _ask_version(port: int) -> str | None:
    """What the server says when it is greeted; ``None``: it does not answer."""
    answer = b""
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=5) as sock:
            sock.sendall(_GREETING)
            while (found := _VERSION.search(answer)) is None:
                more = sock.recv(4096)
                if not more:
                    return None
                answer += more
    except OSError:
        return None
    return found[1].decode("ascii", "replace")


def _end(process: subprocess.Popen[bytes]) -> None:
    """End it and all that it has started."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, number)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(_STOP_TIMEOUT)
