"""What is remembered of what was received."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from snakemq._core.received import MAX_STREAMS, Received

A, B = b"stream A", b"stream B"


def uuid(number: int) -> bytes:
    return number.to_bytes(16, "big")


class TestStreams:
    def test_nothing_is_known_at_first(self) -> None:
        memory = Received(10)
        assert memory.last_number(A) is None
        assert not memory.knows_all(A)

    def test_the_last_number_of_each(self) -> None:
        memory = Received(10)
        memory.handled(A, 5, has_new=True)
        memory.handled(B, 0, has_new=True)
        memory.handled(A, 9, has_new=True)
        assert (memory.last_number(A), memory.last_number(B)) == (9, 0)

    def test_it_does_not_go_back(self) -> None:
        """What is repeated has lower numbers."""
        memory = Received(10)
        memory.handled(A, 9, has_new=True)
        memory.handled(A, 3, has_new=False)
        assert memory.last_number(A) == 9

    def test_all_is_known_of_a_stream_of_which_something_came_for_the_first_time(self) -> None:
        """Before that an earlier process may have received more."""
        memory = Received(10)
        memory.handled(A, 3, has_new=False)
        assert not memory.knows_all(A)
        memory.handled(A, 4, has_new=True)
        assert memory.knows_all(A)
        memory.handled(A, 5, has_new=False)
        assert memory.knows_all(A)
        assert not memory.knows_all(B)

    def test_the_one_not_heard_of_longest_is_forgotten(self) -> None:
        memory = Received(10)
        streams = [b"%08d" % number for number in range(MAX_STREAMS)]
        for stream in streams:
            memory.handled(stream, 1, has_new=True)
        memory.handled(streams[0], 2, has_new=True)
        memory.handled(A, 1, has_new=True)
        assert memory.last_number(streams[1]) is None
        assert [memory.last_number(s) for s in (streams[0], *streams[2:], A)] == [2, 1, 1, 1]


class TestIdentifiers:
    def test_what_came_on_an_earlier_connection_is_recognised(self) -> None:
        memory = Received(10)
        memory.begin()
        memory.add(uuid(1))
        memory.begin()
        assert memory.recognise(uuid(1))
        assert not memory.recognise(uuid(2))

    def test_once_for_each_time_it_came(self) -> None:
        """The application may send the same identifier twice on purpose."""
        memory = Received(10)
        memory.add(uuid(1))
        memory.add(uuid(1))
        memory.begin()
        assert [memory.recognise(uuid(1)) for _ in range(3)] == [True, True, False]
        memory.begin()
        assert memory.recognise(uuid(1)), "and again on the next connection"

    def test_what_an_earlier_process_knew_counts(self) -> None:
        memory = Received(10, [uuid(1), uuid(2)])
        memory.begin()
        assert len(memory) == 2
        assert memory.recognise(uuid(2))

    @pytest.mark.parametrize("known", [0, 7, 19])
    def test_at_least_so_many_are_remembered_and_at_most_twice_as_many(self, known: int) -> None:
        memory = Received(10, [uuid(number) for number in range(known)])
        for number in range(known, 100):
            memory.add(uuid(number))
            assert len(memory) < 20
        memory.begin()
        assert all(memory.recognise(uuid(number)) for number in range(90, 100))
        assert not any(memory.recognise(uuid(number)) for number in range(80))

    @given(st.lists(st.integers(0, 3), max_size=30), st.lists(st.integers(0, 3), max_size=30))
    def test_as_a_bag(self, received: list[int], again: list[int]) -> None:
        memory = Received(100)
        for number in received:
            memory.add(uuid(number))
        memory.begin()
        bag = list(received)
        for number in again:
            assert memory.recognise(uuid(number)) == (number in bag)
            if number in bag:
                bag.remove(number)

    def test_an_identifier_is_looked_for_as_a_whole(self) -> None:
        """Not somewhere in the bytes of two that are side by side."""
        memory = Received(10)
        memory.add(b"a" * 8 + b"b" * 8)
        memory.add(b"c" * 8 + b"d" * 8)
        memory.begin()
        assert not memory.recognise(b"b" * 8 + b"c" * 8)


class TestIdentifiersOfStreams:
    """What a process handled of a stream it knows by the numbers, not by the identifiers."""

    def test_an_identifier_of_the_same_stream_proves_nothing(self) -> None:
        memory = Received(10, [uuid(1)])
        memory.meet(A)
        memory.add(uuid(2))
        memory.handled(A, 0, has_new=False)
        memory.begin()
        memory.meet(A)
        assert memory.recognise(uuid(1))
        assert not memory.recognise(uuid(2))

    def test_one_of_an_earlier_stream_does(self) -> None:
        memory = Received(10)
        memory.meet(A)
        memory.add(uuid(1))
        memory.begin()
        memory.meet(B)
        assert memory.recognise(uuid(1))

    def test_a_stream_of_which_nothing_was_handled_is_not_known(self) -> None:
        memory = Received(10)
        memory.meet(A)
        assert memory.is_empty
        assert memory.last_number(A) is None
        assert not memory.knows_all(A)

    def test_trimming_does_not_move_the_border(self) -> None:
        memory = Received(4, [uuid(number) for number in range(4)])
        memory.meet(A)
        for number in (1, 10, 11, 12):
            memory.add(uuid(number))
        assert len(memory) == 4, "trimmed"
        memory.begin()
        memory.meet(A)
        assert not any(memory.recognise(uuid(number)) for number in (1, 10, 11, 12))
        memory.begin()
        memory.meet(B)
        assert all(memory.recognise(uuid(number)) for number in (1, 10, 11, 12))

    def test_what_is_left_of_the_time_before_is_recognised_after_trimming(self) -> None:
        memory = Received(4, [uuid(number) for number in range(6)])
        memory.meet(A)
        memory.add(uuid(10))
        memory.add(uuid(5))
        assert len(memory) == 4, "trimmed"
        memory.begin()
        memory.meet(A)
        assert memory.recognise(uuid(3))
        assert memory.recognise(uuid(4))
        assert not memory.recognise(uuid(10))
