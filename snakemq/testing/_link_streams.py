"""The part of the link contract that is about connections and the bytes on them."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from functools import partial
from itertools import cycle

from snakemq.contracts import LinkInterface
from snakemq.exceptions import SendNotFinished
from snakemq.testing._link_pair import Contract, Stream

__all__ = ["ClosingContract", "LifeContract", "ReceivingContract", "SendingContract"]

#: More than all buffers on the way hold together, in bytes.
_LOT = 16 * 1024 * 1024

#: Long enough for a connection that should not be there to appear, in seconds.
_A_WHILE = 0.15


class LifeContract(Contract):
    """Connections come and go, and are told about in order."""

    def test_both_sides_are_told_of_a_connection_once(self) -> None:
        self.connect()
        self.pair.run(_A_WHILE)
        assert self.at_a.count("on_connect") == self.at_b.count("on_connect") == 1

    def test_the_callbacks_come_in_the_order_of_life(self) -> None:
        conn_a, conn_b = self.connect()
        self.transfer(self.at_a, conn_a, b"hello", self.at_b)
        self.pair.hang_up()
        self.until_gone()
        self.pair.run(_A_WHILE)
        for recorder, conn_id, between in (
            (self.at_a, conn_a, {"on_ready_to_send"}),
            (self.at_b, conn_b, {"on_recv"}),
        ):
            names = [name for who, name, _ in recorder.events if who == conn_id]
            assert names[0] == "on_connect"
            assert set(names[1:-1]) == between
            assert names[-1] == "on_disconnect"

    def test_it_is_known_who_dialled(self) -> None:
        conn_a, conn_b = self.connect()
        assert self.a.is_connector(conn_a) is True
        assert self.b.is_connector(conn_b) is False

    def test_the_connection_can_be_asked_about_in_on_disconnect(self) -> None:
        answers: list[tuple[bool, int]] = []

        def ask(link: LinkInterface, conn_id: str) -> None:
            answers.append((link.is_connector(conn_id), link.unreported(conn_id)))

        self.a.on_disconnect.add(lambda conn_id: ask(self.a, conn_id))
        self.b.on_disconnect.add(lambda conn_id: ask(self.b, conn_id))
        conn_a, _ = self.connect()
        self.a.close(conn_a)
        assert answers == [(True, 0)]
        self.pair.run_until(lambda: len(answers) > 1, "the other side to be told")
        assert answers[1] == (False, 0)

    def test_nothing_can_be_sent_in_on_disconnect(self) -> None:
        refused: list[str] = []

        def send(conn_id: str) -> None:
            self.raises(KeyError, self.a.send, conn_id, b"too late")
            refused.append(conn_id)

        self.a.on_disconnect.add(send)
        conn_a, _ = self.connect()
        self.a.close(conn_a)
        assert refused == [conn_a]

    def test_an_identifier_is_never_used_again(self) -> None:
        # The recorders watch; all it takes is many connections.
        for number in range(10):
            _, conn_b = self.connect()
            if number % 2:
                self.b.close(conn_b)
            self.pair.hang_up()
            self.until_gone()
        assert len(self.at_a.known) >= 10
        assert len(self.at_b.known) >= 10

    def test_connections_do_not_disturb_each_other(self) -> None:
        pairs = [self.connect() for _ in range(5)]
        for number, (conn_a, conn_b) in enumerate(pairs):
            Stream(self.at_a, conn_a, self.random_bytes(20_000, number))
            Stream(self.at_b, conn_b, self.random_bytes(20_000, -number - 1))
        self.pair.run_until(
            lambda: len(self.at_a.all_received) == len(self.at_b.all_received) == 100_000,
            "all bytes to arrive",
        )
        for number, (conn_a, conn_b) in enumerate(pairs):
            assert self.at_b.received[conn_b] == self.random_bytes(20_000, number)
            assert self.at_a.received[conn_a] == self.random_bytes(20_000, -number - 1)
        conn_a, conn_b = pairs[2]
        self.a.close(conn_a)
        self.until_gone_from(self.at_b, conn_b)
        Stream(self.at_a, pairs[3][0], b"still here")
        self.pair.run_until(
            lambda: self.at_b.received[pairs[3][1]].endswith(b"still here"),
            "bytes on another connection",
        )

    def test_a_connection_that_does_not_exist_is_a_key_error(self) -> None:
        self._unknown("never was")

    def test_a_connection_that_is_no_more_is_a_key_error(self) -> None:
        conn_a, _ = self.connect()
        self.pair.hang_up()
        self._unknown(conn_a)

    def test_a_connection_of_the_other_link_is_a_key_error(self) -> None:
        # Only if both count alike could one know the other's identifiers.
        conn_a, conn_b = self.connect()
        if conn_a != conn_b:
            self._unknown(conn_b)

    def _unknown(self, conn_id: str) -> None:
        self.raises(KeyError, self.a.send, conn_id, b"x")
        self.raises(KeyError, self.a.close, conn_id)
        self.raises(KeyError, self.a.pause_recv, conn_id)
        self.raises(KeyError, self.a.resume_recv, conn_id)
        self.raises(KeyError, self.a.is_connector, conn_id)
        self.raises(KeyError, self.a.unreported, conn_id)
        self.raises(KeyError, self.a.expect, conn_id, 1)

    def test_a_connector_dials_again_when_the_other_side_closes(self) -> None:
        self.connect()
        for count in range(2, 4):
            self.b.close(self.at_b.connections[0])
            self.until_connected(count)
        self.transfer(self.at_a, self.at_a.connections[0], b"again", self.at_b)

    def test_a_connector_dials_again_when_its_own_side_closes(self) -> None:
        conn_a, _ = self.connect()
        self.a.close(conn_a)
        self.until_connected(2)

    def test_a_connector_that_was_deleted_does_not_dial_again(self) -> None:
        self.connect()
        self.pair.hang_up()
        assert self.at_a.connections == []
        self.until_gone()
        self.pair.run(_A_WHILE)
        assert self.at_a.count("on_connect") == 1


class SendingContract(Contract):
    """What was sent arrives, and the sender knows how much was taken."""

    def test_bytes_arrive_in_both_directions(self) -> None:
        conn_a, conn_b = self.connect()
        self.transfer(self.at_a, conn_a, b"there", self.at_b)
        self.transfer(self.at_b, conn_b, b"and back", self.at_a)

    def test_large_transfers_in_both_directions_at_once_stay_intact(self) -> None:
        conn_a, conn_b = self.connect()
        there, back = self.random_bytes(1_000_000, 1), self.random_bytes(1_000_000, 2)
        streams = Stream(self.at_a, conn_a, there), Stream(self.at_b, conn_b, back)
        self.pair.run_until(
            lambda: (
                all(stream.finished for stream in streams)
                and len(self.at_a.all_received) == len(self.at_b.all_received) == 1_000_000
            ),
            "two megabytes to arrive",
        )
        assert self.at_b.all_received == there
        assert self.at_a.all_received == back

    def test_each_send_is_finished_once(self) -> None:
        # A second on_ready_to_send, or one too large, is a fault to the recorder.
        conn_a, _ = self.connect()
        data = self.random_bytes(3000)
        sends = 0
        taken = 0
        while taken < len(data):
            self.at_a.send(conn_a, data[taken : taken + 100])
            sends += 1
            self.pair.run_until(lambda: conn_a not in self.at_a.sending, "the send to be finished")
            taken += self._last_send_size()
        self.pair.run_until(lambda: self.at_b.all_received == data, "the bytes to arrive")
        assert self.at_a.count("on_ready_to_send") == sends

    def _last_send_size(self) -> int:
        sizes = [size for _, name, size in self.at_a.events if name == "on_ready_to_send"]
        assert isinstance(sizes[-1], int)
        return sizes[-1]

    def test_a_second_send_before_the_first_is_finished_is_refused(self) -> None:
        conn_a, _ = self.connect()
        stream = Stream(self.at_a, conn_a, b"first")
        self.raises(SendNotFinished, self.a.send, conn_a, b"second")
        self.raises(SendNotFinished, self.a.send, conn_a, b"")
        self.pair.run_until(
            lambda: stream.finished and len(self.at_b.all_received) >= 5, "the bytes to arrive"
        )
        self.transfer(self.at_a, conn_a, b"third", self.at_b)
        assert self.at_b.all_received == b"firstthird"

    def test_a_large_send_takes_part_of_the_data_and_tells_how_much(self) -> None:
        conn_a, conn_b = self.connect()
        self.b.pause_recv(conn_b)
        data = self.random_bytes(_LOT)
        stream = Stream(self.at_a, conn_a, data)
        self.pair.run(_A_WHILE)
        # Nobody reads, so it has to stop somewhere.
        assert not stream.finished
        taken = stream.taken + self.a.unreported(conn_a)
        assert taken < _LOT
        self.pair.run(_A_WHILE)
        assert stream.taken + self.a.unreported(conn_a) < _LOT
        self.b.resume_recv(conn_b)
        self.pair.run_until(
            lambda: len(self.at_b.all_received) >= min(taken + 100_000, _LOT),
            "the rest to follow",
        )
        assert data.startswith(self.at_b.all_received)

    def test_every_kind_of_buffer_can_be_sent(self) -> None:
        conn_a, _ = self.connect()
        for data in (b"bytes", bytearray(b"bytearray"), memoryview(b"a memoryview")[2:]):
            taken = 0
            while taken < len(data):
                self.at_a.send(conn_a, data[taken:])
                self.pair.run_until(
                    lambda: conn_a not in self.at_a.sending, "the send to be finished"
                )
                taken += self._last_send_size()
        expected = b"bytesbytearraymemoryview"
        self.pair.run_until(lambda: self.at_b.all_received == expected, "the bytes to arrive")

    def test_pieces_are_sent_as_one(self) -> None:
        conn_a, conn_b = self.connect()
        data = self.random_bytes(300_000)
        cuts = [4, 5, 29, 29, 70_000, 70_001, 200_000, 299_999]
        sent = Stream(self.at_a, conn_a, data, cuts=cuts)
        self.pair.run_until(
            lambda: sent.finished and len(self.at_b.received[conn_b]) == len(data),
            "all pieces to arrive",
        )
        assert self.at_b.received[conn_b] == data

    def test_what_is_expected_is_only_where_reads_end(self) -> None:
        conn_a, conn_b = self.connect()
        data = self.random_bytes(300_000)
        sizes = cycle([0, 1, 29, 5000, 70_000, 2_000_000])

        def expect(conn_id: str, _: bytes) -> None:
            missing = len(data) - len(self.at_b.received[conn_id])
            self.b.expect(conn_id, min(next(sizes), missing))

        self.b.on_recv.add(expect)
        self.b.expect(conn_b, 17)
        Stream(self.at_a, conn_a, data)
        Stream(self.at_b, conn_b, data)
        self.pair.run_until(
            lambda: len(self.at_b.received[conn_b]) == len(self.at_a.received[conn_a]) == len(data),
            "all bytes to arrive",
        )
        assert self.at_b.received[conn_b] == self.at_a.received[conn_a] == data

    def test_what_is_there_comes_when_nothing_is_expected_any_more(self) -> None:
        conn_a, conn_b = self.connect()
        self.b.expect(conn_b, 300_000)
        stream = Stream(self.at_a, conn_a, b"some")
        self.pair.run_until(lambda: stream.finished, "the send to be finished")
        self.b.expect(conn_b, 0)
        self.pair.run_until(
            lambda: self.at_b.received[conn_b] == b"some", "what is there to arrive"
        )

    def test_nothing_can_be_sent_too(self) -> None:
        conn_a, _ = self.connect()
        self.at_a.send(conn_a, b"")
        self.pair.run_until(lambda: conn_a not in self.at_a.sending, "the send to be finished")
        assert self._last_send_size() == 0
        self.transfer(self.at_a, conn_a, b"something", self.at_b)

    def test_it_can_be_sent_from_every_callback(self) -> None:
        # The recorders watch that no callback runs inside of send.
        sent: list[str] = []

        def send(name: str, *_: object) -> None:
            conn_id = self.at_a.connections[-1]
            if name not in sent and conn_id not in self.at_a.sending:
                sent.append(name)
                self.at_a.send(conn_id, b"hello")

        self.a.on_connect.add(partial(send, "on_connect"))
        self.a.on_recv.add(partial(send, "on_recv"))
        self.a.on_ready_to_send.add(partial(send, "on_ready_to_send"))
        conn_a, conn_b = self.connect()
        Stream(self.at_b, conn_b, b"hello")
        self.pair.run_until(lambda: {"on_recv", "on_ready_to_send"} <= set(sent), "two sends")
        self.a.on_loop_pass.add(partial(send, "on_loop_pass"))

        def send_when_possible(name: str, call: Callable[..., object]) -> None:
            send(name)
            if name not in sent:
                call(send_when_possible, name, call)

        for name, call in (
            ("call_soon", self.a.call_soon),
            ("call_later", partial(self.a.call_later, 0.01)),
        ):
            call(send_when_possible, name, call)
        self.pair.run_until(lambda: len(sent) == 6, "a send from each callback")
        self.pair.run_until(lambda: conn_a not in self.at_a.sending, "the send to be finished")
        taken = sum(
            size
            for _, name, size in self.at_a.events
            if name == "on_ready_to_send" and isinstance(size, int)
        )
        self.pair.run_until(lambda: len(self.at_b.all_received) == taken, "all to arrive")

    def test_unreported_is_what_was_taken_and_not_told_yet(self) -> None:
        conn_a, _ = self.connect()
        assert self.a.unreported(conn_a) == 0
        self.at_a.send(conn_a, b"x" * 100)
        before = self.a.unreported(conn_a)
        assert 0 <= before <= 100
        self.pair.run_until(lambda: conn_a not in self.at_a.sending, "the send to be finished")
        assert self._last_send_size() >= before
        assert self.a.unreported(conn_a) == 0

    def test_sending_to_a_side_that_vanished_ends_in_on_disconnect(self) -> None:
        conn_a, _ = self.connect()
        self.pair.break_connections()
        stream = Stream(self.at_a, conn_a, self.random_bytes(_LOT))
        self.until_gone_from(self.at_a, conn_a)
        assert not stream.finished
        self.raises(KeyError, self.a.send, conn_a, b"x")
        self.pair.hang_up()
        self.until_gone()


class ReceivingContract(Contract):
    """Receiving can be paused; nothing is lost by that."""

    def test_nothing_arrives_while_it_is_paused_and_nothing_is_lost(self) -> None:
        conn_a, conn_b = self.connect()
        self.b.pause_recv(conn_b)
        data = self.random_bytes(10_000)
        stream = Stream(self.at_a, conn_a, data)
        self.pair.run(_A_WHILE)
        assert self.at_b.all_received == b""
        self.b.resume_recv(conn_b)
        self.pair.run_until(
            lambda: stream.finished and len(self.at_b.all_received) >= len(data),
            "the bytes to arrive",
        )
        assert self.at_b.all_received == data

    def test_it_can_be_paused_in_on_connect_and_in_on_recv(self) -> None:
        self.b.on_connect.add(self.b.pause_recv)
        self.b.on_recv.add(lambda conn_id, data: self.b.pause_recv(conn_id))
        conn_a, conn_b = self.connect()
        data = self.random_bytes(1000)
        Stream(self.at_a, conn_a, data)
        self.pair.run(_A_WHILE)
        assert self.at_b.count("on_recv") == 0
        rounds = 0
        while self.at_b.all_received != data:
            rounds += 1
            self.b.resume_recv(conn_b)
            self.pair.run_until(lambda: self.at_b.count("on_recv"), "the next piece")
            self.pair.run(0.01)
            assert self.at_b.count("on_recv") == 1
            self.at_b.events.clear()
        assert rounds > 0

    def test_pausing_twice_is_pausing_once(self) -> None:
        conn_a, conn_b = self.connect()
        self.b.resume_recv(conn_b)
        self.b.pause_recv(conn_b)
        self.b.pause_recv(conn_b)
        self.b.resume_recv(conn_b)
        self.b.resume_recv(conn_b)
        self.transfer(self.at_a, conn_a, b"hello", self.at_b)

    def test_a_pause_does_not_concern_the_other_direction(self) -> None:
        conn_a, conn_b = self.connect()
        self.b.pause_recv(conn_b)
        self.transfer(self.at_b, conn_b, self.random_bytes(50_000), self.at_a)
        self.b.resume_recv(conn_b)
        self.transfer(self.at_a, conn_a, self.random_bytes(50_000), self.at_b)

    def test_what_was_sent_before_a_close_survives_a_pause(self) -> None:
        conn_a, conn_b = self.connect()
        self.b.pause_recv(conn_b)
        stream = Stream(self.at_a, conn_a, b"farewell")
        self.pair.run_until(lambda: stream.finished, "the bytes to be taken")
        self.pair.hang_up()
        self.pair.run(_A_WHILE)
        assert self.at_b.all_received == b""
        assert self.at_b.connections == [conn_b]
        self.b.resume_recv(conn_b)
        self.until_gone()
        assert self.at_b.all_received == b"farewell"

    def test_a_paused_connection_can_be_closed(self) -> None:
        conn_a, conn_b = self.connect()
        self.b.pause_recv(conn_b)
        Stream(self.at_a, conn_a, b"unread")
        self.pair.run(_A_WHILE)
        self.b.close(conn_b)
        assert self.at_b.connections == []
        self.until_gone_from(self.at_a, conn_a)
        self.pair.hang_up()
        self.until_gone()
        assert self.at_b.all_received == b""

    def test_a_connection_that_breaks_while_paused_is_gone_when_resumed(self) -> None:
        _, conn_b = self.connect()
        self.b.pause_recv(conn_b)
        self.pair.break_connections()
        self.pair.hang_up()
        self.pair.run(_A_WHILE)
        if conn_b in self.at_b.connections:
            self.b.resume_recv(conn_b)
        self.until_gone()


class ClosingContract(Contract):
    """Either side may close, at any moment, and nothing comes after that."""

    def test_on_disconnect_runs_inside_of_close(self) -> None:
        conn_a, _ = self.connect()
        self.a.close(conn_a)
        assert self.at_a.connections == []
        assert self.at_a.events[-1][1] == "on_disconnect"

    def test_the_other_side_is_told(self) -> None:
        _, conn_b = self.connect()
        self.b.close(conn_b)
        self.pair.run_until(lambda: self.at_a.count("on_disconnect") == 1, "the other side")

    def test_everything_that_was_taken_is_delivered_before_the_end(self) -> None:
        for size in (1, 1000, 300_000):
            conn_a, conn_b = self.connect()
            data = self.random_bytes(size)
            stream = Stream(self.at_a, conn_a, data)
            # What comes the other way meanwhile does not matter.
            Stream(self.at_b, conn_b, self.random_bytes(20_000))
            stream.on_finished = self.pair.hang_up
            self.until_gone_from(self.at_a, conn_a)
            self.until_gone()
            assert self.at_b.received[conn_b] == data

    def test_an_unfinished_send_is_not_reported_after_the_end(self) -> None:
        # The recorder notices an on_ready_to_send that comes too late.
        conn_a, _ = self.connect()
        self.at_a.send(conn_a, self.random_bytes(100_000))
        self.a.close(conn_a)
        self.pair.run(_A_WHILE)
        assert self.at_a.count("on_ready_to_send", conn_a) == 0

    def test_close_in_on_connect(self) -> None:
        for side, recorder in ((self.a, self.at_a), (self.b, self.at_b)):
            func, closed = self._close_once(side, side.on_connect.add)
            self.pair.connect()
            self.pair.run_until(partial(bool, closed), "a connection")
            assert recorder.count("on_disconnect", closed[0]) == 1
            side.on_connect.remove(func)
            self.pair.hang_up()
            self.until_gone()
        self.still_works()

    def _close_once(
        self, side: LinkInterface, add: Callable[..., object]
    ) -> tuple[Callable[..., None], list[str]]:
        closed: list[str] = []

        def close(conn_id: str, *_: object) -> None:
            if not closed:
                closed.append(conn_id)
                side.close(conn_id)

        add(close)
        return close, closed

    def test_close_in_on_recv(self) -> None:
        conn_a, conn_b = self.connect()
        self._close_once(self.b, self.b.on_recv.add)
        Stream(self.at_a, conn_a, self.random_bytes(100_000))
        self.until_gone_from(self.at_b, conn_b)
        self.until_gone_from(self.at_a, conn_a)
        assert self.at_b.count("on_recv", conn_b) == 1
        self.still_works()

    def test_close_in_on_ready_to_send(self) -> None:
        conn_a, conn_b = self.connect()
        self._close_once(self.a, self.a.on_ready_to_send.add)
        self.at_a.send(conn_a, b"hello")
        self.until_gone_from(self.at_a, conn_a)
        self.until_gone_from(self.at_b, conn_b)
        taken = [size for _, name, size in self.at_a.events if name == "on_ready_to_send"]
        assert [len(self.at_b.received[conn_b])] == taken
        self.still_works()

    def test_close_in_on_disconnect(self) -> None:
        # Of the connection itself: nothing more happens. Of another: it is closed.
        first, _ = self.connect()
        second, _ = self.connect()

        def close_both(conn_id: str) -> None:
            for other in (first, second):
                with suppress(KeyError):
                    self.a.close(other)

        self.a.on_disconnect.add(close_both)
        self.a.close(first)
        assert self.at_a.count("on_disconnect", first) == 1
        assert self.at_a.count("on_disconnect", second) == 1
        self.a.on_disconnect.remove(close_both)
        self.pair.hang_up()
        self.until_gone()
        self.still_works()

    def test_close_in_on_loop_pass_in_a_timer_and_in_call_soon(self) -> None:
        for later in (
            lambda func: self.a.on_loop_pass.add(func),
            lambda func: self.a.call_later(0.01, func),
            lambda func: self.a.call_soon(func),
        ):
            conn_a, conn_b = self.connect()

            def close(conn_id: str = conn_a) -> None:
                if conn_id in self.at_a.connections:
                    self.a.close(conn_id)

            later(close)
            self.a.wakeup_poll()
            self.until_gone_from(self.at_b, conn_b)
            self.pair.hang_up()
        self.until_gone()
        self.still_works()

    def test_both_sides_close_at_the_same_time(self) -> None:
        conn_a, conn_b = self.connect()
        self.a.close(conn_a)
        self.b.close(conn_b)
        self.pair.hang_up()
        self.until_gone()
        assert self.at_a.count("on_disconnect", conn_a) == 1
        assert self.at_b.count("on_disconnect", conn_b) == 1

    def test_a_broken_connection_is_told_to_both_sides(self) -> None:
        conn_a, conn_b = self.connect()
        self.pair.break_connections()
        self.until_gone_from(self.at_a, conn_a)
        self.until_gone_from(self.at_b, conn_b)

    def test_a_connection_breaks_in_the_middle_of_transfers(self) -> None:
        conn_a, conn_b = self.connect()
        streams = [
            Stream(recorder, conn_id, self.random_bytes(_LOT, seed))
            for recorder, conn_id, seed in ((self.at_a, conn_a, 1), (self.at_b, conn_b, 2))
        ]
        self.pair.run_until(
            lambda: self.at_a.received[conn_a] and self.at_b.received[conn_b],
            "the transfers to be under way",
        )
        self.pair.break_connections()
        self.until_gone_from(self.at_a, conn_a)
        self.until_gone_from(self.at_b, conn_b)
        for recorder, conn_id, stream in (
            (self.at_b, conn_b, streams[0]),
            (self.at_a, conn_a, streams[1]),
        ):
            assert stream.data.startswith(bytes(recorder.received[conn_id]))
            assert not stream.finished

    def test_a_broken_connection_comes_back(self) -> None:
        self.connect()
        self.pair.break_connections()
        self.until_connected(2)
        self.transfer(self.at_a, self.at_a.connections[0], b"again", self.at_b)
