"""Runs a server and ends it, with its directory, when the tests are gone.

    python _guard.py DIRECTORY SIGNAL

Its standard input says what to do, a line of JSON for each: the command to
start (a list), or the number of a signal for what runs. When it ends, because
the tests closed it or were killed, so does the server: by SIGNAL first. Each
line on the standard output tells that something was started (its process
number) or has ended (0).

It is a program of its own, and imports nothing of the tests.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import threading

#: How long the server may take to end by itself, in seconds.
GRACE = 20.0


def watch(process: subprocess.Popen[bytes]) -> None:
    process.wait()
    with contextlib.suppress(BrokenPipeError):  # the tests may be gone
        print(0, flush=True)


def start(order: list[str], directory: str) -> subprocess.Popen[bytes]:
    owner = os.stat(directory)
    # A server never runs as root.
    drop = {"user": owner.st_uid, "group": owner.st_gid, "extra_groups": ()}
    with open(os.path.join(directory, "log"), "ab") as log:
        process = subprocess.Popen(
            order,
            cwd=directory,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
            **(drop if os.getuid() == 0 else {}),  # type: ignore[arg-type]
        )
    print(process.pid, flush=True)
    threading.Thread(target=watch, args=(process,), daemon=True).start()
    return process


def end(process: subprocess.Popen[bytes], farewell: int) -> None:
    process.send_signal(farewell)
    try:
        process.wait(GRACE)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def main() -> None:
    directory, farewell = sys.argv[1], int(sys.argv[2])
    # Ctrl-C is for the tests; they, or their end, end this. A signal that ends
    # them may be for all of their processes.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    for ending in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(ending, lambda *_: sys.exit())
    process: subprocess.Popen[bytes] | None = None
    try:
        for line in sys.stdin:
            order = json.loads(line)
            if isinstance(order, list):
                process = start(order, directory)
            elif process is not None:
                process.send_signal(order)
    finally:
        for ending in (signal.SIGTERM, signal.SIGHUP):
            signal.signal(ending, signal.SIG_IGN)
        if process is not None:
            end(process, farewell)
        shutil.rmtree(directory, ignore_errors=True)


if __name__ == "__main__":
    # The tests may have stopped listening.
    with contextlib.suppress(BrokenPipeError):
        main()
