"""A RabbitMQ server of our own, with a name that no other server has."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from benchmarks.environments import Unavailable
from benchmarks.servers import Server
from benchmarks.servers.daemon import Daemon, find_program, free_ports

__all__ = ["find_server", "rabbitmq"]

_PROGRAM: Final = "rabbitmq-server"

#: Where the program itself is. What packages put on PATH may be a wrapper that
#: insists on the directories of the system's own server.
_PLACES: Final = (
    "/usr/lib/rabbitmq/bin",
    "/opt/homebrew/opt/rabbitmq/sbin",
    "/usr/local/opt/rabbitmq/sbin",
)

#: What a client says first, and what is in the server's answer: a name of 7
#: characters, and a string with its length in front.
_GREETING: Final = b"AMQP\0\0\x09\x01"
_VERSION: Final = re.compile(rb"\x07versionS\0\0\0.([0-9.]+)", re.DOTALL)


def find_server() -> str:
    """The program.

    :raises Unavailable: there is none
    """
    found = find_program(_PROGRAM, _PLACES)
    for needed in ("erl", "epmd"):
        if shutil.which(needed) is None:
            raise Unavailable(f"{_PROGRAM} needs {needed}, which is not on PATH")
    return found


@contextlib.contextmanager
def rabbitmq(directory: Path) -> Iterator[Server]:
    """Run a server, with its data in a new directory below ``directory``.

    :return: its address is the port for clients
    :raises Unavailable: it can't be started
    """
    program = find_server()
    with Daemon.of("rabbitmq", directory, ("rabbitmq",)) as daemon:
        home = daemon.home
        port, distribution, mapper = free_ports(3)
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
        daemon.start(["epmd", "-address", "127.0.0.1", "-port", str(mapper)], variables)
        process = daemon.start([program], variables)
        version = daemon.wait_for(lambda: _ask_version(port), process)
        yield Server(port, f"RabbitMQ {version}")


def _ask_version(port: int) -> str | None:
    """What the server says when it is greeted."""
    answer = b""
    with socket.create_connection(("127.0.0.1", port), timeout=5) as sock:
        sock.sendall(_GREETING)
        while (found := _VERSION.search(answer)) is None:
            more = sock.recv(4096)
            if not more:
                return None
            answer += more
    return found[1].decode("ascii", "replace")
