"""The meter itself: every kind of fault is found, and nothing else is taken for one."""

from __future__ import annotations

import itertools
import os
import random
from collections.abc import Iterable
from pathlib import Path

import pytest

from tests.crash.meter import Findings, compare
from tests.crash.workers.records import (
    ACCEPTED,
    BEGUN,
    ENDED,
    OFFERED,
    RECEIVED,
    TOGETHER,
    Record,
    Recorder,
    Workload,
    highest_offered,
    read_records,
)

WORKLOAD = Workload(b"testing!")


def sender(*numbers: int, undecided: Iterable[int] = ()) -> list[Record]:
    """What a sender writes that gets rid of these."""
    records = []
    for number in sorted({*numbers, *undecided}):
        records.append(Record(OFFERED, 1, number))
        if number not in undecided:
            records.append(Record(ACCEPTED, 1, number))
    return records


def got(number: int, *, again: bool = False, incarnation: int = 1, **more: object) -> Record:
    return Record(RECEIVED, incarnation, number, WORKLOAD.uuid(number), redelivered=again)._replace(
        **more
    )


def process(*records: Record | int, killed: bool = False) -> list[Record]:
    """What a receiver writes from its begin to its end."""
    written = [got(record) if isinstance(record, int) else record for record in records]
    return [Record(BEGUN, 1), *written, *([] if killed else [Record(ENDED, 1)])]


def found(
    sent: list[Record], *processes: list[Record], remembers: bool = True
) -> dict[str, list[int]]:
    """What is wrong: only the lists that are not empty."""
    findings = compare(sent, itertools.chain(*processes), WORKLOAD, remembers=remembers)
    names = ("lost", "duplicated", "reordered", "foreign", "damaged", "repeated", "undecided")
    lists = {
        name: [getattr(entry, "number", entry) for entry in getattr(findings, name)]
        for name in names
    }
    return {name: numbers for name, numbers in lists.items() if numbers}


class TestWhatIsRight:
    def test_all_came(self) -> None:
        assert found(sender(1, 2, 3), process(1, 2, 3)) == {}

    def test_nothing_was_sent(self) -> None:
        assert found([], process()) == {}

    def test_over_several_processes(self) -> None:
        assert found(sender(1, 2, 3, 4), process(1, killed=True), process(2, 3), process(4)) == {}

    def test_numbers_may_be_left_out(self) -> None:
        assert found(sender(1, 4, 9), process(1, 4, 9)) == {}

    @pytest.mark.parametrize("received", [[1, 2, 3], [1, 3]])
    def test_what_the_sender_was_killed_in_may_come_or_not(self, received: list[int]) -> None:
        assert found(sender(1, 3, undecided=[2]), process(*received)) == {"undecided": [2]}

    def test_a_mark_on_something_that_is_new(self) -> None:
        """The receiver was killed between the arrival and the callback, for instance."""
        assert found(sender(1, 2), process(1, killed=True), process(got(2, again=True))) == {}

    def test_counts(self) -> None:
        findings = compare(sender(1, 2, 3, undecided=[4]), process(1, 3), WORKLOAD)
        assert (findings.accepted, findings.received) == (3, 2)


class TestLost:
    @pytest.mark.parametrize("missing", [1, 2, 3])
    def test_one(self, missing: int) -> None:
        received = [number for number in (1, 2, 3) if number != missing]
        assert found(sender(1, 2, 3), process(*received)) == {"lost": [missing]}

    def test_all(self) -> None:
        assert found(sender(1, 2)) == {"lost": [1, 2]}

    def test_damaged_data_are_no_message(self) -> None:
        assert found(sender(1, 2), process(1, got(2, damaged=True))) == {
            "lost": [2],
            "damaged": [2],
        }


class TestDuplicated:
    def test_in_one_process(self) -> None:
        assert found(sender(1, 2), process(1, 1, 2)) == {"duplicated": [1]}

    def test_a_mark_alone_is_no_excuse(self) -> None:
        assert found(sender(1, 2), process(1, got(1, again=True), 2)) == {"duplicated": [1]}

    def test_each_record_counts(self) -> None:
        assert found(sender(1), process(1, 1, 1)) == {"duplicated": [1, 1]}

    def test_a_late_one_is_not_reordered_too(self) -> None:
        assert found(sender(1, 2), process(1, 2, 1)) == {"duplicated": [1]}

    def test_a_restart_alone_is_no_excuse(self) -> None:
        again = process(got(1, again=True), 2)
        assert found(sender(1, 2), process(1), again) == {"duplicated": [1]}

    def test_without_a_mark(self) -> None:
        again = process(1, 2)
        assert found(sender(1, 2), process(1, killed=True), again) == {"duplicated": [1]}

    def test_another_one_than_the_last(self) -> None:
        again = process(got(1, again=True), 3)
        assert found(sender(1, 2, 3), process(1, 2, killed=True), again) == {"duplicated": [1]}

    def test_the_last_one_but_not_at_once(self) -> None:
        again = process(2, got(1, again=True))
        assert found(sender(1, 2), process(1, killed=True), again) == {"duplicated": [1]}

    def test_the_last_one_a_second_time(self) -> None:
        again = process(got(1, again=True), got(1, again=True))
        assert found(sender(1), process(1, killed=True), again) == {
            "duplicated": [1],
            "repeated": [1],
        }

    def test_only_one_of_the_last(self) -> None:
        again = process(got(2, again=True), got(3, again=True))
        assert found(sender(1, 2, 3), process(1, 2, 3, killed=True), again) == {
            "duplicated": [2, 3],
        }


