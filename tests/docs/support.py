"""What documents need behind the scenes; they import it in blocks that are not shown."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import re
import shutil
import signal
import socket
import ssl
import subprocess
import textwrap

from tests.docs.runner import ROOT, parse_console
from tests.helpers import wait_until

__all__ = [
    "HAS_OPENSSL",
    "HAS_SQLALCHEMY",
    "interrupt",
    "run_openssl_commands",
    "wait_until_listening",
]

#: Whether there is an openssl to run.
HAS_OPENSSL = shutil.which("openssl") is not None

#: Whether the storage in an SQL database can be used.
HAS_SQLALCHEMY = importlib.util.find_spec("sqlalchemy") is not None

_CONSOLE = re.compile(r"^\.\. code-block:: console\n\n((?:   .*\n|\n)+)", re.MULTILINE)


def wait_until_listening(port: int, context: ssl.SSLContext | None = None) -> None:
    """Until a program in the background can be dialled.

    Who dials too early would try again only after seconds.

    :param context: shake hands, because a listener with TLS complains otherwise
    """

    def dial() -> bool:
        try:
            with socket.create_connection(("127.0.0.1", port)) as sock:
                if context is not None:
                    with context.wrap_socket(sock) as tls:
                        # Until it has sent something: a connection that ends
                        # before is worth a complaint, too.
                        tls.recv(4096)
        except ConnectionRefusedError:
            return False
        return True

    wait_until(dial)


def interrupt(pid: int) -> None:
    """End a program in the background as by Ctrl-C, and wait for its end; its status is kept.

    As a user does, it presses again if nothing happens: an interrupt that comes
    while Python is in a destructor is lost.

    :param pid: a child of this process
    """
    for _ in range(4):
        os.kill(pid, signal.SIGINT)
        with contextlib.suppress(AssertionError):
            wait_until(lambda: _has_ended(pid), timeout=8)
            return
    raise AssertionError(f"process {pid} does not end")


def _has_ended(pid: int) -> bool:
    return os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT | os.WNOHANG) is not None


def run_openssl_commands(document: str) -> int:
    """Run those that a document shows, in order, in the current directory.

    :param document: path of the document below the root of the project
    :return: how many there were
    """
    text = (ROOT / document).read_text("utf-8")
    blocks = [textwrap.dedent(match[1]) for match in _CONSOLE.finditer(text)]
    commands = [
        command.line
        for block in blocks
        for command in parse_console(block)
        if command.line.startswith("openssl ")
    ]
    for command in commands:
        done = subprocess.run(
            ["bash", "-c", command],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        assert done.returncode == 0, f"{command}:\n{done.stdout}"
    return len(commands)
