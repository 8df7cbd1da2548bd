"""Callback slots: order, assignment, wiring, and what callbacks raise."""

from __future__ import annotations

import logging
from collections.abc import Callable

import pytest

from snakemq.callbacks import Callback, CallbackOwner, CallbackSlot


class Layer(CallbackOwner):
    log = logging.getLogger("tests.layer")
    on_recv = CallbackSlot[[str, bytes]]()
    on_error = CallbackSlot[["str | None", Exception]]()


def record(calls: list[str], name: str) -> Callable[[str, bytes], None]:
    return lambda conn, data: calls.append(name)


def test_callables_are_called_in_the_order_in_which_they_were_added() -> None:
    calls: list[str] = []
    layer = Layer()
    for name in "abc":
        layer.on_recv.add(record(calls, name))
    layer.on_recv("conn", b"")
    assert calls == ["a", "b", "c"]


def test_remove_takes_out_one() -> None:
    calls: list[str] = []
    layer = Layer()
    func = record(calls, "x")
    layer.on_recv.add(func)
    layer.on_recv.add(func)
    layer.on_recv.remove(func)
    layer.on_recv("conn", b"")
    assert calls == ["x"]
    layer.on_recv.remove(func)
    assert not layer.on_recv
    with pytest.raises(ValueError, match="not in list"):
        layer.on_recv.remove(func)


def test_assignment_replaces_what_users_added_and_keeps_what_is_wired() -> None:
    calls: list[str] = []
    layer = Layer()
    layer.on_recv.wire(record(calls, "wired"))
    layer.on_recv.add(record(calls, "added"))
    assert layer.on_recv.has_user_callbacks
    layer.on_recv = record(calls, "assigned")
    layer.on_recv.add(record(calls, "added later"))
    layer.on_recv("conn", b"")
    assert calls == ["wired", "assigned", "added later"]
    layer.on_recv = None
    assert not layer.on_recv.has_user_callbacks
    layer.on_recv("conn", b"")
    assert calls[3:] == ["wired"]


def test_the_stack_comes_before_users_who_were_earlier() -> None:
    calls: list[str] = []
    layer = Layer()
    layer.on_recv.add(record(calls, "user"))
    layer.on_recv.wire(record(calls, "wired"))
    layer.on_recv.wire(record(calls, "wired later"))
    layer.on_recv("conn", b"")
    assert calls == ["wired", "wired later", "user"]


def test_what_is_wired_can_be_removed() -> None:
    layer = Layer()
    func = record([], "wired")
    layer.on_recv.wire(func)
    layer.on_recv.remove(func)
    layer.on_recv = None
    assert not layer.on_recv


def test_augmenting_a_slot_with_itself_changes_nothing() -> None:
    layer = Layer()
    layer.on_recv.add(record([], "x"))
    layer.on_recv = layer.on_recv
    assert len(layer.on_recv.callbacks) == 1


def test_a_slot_of_another_layer_can_be_assigned() -> None:
    calls: list[str] = []
    one, other = Layer(), Layer()
    other.on_recv.add(record(calls, "other"))
    one.on_recv = other.on_recv
    one.on_recv("conn", b"")
    assert calls == ["other"]


def test_only_callables_can_be_assigned() -> None:
    with pytest.raises(TypeError, match="on_recv takes a callable, not int"):
        Layer().on_recv = 5  # type: ignore[assignment]


def test_slots_belong_to_their_instance() -> None:
    one, other = Layer(), Layer()
    one.on_recv.add(record([], "x"))
    assert one.on_recv
    assert not other.on_recv


def test_an_exception_is_logged_and_reported_and_stops_nobody(
    caplog: pytest.LogCaptureFixture,
) -> None:
    calls: list[str] = []
    errors: list[tuple[str | None, Exception]] = []
    layer = Layer()
    failure = RuntimeError("a mistake in user code")

    def fail(conn: str, data: bytes) -> None:
        raise failure

    layer.on_recv.add(fail)
    layer.on_recv.add(record(calls, "after"))
    layer.on_error.add(lambda conn, exc: errors.append((conn, exc)))
    layer.on_recv("conn", b"")
    assert calls == ["after"]
    assert errors == [("conn", failure)]
    assert "a mistake in user code" in caplog.text
    assert "on_recv" in caplog.text


def test_an_exception_in_on_error_is_logged_only(caplog: pytest.LogCaptureFixture) -> None:
    layer = Layer()
    layer.on_error.add(lambda conn, exc: 1 / 0)  # type: ignore[arg-type, return-value]
    layer.on_error("conn", ValueError())
    assert caplog.text.count("ZeroDivisionError") == 1


@pytest.mark.parametrize("interrupt", [KeyboardInterrupt, SystemExit])
def test_an_interrupt_passes_when_the_others_have_run(interrupt: type[BaseException]) -> None:
    calls: list[str] = []
    layer = Layer()

    def leave(conn: str, data: bytes) -> None:
        raise interrupt

    layer.on_recv.add(leave)
    layer.on_recv.add(record(calls, "b"))
    layer.on_recv.add(leave)
    layer.on_recv.add(record(calls, "c"))
    with pytest.raises(interrupt):
        layer.on_recv("conn", b"")
    assert calls == ["b", "c"]


def test_a_callback_may_change_the_slot_while_it_runs() -> None:
    calls: list[str] = []
    layer = Layer()

    def once(conn: str, data: bytes) -> None:
        calls.append("once")
        layer.on_recv.remove(once)
        layer.on_recv.add(record(calls, "new"))

    layer.on_recv.add(once)
    layer.on_recv.add(record(calls, "last"))
    layer.on_recv("conn", b"")
    assert calls == ["once", "last"]
    layer.on_recv("conn", b"")
    assert calls[2:] == ["last", "new"]


def test_a_callback_without_an_owner(caplog: pytest.LogCaptureFixture) -> None:
    callback = Callback[[]]()
    callback.add(lambda: 1 / 0)
    callback()
    assert "ZeroDivisionError" in caplog.text
    assert len(callback.callbacks) == 1
