"""A signal that comes just before the main thread begins to wait does not get lost.

``_thread.interrupt_main`` is such a signal: the handler is to run, and nothing
wakes the thread.
"""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.helpers import DEADLINE
from tests.integration.command_line import environment

PROGRAM = """
import _thread, sys, threading, time
from snakemq import Peer
from snakemq.link import Link
from snakemq.peer._waiting import wait_for_event

def place(name):
    # Where the main thread is, inside the function with this name.
    place, inside = [], False
    frame = sys._current_frames()[threading.main_thread().ident]
    while frame is not None:
        place.append((frame.f_code.co_name, frame.f_lasti))
        inside = inside or frame.f_code.co_name == name
        frame = frame.f_back
    return place if inside else None

begun = threading.Event()

def interrupt(name):
    begun.wait()
    # It has not moved for a while: it waits.
    last, same = None, 0
    while same < 20:
        time.sleep(0.001)
        now = place(name)
        same = same + 1 if now is not None and now == last else 0
        last = now
    _thread.interrupt_main()

def interrupted_in(name, func, *args):
    threading.Thread(target=interrupt, args=(name,), daemon=True).start()
    try:
        begun.set()
        func(*args)
    except KeyboardInterrupt:
        print("interrupted")

{wait}
"""

WAITS = {
    "loop": 'interrupted_in("step", Link().loop)',
    "loop_without_ticks": 'interrupted_in("step", Link().loop, None)',
    "peer_runs": 'interrupted_in("step", Peer("bob", listen=0).run_forever)',
    "wait_connected": (
        'with Peer("bob", listen=0) as bob:\n'
        '    interrupted_in("wait_for", bob.wait_connected, "alice")'
    ),
    "receive": 'with Peer("bob", listen=0) as bob:\n    interrupted_in("wait_for", bob.receive)',
    "event": 'interrupted_in("wait_for_event", wait_for_event, threading.Event(), None)',
    "call": (
        'with Peer("bob", listen=0) as bob:\n'
        '    interrupted_in("wait", bob.proxy("alice", "x", timeout=None).method)'
    ),
}


@pytest.mark.parametrize("wait", WAITS.values(), ids=WAITS)
def test_it_ends_the_wait(wait: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM.replace("{wait}", wait)],
        env=environment(),
        capture_output=True,
        text=True,
        timeout=DEADLINE,
        check=False,
    )
    assert (done.stdout, done.stderr) == ("interrupted\n", "")
