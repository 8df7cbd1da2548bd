"""A Mosquitto broker of our own."""

from __future__ import annotations

import contextlib
import re
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from benchmarks.servers import Server
from benchmarks.servers.daemon import Daemon, find_program, free_ports

__all__ = ["find_server", "mosquitto"]

_PROGRAM: Final = "mosquitto"

#: It drops what a receiver is behind by default; 0 is: no limit.
_CONFIGURATION: Final = """\
listener {port} 127.0.0.1
allow_anonymous true
persistence false
max_queued_messages 0
max_queued_bytes 0
max_inflight_messages 0
set_tcp_nodelay true
connection_messages false
"""

#: What a client says first, "connect" of MQTT 3.1.1 with a clean session and no
#: name, and the beginning of what the broker answers.
_CONNECT: Final = b"\x10\x0c\x00\x04MQTT\x04\x02\x00\x3c\x00\x00"
_ACCEPTED: Final = b"\x20\x02\x00\x00"


def find_server() -> str:
    """The program.

    :raises Unavailable: there is none
    """
    return find_program(_PROGRAM)


@contextlib.contextmanager
def mosquitto(directory: Path) -> Iterator[Server]:
    """Run a broker, in a new directory below ``directory``.

    :return: its address is the port for clients
    :raises Unavailable: it can't be started
    """
    program = find_server()
    with Daemon.of("mosquitto", directory, ("mosquitto",)) as daemon:
        (port,) = free_ports(1)
        configuration = daemon.home / "mosquitto.conf"
        configuration.write_text(_CONFIGURATION.format(port=port), "utf-8")
        process = daemon.start([program, "-c", str(configuration)])
        daemon.wait_for(lambda: _connect(port), process)
        yield Server(port, f"Mosquitto {_version(program)}")


def _connect(port: int) -> str | None:
    """Something, if the broker accepts clients."""
    with socket.create_connection(("127.0.0.1", port), timeout=5) as sock:
        sock.sendall(_CONNECT)
        return "accepted" if sock.recv(len(_ACCEPTED)) == _ACCEPTED else None


def _version(program: str) -> str:
    """What it says in the help on its options; no option gives that alone."""
    said = subprocess.run([program, "-h"], capture_output=True, text=True, check=False).stdout
    found = re.search(r"mosquitto version (\S+)", said)
    return found[1] if found else ""