class TestRepeated:
    """The one excuse: the receiver was killed in the callback of this message."""

    def test_once(self) -> None:
        again = process(got(2, again=True), 3)
        assert found(sender(1, 2, 3), process(1, 2, killed=True), again) == {"repeated": [2]}

    def test_killed_in_the_same_callback_again_and_again(self) -> None:
        again = process(got(1, again=True), killed=True)
        assert found(sender(1), process(1, killed=True), again, again) == {"repeated": [1, 1]}

    def test_killed_before_anything_came(self) -> None:
        again = process(got(1, again=True))
        assert found(sender(1), process(1, killed=True), process(killed=True), again) == {
            "repeated": [1]
        }

    def test_ended_before_anything_came(self) -> None:
        again = process(got(1, again=True))
        assert found(sender(1), process(1, killed=True), process(), again) == {"repeated": [1]}

    def test_not_by_a_kill_long_ago(self) -> None:
        third = process(got(2, again=True))
        assert found(sender(1, 2), process(1, killed=True), process(2), third) == {
            "duplicated": [2]
        }


class TestReceiverThatForgets:
    """Without a storage, a new process can't know what an earlier one got."""

    def test_any_number_again(self) -> None:
        again = process(got(2, again=True), got(3, again=True), 4)
        received = process(1, 2, 3, killed=True)
        assert found(sender(1, 2, 3, 4), received, again, remembers=False) == {"repeated": [2, 3]}

    def test_but_marked(self) -> None:
        again = process(2, got(3, again=True))
        received = process(1, 2, 3, killed=True)
        assert found(sender(1, 2, 3), received, again, remembers=False) == {
            "duplicated": [2],
            "repeated": [3],
        }

    def test_but_in_order(self) -> None:
        again = process(got(3, again=True), got(2, again=True))
        received = process(1, 2, 3, killed=True)
        assert found(sender(1, 2, 3), received, again, remembers=False) == {
            "duplicated": [2],
            "repeated": [3],
        }

    def test_but_not_in_the_same_process(self) -> None:
        received = process(1, got(1, again=True))
        assert found(sender(1), received, remembers=False) == {"duplicated": [1]}

    def test_but_not_without_a_kill(self) -> None:
        again = process(got(1, again=True))
        assert found(sender(1), process(1), again, remembers=False) == {"duplicated": [1]}


class TestReordered:
    def test_two_exchanged(self) -> None:
        assert found(sender(1, 2, 3), process(1, 3, 2)) == {"reordered": [2]}

    def test_one_that_comes_too_late(self) -> None:
        assert found(sender(1, 2, 3, 4), process(2, 3, 4, 1)) == {"reordered": [1]}

    def test_one_that_comes_too_early(self) -> None:
        """Seen from there all those behind it are late: counted by what came, not by a guess."""
        assert found(sender(1, 2, 3, 4), process(4, 1, 2, 3)) == {"reordered": [1, 2, 3]}

    def test_over_a_restart(self) -> None:
        assert found(sender(1, 2), process(2, killed=True), process(1)) == {"reordered": [1]}

    def test_an_undecided_one(self) -> None:
        assert found(sender(1, 3, undecided=[2]), process(1, 3, 2)) == {
            "reordered": [2],
            "undecided": [2],
        }


class TestForeign:
    def test_never_sent(self) -> None:
        assert found(sender(1), process(1, 7)) == {"foreign": [7]}

    def test_with_the_identifier_of_another(self) -> None:
        other = got(2, uuid=WORKLOAD.uuid(1))
        assert found(sender(1, 2), process(1, other)) == {"foreign": [2], "lost": [2]}


class TestTogether:
    """Messages that are to be accepted all or none."""

    @staticmethod
    def sent(*groups: tuple[int, ...], accepted: tuple[int, ...]) -> list[Record]:
        records = []
        for group in groups:
            records.append(Record(TOGETHER, 1, len(group)))
            records += [Record(OFFERED, 1, number) for number in group]
        return records + [Record(ACCEPTED, 1, number) for number in accepted]

    def test_all(self) -> None:
        sent = self.sent((1, 2), (3, 4), accepted=(1, 2, 3, 4))
        assert compare(sent, process(1, 2, 3, 4), WORKLOAD).problems() == []

    @pytest.mark.parametrize("came", [(), (3, 4)])
    def test_all_or_none_of_those_that_are_undecided(self, came: tuple[int, ...]) -> None:
        sent = self.sent((1, 2), (3, 4), accepted=(1, 2))
        assert compare(sent, process(1, 2, *came), WORKLOAD).problems() == []

    @pytest.mark.parametrize("came", [3, 4])
    def test_one_without_the_others(self, came: int) -> None:
        sent = self.sent((1, 2), (3, 4), accepted=(1, 2))
        assert compare(sent, process(1, 2, came), WORKLOAD).problems() == [f"1 torn: {came}"]

    def test_one_of_those_that_were_never_offered_as_a_whole(self) -> None:
        sent = [Record(TOGETHER, 1, 3), Record(OFFERED, 1, 1), Record(BEGUN, 2)]
        sent += [Record(OFFERED, 2, 2), Record(ACCEPTED, 2, 2)]
        assert compare(sent, process(2), WORKLOAD).problems() == []
        assert compare(sent, process(1, 2), WORKLOAD).problems() == ["1 torn: 1"]


