"""A Peer as a daemon: a process of its own that is ended by a signal."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest

from snakemq import Peer
from tests.helpers import DEADLINE
from tests.integration.command_line import environment

SIZE = 100_000

DAEMON = f"""
import signal
from snakemq import Peer

def on_message(received):
    # On its way for half a second.
    daemon.send(received.ident, bytes({SIZE}))
    print("queued", flush=True)

daemon = Peer("daemon", listen=0, throttle={2 * SIZE}, on_message=on_message)
signal.signal(signal.SIGTERM, lambda *args: daemon.stop(drain={DEADLINE}))
print(daemon.addresses[0][1], flush=True)
daemon.run_forever()
print("left", daemon.queued(), flush=True)
"""


@pytest.mark.skipif(os.name == "nt", reason="sends signals")
@pytest.mark.parametrize(
    ("sent", "last_line", "status"),
    [(signal.SIGTERM, "left 0", 0), (signal.SIGINT, "KeyboardInterrupt", -signal.SIGINT)],
)
def test_a_signal_ends_it(sent: signal.Signals, last_line: str, status: int) -> None:
    with subprocess.Popen(
        [sys.executable, "-W", "error", "-c", DAEMON],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env=environment(),
        text=True,
    ) as process:
        assert process.stdout is not None
        try:
            port = int(process.stdout.readline())
            with Peer("client", connect=port) as client:
                client.send("daemon", "go")
                assert process.stdout.readline() == "queued\n"
                process.send_signal(sent)
                output = process.stdout.read()
                assert process.wait(DEADLINE) == status
                if sent == signal.SIGTERM:
                    received = client.receive(DEADLINE)
                    assert received is not None
                    assert len(received.data) == SIZE
        finally:
            process.kill()
    assert output.splitlines()[-1] == last_line
