"""The part of the link contract that is about the loop: time, calls and failures."""

from __future__ import annotations

import threading
from collections.abc import Callable
from functools import partial
from typing import Any

from snakemq.contracts import LinkInterface
from snakemq.testing._link_pair import Contract, Stream

__all__ = ["FailureContract", "LoopContract"]


class LoopContract(Contract):
    """Timers, calls from other threads, passes."""

    def test_time_goes_forward(self) -> None:
        times = [self.a.time()]
        for _ in range(5):
            self.pair.run(0.01)
            times.append(self.a.time())
        assert times == sorted(times)
        assert times[-1] - times[0] >= 0.05 - 1e-6

    def test_call_soon_calls_soon_with_the_arguments_and_in_order(self) -> None:
        calls: list[tuple[int, int]] = []
        for number in range(100):
            self.a.call_soon(lambda *args: calls.append(args), number, -number)
        assert calls == []
        self.pair.run_until(lambda: len(calls) == 100, "100 calls")
        assert calls == [(number, -number) for number in range(100)]

    def test_call_soon_in_call_soon_does_not_stop_the_loop(self) -> None:
        calls: list[int] = []

        def again() -> None:
            calls.append(1)
            if not received:
                self.a.call_soon(again)

        received: list[bytes] = []
        self.a.on_recv.add(lambda conn_id, data: received.append(data))
        _, conn_b = self.connect()
        again()
        Stream(self.at_b, conn_b, b"x")
        self.pair.run_until(lambda: received, "a byte to arrive next to endless calls")
        assert len(calls) > 1

    def test_call_soon_works_from_other_threads(self) -> None:
        calls: list[tuple[int, int]] = []
        callers: set[int] = set()

        def called(thread: int, number: int) -> None:
            calls.append((thread, number))
            callers.add(threading.get_ident())

        def work(thread: int) -> None:
            for number in range(500):
                self.a.call_soon(called, thread, number)

        threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
        for thread in threads:
            thread.start()
        if not self.pair.real_time:
            for thread in threads:
                thread.join()
        self.pair.run_until(lambda: len(calls) == 2000, "the calls of other threads")
        for thread in threads:
            thread.join()
        for number in range(4):
            assert [count for who, count in calls if who == number] == list(range(500))
        assert callers == {threading.get_ident()}

    def test_it_is_known_who_is_inside_of_the_loop(self) -> None:
        inside: dict[str, bool] = {}

        def note(name: str, *_: object) -> None:
            inside[name] = self.a.is_inside_loop()

        def ask_elsewhere() -> None:
            thread = threading.Thread(target=note, args=("another thread",))
            thread.start()
            thread.join()

        callbacks = ("on_connect", "on_recv", "on_ready_to_send", "on_loop_pass")
        for name in callbacks:
            getattr(self.a, name).add(partial(note, name))
        self.a.call_soon(note, "call_soon")
        self.a.call_soon(ask_elsewhere)
        self.a.call_later(0, note, "call_later")
        conn_a, conn_b = self.connect()
        self.transfer(self.at_a, conn_a, b"there", self.at_b)
        self.transfer(self.at_b, conn_b, b"back", self.at_a)
        assert not self.a.is_inside_loop()
        assert not inside.pop("another thread")
        assert inside == dict.fromkeys((*callbacks, "call_soon", "call_later"), True)

    def test_timers_come_in_the_order_of_their_times(self) -> None:
        calls: list[str] = []
        self.a.call_later(0.03, calls.append, "third")
        self.a.call_later(0.01, calls.append, "first")
        self.a.call_later(0.02, calls.append, "second")
        self.pair.run_until(lambda: len(calls) == 3, "three timers")
        assert calls == ["first", "second", "third"]

    def test_a_timer_never_comes_too_early(self) -> None:
        late: list[float] = []
        for delay in (0.0, 0.001, 0.01, 0.03):
            due = self.a.time() + delay
            self.a.call_later(delay, lambda due=due: late.append(self.a.time() - due))
        self.pair.run_until(lambda: len(late) == 4, "four timers")
        # Rounding of the clock's readings is no earliness.
        assert min(late) >= -1e-6

    def test_a_timer_can_be_set_in_a_timer(self) -> None:
        calls: list[float] = []

        def again() -> None:
            calls.append(self.a.time())
            if len(calls) < 5:
                self.a.call_later(0.005, again)

        self.a.call_later(0, again)
        self.pair.run_until(lambda: len(calls) == 5, "five timers")
        assert calls == sorted(calls)

    def test_a_cancelled_timer_does_not_come(self) -> None:
        calls: list[str] = []
        timer = self.a.call_later(0.01, calls.append, "cancelled")
        done = self.a.call_later(0.01, calls.append, "kept")
        timer.cancel()
        timer.cancel()
        self.pair.run_until(lambda: calls, "the other timer")
        self.pair.run(0.02)
        done.cancel()
        assert calls == ["kept"]

    def test_a_timer_can_be_cancelled_by_one_that_is_due_with_it(self) -> None:
        calls: list[str] = []

        def cancel() -> None:
            calls.append("first")
            second.cancel()

        self.a.call_later(0.01, cancel)
        second = self.a.call_later(0.01, calls.append, "second")
        self.a.call_later(0.02, calls.append, "last")
        # Not run before both are due.
        deadline = self.a.time() + 0.02
        if self.pair.real_time:
            while self.a.time() < deadline:
                threading.Event().wait(0.005)
        self.pair.run_until(lambda: "last" in calls, "the last timer")
        assert calls == ["first", "last"]

    def test_many_timers(self) -> None:
        calls: list[int] = []
        timers = [
            self.a.call_later(0.001 * (number % 7), calls.append, number) for number in range(1000)
        ]
        for timer in timers[::2]:
            timer.cancel()
        self.pair.run_until(lambda: len(calls) == 500, "500 timers")
        self.pair.run(0.01)
        assert sorted(calls) == list(range(1, 1000, 2))

    def test_a_pass_is_told_after_what_happened_in_it(self) -> None:
        log: list[str] = []
        self.a.on_loop_pass.add(lambda: log.append("pass"))
        self.a.on_recv.add(lambda conn_id, data: log.append("recv"))
        _, conn_b = self.connect()
        self.a.call_soon(log.append, "soon")
        self.pair.run_until(lambda: "soon" in log and log[-1] == "pass", "a pass after the call")
        Stream(self.at_b, conn_b, b"x")
        self.pair.run_until(lambda: "recv" in log and log[-1] == "pass", "a pass after the byte")

    def test_wakeup_poll_makes_a_pass(self) -> None:
        self.pair.run(0.01)
        before = self.at_a.passes
        self.a.wakeup_poll()
        self.a.wakeup_poll()
        self.pair.run_until(lambda: self.at_a.passes > before, "a pass")

    def test_wakeup_poll_works_from_other_threads_and_never_blocks(self) -> None:
        before = self.at_a.passes

        def work() -> None:
            for _ in range(100_000):
                self.a.wakeup_poll()

        thread = threading.Thread(target=work)
        thread.start()
        thread.join(timeout=30)
        assert not thread.is_alive()
        self.pair.run_until(lambda: self.at_a.passes > before, "a pass")
        self.still_works()


