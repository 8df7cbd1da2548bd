"""No path has become longer: what is counted on each of them has a budget.

Where a test fails, ``python3 -m tests.work -v PATH`` tells who was called how
often. ``python3 -m tests.work --tighten`` lowers budgets to what is counted;
raising one is done by hand, in ``budgets.py``, by somebody who says why.
"""

from __future__ import annotations

import socket
import sys
from collections.abc import Callable
from typing import Any

import pytest

from snakemq import Peer, ReceivedMessage
from snakemq._io.wakeup import Bell
from tests.work import memory_paths, message_paths, table
from tests.work.budgets import BUDGETS
from tests.work.every_path import PATHS
from tests.work.live_paths import Served
from tests.work.paths import Measured, Unavailable


@pytest.mark.parametrize("name", PATHS)
def test_work_on(name: str) -> None:
    measured = _measure(name)
    budgets = BUDGETS[name]
    assert measured.figures.keys() == budgets.keys(), "what is counted, and what has a budget"
    over = table.too_much(measured.figures, budgets)
    assert not over, f"{name}: more work than it was:\n" + "\n".join(over) + measured.report()
    # Others do without some calls. This is the one that the budgets are made with.
    if sys.version_info[:2] == (3, 11):
        loose = table.loose(measured.figures, budgets)
        assert not loose, (
            f"{name}: less work than it was; python3 -m tests.work --tighten\n" + "\n".join(loose)
        )


def _measure(name: str) -> Measured:
    if not sys.platform.startswith("linux"):
        pytest.skip("the budgets are those of Linux")
    try:
        return PATHS[name]()
    except Unavailable as reason:
        pytest.skip(str(reason))


def test_all_budgets_are_used() -> None:
    assert BUDGETS.keys() == PATHS.keys()


def two_calls() -> None:
    """As if a path had become longer."""

    def one_more() -> None:
        pass

    one_more()


class TestMoreWorkIsNoticed:
    """Each kind of budget, with a path that was made longer for it."""

    def check(self, name: str, what: str) -> None:
        over = table.too_much(_measure(name).figures, BUDGETS[name])
        assert any(line.startswith(what) for line in over), over

    def test_two_calls_for_each_message_that_is_sent(self, monkeypatch: pytest.MonkeyPatch) -> None:
        send = Peer.send

        def longer(peer: Peer, ident: str, data: bytes) -> object:
            two_calls()
            return send(peer, ident, data)

        monkeypatch.setattr(Peer, "send", longer)
        self.check("small", "caller: Python calls")

    @pytest.mark.parametrize("name", ["small", "small, batches"])
    def test_two_calls_for_each_message_that_comes(
        self, name: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(message_paths, "handler", lambda received: self.handler(received))
        self.check(name, "receiver's loop: Python calls")

    @staticmethod
    def handler(received: list[object]) -> Callable[[object], object]:
        def handle(message: object) -> None:
            two_calls()
            received.append(message)

        return handle

    def test_some_calls_for_each_remote_call(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def echo(served: Served, data: bytes) -> bytes:
            # A worker that is called in the last moment does not wait for that: two calls less.
            two_calls()
            two_calls()
            return data

        monkeypatch.setattr(Served, "echo", echo)
        self.check("one call, stepped", "workers: Python calls")

    def test_a_system_call_for_each_message(self, monkeypatch: pytest.MonkeyPatch) -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:

            def handler(received: list[object]) -> Callable[[object], object]:
                def handle(message: object) -> None:
                    sock.getsockopt(socket.SOL_SOCKET, socket.SO_TYPE)
                    received.append(message)

                return handle

            monkeypatch.setattr(message_paths, "handler", handler)
            self.check("small", "receiver's loop: system calls")

    def test_a_ring_for_each_message(self, monkeypatch: pytest.MonkeyPatch) -> None:
        bell, send = Bell(), Peer.send

        def ringing(peer: Peer, ident: str, data: bytes) -> object:
            bell.ring()
            return send(peer, ident, data)

        monkeypatch.setattr(Peer, "send", ringing)
        try:
            self.check("a burst of messages", "rings of the bell")
        finally:
            bell.close()

    def test_batches_that_are_not_together(self, monkeypatch: pytest.MonkeyPatch) -> None:
        send_messages = Peer.send_messages

        def in_pieces(peer: Peer, entries: list[Any]) -> None:
            for start in range(0, len(entries), 64):
                send_messages(peer, entries[start : start + 64])

        monkeypatch.setattr(Peer, "send_messages", in_pieces)
        self.check("durable, batches", "commits")

    def test_one_more_copy(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def handler(received: list[bytes]) -> Callable[[ReceivedMessage], object]:
            copies: list[bytes] = []

            def handle(message: ReceivedMessage) -> None:
                copies.append(bytes(bytearray(message.data)))
                received.append(message.data)

            return handle

        monkeypatch.setattr(memory_paths, "handler", handler)
        self.check("memory, a message of 1 MiB", "receiver: of the payload")
