"""A NATS server of our own, with JetStream."""

from __future__ import annotations

import contextlib
import json
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from benchmarks.servers import Server
from benchmarks.servers.daemon import Daemon, find_program, free_ports

__all__ = ["find_server", "nats"]

_PROGRAM: Final = "nats-server"

#: The first line that the server says.
_INFO: Final = b"INFO "

#: Messages of 1 MiB are more than the server takes by default, and a receiver
#: that is some of them behind would be cut off. A message that JetStream keeps
#: is in a file, which is synchronized every two minutes: that is the default.
_CONFIGURATION: Final = """\
listen: "127.0.0.1:{port}"
max_payload: 8MB
max_pending: 4GB
write_deadline: "60s"
jetstream {{ store_dir: "{home}/data" }}
"""


def find_server() -> str:
    """The program.

    :raises Unavailable: there is none
    """
    return find_program(_PROGRAM)


@contextlib.contextmanager
def nats(directory: Path) -> Iterator[Server]:
    """Run a server, with its data in a new directory below ``directory``.

    :return: its address is the port for clients
    :raises Unavailable: it can't be started
    """
    program = find_server()
    with Daemon.of("nats", directory, ("nats",)) as daemon:
        (port,) = free_ports(1)
        configuration = daemon.home / "nats.conf"
        configuration.write_text(_CONFIGURATION.format(port=port, home=daemon.home), "utf-8")
        process = daemon.start([program, "--config", str(configuration)])
        version = daemon.wait_for(lambda: _ask_version(port), process)
        yield Server(port, f"NATS {version}")


def _ask_version(port: int) -> str | None:
    """What the server says when a client connects."""
    line = b""
    with socket.create_connection(("127.0.0.1", port), timeout=5) as sock:
        while not line.endswith(b"\n"):
            more = sock.recv(4096)
            if not more:
                return None
            line += more
    return str(json.loads(line[len(_INFO) :])["version"])