def test_the_problems_in_words() -> None:
    assert Findings(accepted=3, undecided=[1], repeated=[got(2)]).problems() == []
    findings = compare(sender(*range(1, 30)), process(2, 1), WORKLOAD)
    assert findings.problems() == [
        "27 lost: 3, 4, 5, 6, 7, 8, 9, 10 ...",
        "1 reordered: 1",
    ]
    assert str(findings).startswith("accepted 29, received 2, ")


@pytest.mark.parametrize("seed", range(20))
def test_any_mixture_of_faults_is_counted_to_the_number(seed: int) -> None:
    rng = random.Random(seed)
    numbers = list(range(1, 200))
    lost = set(rng.sample(numbers, rng.randrange(10)))
    arrived = [number for number in numbers if number not in lost]
    duplicated = rng.sample(arrived[:-1], rng.randrange(10))
    received: list[int] = []
    for number in arrived:
        received += [number, number] if number in duplicated else [number]
    late = rng.sample([n for n in arrived[:-1] if n not in duplicated], rng.randrange(10))
    for number in late:
        received.remove(number)
    received += sorted(late)
    expected = {
        "lost": sorted(lost),
        "duplicated": sorted(duplicated),
        "reordered": sorted(late),
    }
    assert found(sender(*numbers), process(*received)) == {k: v for k, v in expected.items() if v}


class TestRecords:
    def test_are_read_as_they_were_written(self, tmp_path: Path) -> None:
        path = tmp_path / "records"
        for incarnation in (1, 2):
            recorder = Recorder(str(path), incarnation)
            recorder.write(BEGUN)
            recorder.write(RECEIVED, 2**40, b"u" * 16, 200_000, redelivered=True)
            recorder.write(RECEIVED, 7, damaged=True)
            recorder.close()
        received = Record(RECEIVED, 1, 2**40, b"u" * 16, 200_000, True, False)
        damaged = Record(RECEIVED, 1, 7, damaged=True)
        first = [Record(BEGUN, 1), received, damaged]
        assert list(read_records(path)) == first + [r._replace(incarnation=2) for r in first]
        assert list(read_records(path, 4)) == [r._replace(incarnation=2) for r in first[1:]]

    def test_of_a_file_that_is_not_there(self, tmp_path: Path) -> None:
        assert list(read_records(tmp_path / "records")) == []

    def test_fill_a_page_without_a_rest(self, tmp_path: Path) -> None:
        recorder = Recorder(str(tmp_path / "records"), 1)
        recorder.write(BEGUN)
        recorder.close()
        assert 4096 % os.path.getsize(tmp_path / "records") == 0

    def test_a_new_process_goes_on_behind_what_was_offered(self, tmp_path: Path) -> None:
        path = tmp_path / "records"
        assert highest_offered(path) == 0
        recorder = Recorder(str(path), 1)
        recorder.write(BEGUN)
        for number in (1, 2):
            recorder.write(OFFERED, number)
        recorder.write(ACCEPTED, 1)
        recorder.close()
        assert highest_offered(path) == 2


class TestWorkload:
    def test_is_known_again(self) -> None:
        for number in (1, 2, 300, 2**40):
            assert WORKLOAD.number(WORKLOAD.data(number)) == (number, False)
            assert len(WORKLOAD.data(number)) == WORKLOAD.size(number)

    def test_every_damage_is_seen(self) -> None:
        data = WORKLOAD.data(5)
        other = WORKLOAD.data(6)
        for damaged in (
            b"",
            data[:-1],
            data + b"x",
            data[:20] + bytes([data[20] ^ 1]) + data[21:],
            data[:12] + other[12:],
        ):
            assert WORKLOAD.number(damaged)[1]

    def test_of_another_run_is_damaged(self) -> None:
        assert Workload(b"another!").number(WORKLOAD.data(5))[1]

    def test_has_all_sizes(self) -> None:
        sizes = [WORKLOAD.size(number) for number in range(1, 1001)]
        assert 800 < sum(size < 1000 for size in sizes) < 960
        assert 40 < sum(1000 <= size < 100_000 for size in sizes) < 160
        assert 2 < sum(size > 100_000 for size in sizes) < 30