class FailureContract(Contract):
    """What callbacks raise stops nothing, and nothing can unplug a layer above."""

    def test_an_exception_in_any_callback_stops_nothing(self) -> None:
        raised: list[str] = []
        errors = self._errors()

        def fail(name: str) -> Callable[..., None]:
            def callback(*_: object) -> None:
                raised.append(name)
                raise ValueError(name)

            return callback

        # Before the ones that must run all the same.
        after: list[str] = []
        for name in ("on_connect", "on_recv", "on_ready_to_send", "on_disconnect", "on_loop_pass"):
            slot = getattr(self.a, name)
            slot.add(fail(name))
            slot.add(lambda *_, name=name: after.append(name))
        self.a.call_soon(fail("call_soon"))
        self.a.call_soon(after.append, "call_soon")
        self.a.call_later(0, fail("call_later"))
        self.a.call_later(0, after.append, "call_later")
        conn_a, conn_b = self.connect()
        self.transfer(self.at_a, conn_a, b"there", self.at_b)
        self.transfer(self.at_b, conn_b, b"back", self.at_a)
        self.pair.hang_up()
        self.until_gone()
        expected = {
            "on_connect",
            "on_recv",
            "on_ready_to_send",
            "on_disconnect",
            "on_loop_pass",
            "call_soon",
            "call_later",
        }
        self.pair.run_until(lambda: set(raised) == set(after) == expected, "every callback")
        if errors is not None:
            assert {str(exc) for _, exc in errors} == expected
            about = {str(exc): conn_id for conn_id, exc in errors}
            assert about["on_recv"] == about["on_connect"] == conn_a
            assert about["call_soon"] is about["on_loop_pass"] is None

    def _errors(self) -> list[tuple[str | None, Exception]] | None:
        # Not every link reports: the contract does not ask for on_error. What
        # stands in front of another link leaves calls and timers to that one.
        errors: list[tuple[str | None, Exception]] | None = None
        link: Any = self.a
        while link is not None:
            if hasattr(link, "on_error"):
                errors = [] if errors is None else errors
                link.on_error.add(lambda *error, errors=errors: errors.append(error))
            link = getattr(link, "link", None)
        return errors

    def test_an_exception_in_on_error_stops_nothing(self) -> None:
        slot: Any = getattr(self.a, "on_error", None)
        if slot is not None:
            slot.add(_fail)
        self.a.on_recv.add(_fail)
        _, conn_b = self.connect()
        self.transfer(self.at_b, conn_b, b"hello", self.at_a)

    def test_an_interrupt_passes_and_the_loop_can_go_on(self) -> None:
        for name in ("on_connect", "on_recv", "on_ready_to_send", "on_disconnect", "on_loop_pass"):
            self._interrupted_in(name)
        self.still_works()

    def _interrupted_in(self, name: str) -> None:
        for exception in (KeyboardInterrupt, SystemExit):
            left: list[type[BaseException]] = [exception]

            def interrupt(*_: object, left: list[type[BaseException]] = left) -> None:
                if left:
                    raise left.pop()

            slot = getattr(self.a, name)
            slot.add(interrupt)
            interrupts = self._live_through(self.random_bytes(30_000))
            slot.remove(interrupt)
            assert interrupts == [exception], f"an interrupt in {name} came out as {interrupts}"

    def _live_through(self, data: bytes) -> list[type[BaseException]]:
        """Connect, send both ways, disconnect; go on after each interrupt."""
        interrupts: list[type[BaseException]] = []
        known = len(self.at_a.known), len(self.at_b.known)

        def until(condition: Callable[[], object], what: str) -> None:
            while True:
                try:
                    self.pair.run_until(condition, what)
                    return
                except (KeyboardInterrupt, SystemExit) as exc:
                    interrupts.append(type(exc))

        self.pair.connect()
        until(
            lambda: len(self.at_a.known) > known[0] and len(self.at_b.known) > known[1],
            "a connection",
        )
        conn_a, conn_b = self.at_a.connections[-1], self.at_b.connections[-1]
        streams = Stream(self.at_a, conn_a, data), Stream(self.at_b, conn_b, data)
        until(
            lambda: (
                all(stream.finished for stream in streams)
                and len(self.at_a.received[conn_a]) == len(self.at_b.received[conn_b]) == len(data)
            ),
            "the bytes to arrive",
        )
        assert self.at_a.received[conn_a] == self.at_b.received[conn_b] == data
        try:
            self.pair.hang_up()
        except (KeyboardInterrupt, SystemExit) as exc:
            interrupts.append(type(exc))
            self.pair.hang_up()
        until(
            lambda: not self.at_a.connections and not self.at_b.connections,
            "both sides to be disconnected",
        )
        return interrupts

    def test_an_assignment_replaces_user_callbacks_and_keeps_wired_ones(self) -> None:
        calls: list[str] = []
        link: LinkInterface = self.a
        for name in ("on_connect", "on_recv", "on_ready_to_send", "on_disconnect", "on_loop_pass"):
            slot = getattr(link, name)
            slot.wire(lambda *_, name=name: calls.append("wired " + name))
            slot.add(lambda *_, name=name: calls.append("replaced " + name))
            recorder = getattr(self.at_a, "_on_" + name[3:].replace("ready_to_send", "ready"))
            setattr(link, name, recorder)
            assert getattr(link, name) is slot
        conn_a, conn_b = self.connect()
        self.transfer(self.at_a, conn_a, b"there", self.at_b)
        self.at_a.received[conn_a].clear()
        self.transfer(self.at_b, conn_b, b"back", self.at_a)
        self.pair.hang_up()
        self.until_gone()
        assert {call for call in calls if call.startswith("wired")} == {
            "wired on_connect",
            "wired on_recv",
            "wired on_ready_to_send",
            "wired on_disconnect",
            "wired on_loop_pass",
        }
        assert not [call for call in calls if call.startswith("replaced")]


def _fail(*_: object) -> None:
    raise ValueError("on purpose")
