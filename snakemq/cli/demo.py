"""``snakemq demo``: the main job, before your eyes."""

from __future__ import annotations

import argparse
import contextlib
import tempfile
import textwrap
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Final

from snakemq.cli._demo_process import DemoProcess, Report
from snakemq.cli._exit import EXIT_CODES_HELP, CommandError, ExitCode
from snakemq.peer import format_address
from snakemq.peer._waiting import wait_for_event
from snakemq.storage.sqlite import SqliteQueuesStorage

if TYPE_CHECKING:
    from snakemq.cli._options import Verbs

__all__ = ["add_parser", "run"]

_DESCRIPTION = """\
Start two peers, each in a process of its own, and show what they do: a message
that waits on disk for its receiver, a sender that is killed and loses nothing,
a remote call, a remote exception, a signal. Needs nothing but this machine's
loopback interface and about ten seconds. The exit status is 0 only if the
processes report that all of it happened.
"""

#: Time to read each step, in seconds.
_PAUSE: Final = 1.2


def add_parser(verbs: Verbs) -> None:
    """Add the verb to the command line."""
    parser = verbs.add_parser(
        "demo",
        help="see it work, in ten seconds",
        description=_DESCRIPTION,
        epilog=EXIT_CODES_HELP,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--fast", action="store_true", help="without pauses to read")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> ExitCode:
    """Tell the story."""
    with (
        # Windows may hold on to the file of a killed process for a moment.
        tempfile.TemporaryDirectory(
            prefix="snakemq-demo-", ignore_cleanup_errors=True
        ) as directory,
        contextlib.ExitStack() as processes,
    ):
        _Story(Path(directory, "alice.db"), processes, 0.0 if args.fast else _PAUSE).tell()
    return ExitCode.OK


class _Story:
    """Two peers, alice and bob. Every step checks what the processes report.

    :param storage: alice's file
    :param processes: ends the processes, whatever happens
    :param pause: before each step, in seconds
    """

    def __init__(self, storage: Path, processes: contextlib.ExitStack, pause: float) -> None:
        self._storage = storage
        self._processes = processes
        self._pause = pause
        self._step = 0

    def tell(self) -> None:
        print("Two peers, two processes, no broker.")

        self._title("A message for somebody who is not there")
        alice = self._start_alice(expected_queue=0)
        first = self._send(alice, "Hello Bob, are you there?")

        self._title("The receiver starts and gets it")
        bob = self._start_bob(alice)
        self._receive(bob, first)

        self._title("The sender is killed with a message in its queue")
        _check(bob.stop() == 0, "bob's process ends well")
        alice.expect("disconnect")
        self._say("bob", "leaves")
        second = self._send(alice, "Hello again, Bob!")
        _check(alice.kill() != 0, "alice's process was killed")
        self._say("alice", f"is killed (process {alice.pid}, no time to clean up)")
        waiting = self._stored()
        _check(waiting == [second["uuid"]], f"the file holds that one message, not {waiting}")
        self._say("", f"{self._storage.name} holds {len(waiting)} message")

        self._title("It starts again and delivers from its SQLite file")
        alice = self._start_alice(expected_queue=1)
        bob = self._start_bob(alice)
        self._receive(bob, second)

        self._title("Alice calls a method of an object in bob's process")
        self._call(alice, bob)

        self._title("The method raises an exception")
        self._call_in_vain(alice, bob)

        self._title("A signal: a call that nobody waits for")
        self._signal(alice, bob)

        for process in (alice, bob):
            _check(process.stop() == 0, f"{process.identifier}'s process ends well")
            again = process.unexpected("message")
            _check(not again, f"nothing arrives twice at {process.identifier}: {again}")
        left = self._stored()
        _check(not left, f"nothing is left in the file: {left}")
        print("\nAll of this happened. Next: snakemq --help, and the tutorial in docs/.")

    def _title(self, text: str) -> None:
        if self._step:
            wait_for_event(threading.Event(), self._pause)
        self._step += 1
        print(f"\n{self._step}. {text}", flush=True)

    def _say(self, who: str, what: str) -> None:
        print(f"   {who:<5}  {what}", flush=True)

    def _start(self, identifier: str, *options: str) -> tuple[DemoProcess, Report]:
        process = self._processes.enter_context(DemoProcess(identifier, *options))
        return process, process.expect("ready")

    def _start_alice(self, expected_queue: int) -> DemoProcess:
        alice, ready = self._start("alice", "--listen", "0", "--storage", str(self._storage))
        self._address = format_address(tuple(ready["addresses"][0]))
        self._say("alice", f"starts: process {ready['pid']}, listens on {self._address}")
        _check(
            ready["queued"] == expected_queue,
            f"alice starts with {expected_queue} messages in her queue, not {ready['queued']}",
        )
        if expected_queue:
            self._say("alice", f"found {expected_queue} message for bob in {self._storage.name}")
        return alice

    def _start_bob(self, alice: DemoProcess) -> DemoProcess:
        bob, ready = self._start("bob", "--connect", self._address)
        self._say("bob", f"starts: process {ready['pid']}, dials {self._address}")
        _check(alice.expect("connect")["ident"] == "bob", "alice meets bob")
        _check(bob.expect("connect")["ident"] == "alice", "bob meets alice")
        return bob

    def _send(self, alice: DemoProcess, text: str) -> Report:
        alice.tell("send", to="bob", text=text)
        queued = alice.expect("queued")
        _check(queued["count"] == 1, f"one message waits for bob, not {queued['count']}")
        self._say("alice", f"sends {text!r} to bob, who is not running")
        self._say("", f"the message waits in {self._storage.name}")
        return {"text": text, "uuid": queued["uuid"]}

    def _receive(self, bob: DemoProcess, sent: Report) -> None:
        got = bob.expect("message")
        _check(got["ident"] == "alice", f"bob's message is from alice, not {got['ident']}")
        _check(got["uuid"] == sent["uuid"], "bob gets the message that waited")
        _check(got["text"] == sent["text"], "bob gets the text that was sent")
        self._say("bob", f"receives {got['text']!r} from {got['ident']}")

    def _stored(self) -> list[str]:
        with SqliteQueuesStorage(str(self._storage)) as storage:
            return [item.uuid.hex() for item in storage.get_items("bob")]

    def _call(self, alice: DemoProcess, bob: DemoProcess) -> None:
        alice.tell("call", to="bob", method="add", args=[2, 40])
        _check(bob.expect("called")["method"] == "add", "bob's process runs add()")
        self._say("bob", "runs calculator.add(2, 40)")
        result = alice.expect("result")["value"]
        _check(result == 42, f"the result is 42, not {result!r}")
        self._say("alice", f"gets {result}")

    def _call_in_vain(self, alice: DemoProcess, bob: DemoProcess) -> None:
        alice.tell("call", to="bob", method="divide", args=[1, 0])
        _check(bob.expect("called")["method"] == "divide", "bob's process runs divide()")
        self._say("bob", "runs calculator.divide(1, 0)")
        raised = alice.expect("exception")
        _check(raised["type"] == "ZeroDivisionError", f"ZeroDivisionError, not {raised['type']}")
        remote = str(raised["traceback"])
        _check("in divide" in remote, f"the traceback shows bob's divide(), not {remote!r}")
        self._say("alice", f"catches {raised['type']}: {raised['text']}, with bob's traceback:")
        print(textwrap.indent(remote.rstrip(), "          | "), flush=True)

    def _signal(self, alice: DemoProcess, bob: DemoProcess) -> None:
        alice.tell("signal", to="bob", text="tea is ready")
        value = alice.expect("signalled")["value"]
        _check(value is None, f"a signal has no result, not {value!r}")
        self._say("alice", "signals calculator.note('tea is ready') and goes on at once")
        called = bob.expect("called")
        _check(called["args"] == ["tea is ready"], f"bob gets the signal, not {called}")
        self._say("bob", "runs calculator.note('tea is ready')")


def _check(happened: bool, what: str) -> None:
    if not happened:
        raise CommandError(f"this should have happened and did not: {what}")
