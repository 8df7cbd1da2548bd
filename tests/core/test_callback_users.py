"""How many callbacks of a slot are the program's: what a thread that polls has to know."""

from __future__ import annotations

import logging

from snakemq.callbacks import Callback, CallbackOwner, CallbackSlot


class Layer(CallbackOwner):
    log = logging.getLogger("tests.layer")
    on_recv = CallbackSlot[[str]]()


def one(conn: str) -> None:
    """A callback."""


def other(conn: str) -> None:
    """Another one."""


def test_what_the_stack_wires_does_not_count() -> None:
    slot: Callback[[str]] = Callback()
    assert slot.users == 0
    slot.wire(one)
    assert slot.users == 0
    slot.add(one)
    slot.add(other)
    slot.wire(other)
    assert slot.users == 2


def test_who_is_removed_does_not_count_any_more() -> None:
    slot: Callback[[str]] = Callback()
    slot.wire(one)
    slot.add(one)
    slot.add(other)
    slot.remove(one)
    assert slot.users == 1
    slot.remove(one)  # the one that was wired
    assert slot.users == 1
    slot.remove(other)
    assert slot.users == 0


def test_an_assigned_one_is_the_only_one() -> None:
    layer = Layer()
    layer.on_recv.wire(one)
    layer.on_recv.add(one)
    layer.on_recv.add(other)
    layer.on_recv = other
    assert layer.on_recv.users == 1
    layer.on_recv = None
    assert layer.on_recv.users == 0
    assert layer.on_recv.callbacks == [one]
