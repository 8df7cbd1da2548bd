"""The checker of histories, with histories that are made up: each promise can be seen to break."""

from __future__ import annotations

from typing import Any

import pytest

from tests.simulation.checker import Checker
from tests.simulation.records import (
    BACKUP,
    CRASH,
    LOST,
    POWER,
    SAME,
    STOP,
    Delivery,
    Entry,
    OfflineMeter,
    Traits,
)

FULL = Traits(keeps=True, remembers=True)
NOTHING = Traits()
DURABLE = Traits(keeps=True, remembers=True, durable=True, max_attempts=3, retry_delay=1.0)


class Tale:
    """What happens between a sender, a, and a receiver, b, and the time at which it does."""

    def __init__(self, receiver: Traits = FULL, sender: Traits = FULL) -> None:
        self.now = 0.0
        self.checker = Checker(lambda: self.now, {"a": sender, "b": receiver})
        self.checker.started("a")
        self.checker.started("b")

    def after(self, seconds: float) -> Tale:
        self.now += seconds
        return self

    def connect(self) -> Tale:
        self.checker.connected("a", "b")
        return self

    def disconnect(self) -> Tale:
        self.checker.disconnected("a", "b")
        return self

    def send(self, uuid: bytes, outcome: str = "accepted", **options: Any) -> Entry:
        options.setdefault("persistent", True)
        entry = self.checker.sending("a", "b", uuid, **options)
        entry.outcome = outcome
        return entry

    def receive(self, uuid: bytes, outcome: str = "returned", **options: Any) -> Delivery:
        delivery = self.checker.delivered("b", "a", uuid, **options)
        if outcome != "running":
            self.checker.done(delivery, outcome)
        return delivery

    def acknowledge(self, *uuids: bytes) -> None:
        """All that follows when the receiver acknowledges messages."""
        self.checker.acknowledging("b", "a", uuids)
        for uuid in uuids:
            self.checker.reported_sent("a", "b", uuid)
            self.checker.reported_acked("a", "b", uuid)

    def deliver(self, *uuids: bytes) -> None:
        """Messages arrive and are acknowledged."""
        for uuid in uuids:
            self.receive(uuid)
        self.acknowledge(*uuids)

    def restart(self, name: str, how: str = CRASH, disk: str = SAME, **stored: list[bytes]) -> None:
        """A process ends now, and the next one starts at once."""
        self.checker.ended(name, how)
        self.checker.started(name, disk, stored)

    def wrong(self) -> str:
        """All that is wrong so far."""
        return "\n".join(self.checker.problems)

    def end(self) -> str:
        """All that is wrong when nothing more happens."""
        self.checker.finish()
        return self.wrong()


def connected(receiver: Traits = FULL, sender: Traits = FULL) -> Tale:
    return Tale(receiver, sender).connect()


class TestLoss:
    def test_all_is_well(self) -> None:
        tale = connected()
        tale.send(b"1")
        tale.send(b"2", persistent=False)
        tale.deliver(b"1", b"2")
        assert tale.end() == ""

    def test_a_message_that_never_comes(self) -> None:
        tale = connected()
        tale.send(b"1")
        assert "message 0 (persistent, for ever, sent at 0.000) is lost" in tale.end()

    def test_a_transient_one_goes_with_its_sender(self) -> None:
        tale = connected()
        tale.send(b"1", persistent=False)
        tale.restart("a")
        assert tale.end() == ""

    def test_a_persistent_one_without_a_storage_too(self) -> None:
        tale = connected(sender=NOTHING)
        tale.send(b"1")
        tale.restart("a")
        assert tale.end() == ""

    def test_a_stored_one_does_not(self) -> None:
        for how in (CRASH, POWER, STOP):
            tale = connected()
            tale.send(b"1")
            tale.restart("a", how, b=[b"1"])
            assert "is lost" in tale.end()

    def test_except_with_the_disk(self) -> None:
        for disk in (LOST, BACKUP):
            tale = connected()
            tale.send(b"1")
            tale.restart("a", disk=disk)
            assert tale.end() == ""

    def test_what_was_refused_need_not_come(self) -> None:
        tale = connected()
        tale.send(b"1", "refused")
        assert tale.end() == ""

    def test_and_must_not(self) -> None:
        tale = connected()
        tale.send(b"1", "refused")
        tale.receive(b"1")
        assert "though it was refused" in tale.wrong()

    def test_what_was_being_sent_in_a_crash_may_come_or_not(self) -> None:
        for comes in (True, False):
            tale = connected()
            tale.send(b"1", "crashed")
            tale.restart("a", b=[b"1"] if comes else [])
            if comes:
                tale.deliver(b"1")
            assert tale.end() == ""

    def test_a_callback_that_crashed_has_not_handled_it(self) -> None:
        tale = connected()
        tale.send(b"1")
        tale.receive(b"1", "running")
        tale.restart("b")
        assert "is lost" in tale.end()

    def test_what_nobody_sent(self) -> None:
        tale = connected()
        tale.receive(b"1")
        assert "never sent" in tale.wrong()

    def test_what_expired_when_the_process_ended(self) -> None:
        tale = Tale()
        tale.send(b"1", ttl=2.0)
        tale.after(2.0)
        tale.checker.removed("a", "b", b"1")
        tale.restart("a")
        assert tale.end() == ""

    def test_but_not_before(self) -> None:
        tale = Tale()
        tale.send(b"1", ttl=2.0)
        tale.after(2.0)
        tale.checker.removed("a", "b", b"1")
        tale.after(1.0)
        tale.restart("a")
        assert "is lost" in tale.end()

    def test_of_a_batch_all_or_nothing_is_stored(self) -> None:
        for stored in ([], [b"1", b"2"], [b"1"]):
            tale = connected()
            tale.send(b"1", "crashed", batch=1)
            tale.send(b"2", "crashed", batch=1)
            tale.send(b"3", "crashed", batch=1, persistent=False)
            tale.restart("a", b=stored)
            tale.deliver(*stored)
            assert ("only a part was stored, not 1" in tale.end()) == (len(stored) == 1)

    def test_a_storage_with_something_that_nobody_sent(self) -> None:
        tale = connected()
        tale.restart("a", b=[b"1"])
        assert "nobody sent" in tale.wrong()


class TestRepetition:
    """Which messages may come again, and that they say so."""

    @staticmethod
    def again(
        receiver: Traits,
        how: str,
        outcome: str = "returned",
        *,
        later: float = 0.0,
        more: bool = False,
        confirmed: bool = False,
        marked: bool = True,
        disk: str = SAME,
        **options: Any,
    ) -> str:
        tale = connected(receiver)
        tale.send(b"1", **options)
        tale.send(b"2", **options)
        tale.receive(b"1", outcome)
        if more:
            tale.receive(b"2")
        if confirmed:
            tale.checker.acknowledging("b", "a", [b"1"])
        tale.after(later)
        tale.restart("b", how, disk)
        tale.disconnect().connect()
        tale.receive(b"1", redelivered=marked)
        return tale.wrong()

    def test_never_in_one_process(self) -> None:
        for traits in (FULL, NOTHING):
            tale = connected(traits)
            tale.send(b"1")
            tale.receive(b"1")
            tale.disconnect().connect()
            tale.receive(b"1", redelivered=True)
            assert "came again" in tale.wrong()

    def test_the_one_in_whose_callback_the_receiver_crashed(self) -> None:
        for traits in (FULL, NOTHING):
            assert self.again(traits, CRASH, "running") == ""
            assert "not marked" in self.again(traits, CRASH, "running", marked=False)

    def test_or_right_behind_it(self) -> None:
        assert self.again(FULL, CRASH) == ""
        assert "not marked" in self.again(FULL, CRASH, marked=False)

    def test_but_not_earlier_ones(self) -> None:
        assert "came again" in self.again(FULL, CRASH, more=True)
        assert "came again" in self.again(FULL, CRASH, later=1.0)

    def test_transient_ones_of_the_last_batch(self) -> None:
        assert self.again(FULL, CRASH, more=True, persistent=False) == ""
        assert "came again" in self.again(FULL, CRASH, more=True, persistent=False, later=1.0)

    def test_a_receiver_without_a_memory(self) -> None:
        assert self.again(NOTHING, CRASH, later=1.0, more=True) == ""
        assert "not marked" in self.again(NOTHING, CRASH, later=1.0, more=True, marked=False)

    def test_what_a_power_failure_took(self) -> None:
        assert self.again(FULL, POWER, more=True, later=1.0) == ""
        assert "not marked" in self.again(FULL, POWER, more=True, later=1.0, marked=False)

    def test_but_not_what_was_acknowledged(self) -> None:
        assert "came again" in self.again(FULL, POWER, more=True, later=1.0, confirmed=True)

    def test_a_power_failure_later_on(self) -> None:
        tale = connected()
        tale.send(b"1")
        tale.receive(b"1")
        tale.receive(tale.send(b"2").uuid)
        tale.restart("b")
        tale.restart("b", POWER)
        tale.receive(b"1", redelivered=True)
        assert tale.wrong() == ""

    def test_a_lost_disk_of_the_receiver(self) -> None:
        for disk in (LOST, BACKUP):
            assert self.again(FULL, STOP, more=True, later=1.0, confirmed=True, disk=disk) == ""
            assert "not marked" in self.again(FULL, STOP, later=1.0, disk=disk, marked=False)

    def test_a_restored_backup_of_the_sender(self) -> None:
        for disk in (SAME, BACKUP):
            tale = connected()
            tale.send(b"1")
            tale.deliver(b"1")
            tale.after(1.0)
            tale.restart("a", disk=disk, b=[b"1"])
            tale.connect()
            tale.receive(b"1", redelivered=True)
            assert ("came again" in tale.wrong()) == (disk == SAME)

    def test_not_after_it_was_reported_as_acknowledged(self) -> None:
        tale = connected(NOTHING)
        tale.send(b"1")
        tale.deliver(b"1")
        tale.after(1.0)
        tale.restart("b")
        tale.receive(b"1", redelivered=True)
        assert "came again" in tale.wrong()

    @pytest.mark.parametrize("how", [CRASH, POWER])
    def test_unless_its_sender_lost_power_and_so_does_not_know(self, how: str) -> None:
        for traits in (NOTHING, FULL):
            tale = connected(traits)
            tale.send(b"1")
            tale.deliver(b"1")
            tale.after(1.0)
            tale.restart("a", how)
            tale.restart("b")
            tale.connect()
            tale.receive(b"1", redelivered=True)
            assert ("came again" in tale.wrong()) == (traits == FULL or how == CRASH)

    def test_twice_in_a_row(self) -> None:
        tale = connected(NOTHING)
        tale.send(b"1")
        for _ in range(3):
            tale.receive(b"1", redelivered=tale.checker.process("b").number > 0)
            tale.after(1.0).restart("b")
        assert tale.wrong() == ""


class TestMarks:
    def test_one_that_cannot_have_come_before(self) -> None:
        tale = Tale()
        tale.send(b"1")
        tale.connect()
        tale.receive(b"1", redelivered=True)
        assert "can't have come before" in tale.wrong()

    def test_one_whose_connection_broke(self) -> None:
        tale = connected(NOTHING)
        tale.send(b"1")
        tale.disconnect().connect()
        tale.receive(b"1", redelivered=True)
        assert tale.wrong() == ""

    def test_the_receiver_has_had_the_one_before(self) -> None:
        tale = connected(NOTHING)
        tale.send(b"1")
        tale.send(b"2")
        tale.receive(b"1")
        tale.after(1.0).disconnect().connect()
        tale.receive(b"2", redelivered=True)
        assert "the receiver knows better" in tale.wrong()

    def test_but_not_since_its_restart(self) -> None:
        tale = connected(NOTHING)
        tale.send(b"1")
        tale.send(b"2")
        tale.receive(b"1")
        tale.after(1.0).restart("b")
        tale.disconnect().connect()
        tale.receive(b"2", redelivered=True)
        assert tale.wrong() == ""

    def test_one_of_an_earlier_process(self) -> None:
        tale = connected()
        tale.send(b"1")
        tale.restart("a", b=[b"1"])
        tale.connect()
        tale.receive(b"1", redelivered=True)
        assert tale.wrong() == ""


class TestTheSameTwice:
    def test_both_come(self) -> None:
        tale = connected()
        tale.send(b"1")
        tale.send(b"1")
        tale.deliver(b"1", b"1")
        assert tale.end() == ""

    def test_only_one_comes(self) -> None:
        tale = connected()
        tale.send(b"1")
        tale.send(b"1")
        tale.deliver(b"1")
        assert "message 1 (persistent, for ever, sent at 0.000) is lost" in tale.end()

    def test_a_third_one_comes(self) -> None:
        tale = connected()
        tale.send(b"1")
        tale.send(b"1")
        tale.deliver(b"1", b"1")
        tale.receive(b"1")
        assert "came again" in tale.wrong()

    def test_across_a_restart_of_the_sender_the_second_may_be_taken_for_the_first(self) -> None:
        tale = connected()
        tale.send(b"1")
        tale.send(b"1")
        tale.receive(b"1")
        tale.restart("a", b=[b"1", b"1"])
        tale.connect()
        for _ in range(2):
            tale.checker.reported_sent("a", "b", b"1")
            tale.checker.reported_acked("a", "b", b"1")
        assert tale.end() == ""

    def test_across_a_restart_nobody_can_tell_them_apart(self) -> None:
        for restarted in ("a", "b", ""):
            tale = connected()
            tale.send(b"1")
            tale.send(b"1")
            tale.receive(b"1")
            tale.receive(b"1")
            tale.after(1.0)
            if restarted:
                tale.restart(restarted, b=[b"1", b"1"] if restarted == "a" else [])
            tale.disconnect().connect()
            tale.receive(b"1", redelivered=True)
            assert ("came again; before" in tale.wrong()) == (not restarted)

    def test_the_order_of_others_between_them(self) -> None:
        tale = connected()
        tale.send(b"1")
        tale.send(b"2")
        tale.send(b"1")
        tale.deliver(b"1", b"2", b"1")
        assert tale.end() == ""

    def test_both_come_again(self) -> None:
        tale = connected(NOTHING)
        tale.send(b"1")
        tale.send(b"2")
        tale.send(b"1")
        for uuid in (b"1", b"2", b"1"):
            tale.receive(uuid)
        tale.restart("b")
        tale.disconnect().connect()
        for uuid in (b"1", b"2", b"1"):
            tale.receive(uuid, redelivered=True)
        tale.acknowledge(b"1", b"2", b"1")
        assert tale.end() == ""


class TestOrder:
    def test_first_deliveries(self) -> None:
        tale = connected()
        tale.send(b"1")
        tale.send(b"2")
        tale.receive(b"2")
        tale.receive(b"1")
        assert "came for the first time after 1" in tale.wrong()

    def test_also_across_a_restart_of_the_receiver(self) -> None:
        tale = connected()
        tale.send(b"1")
        tale.send(b"2")
        tale.receive(b"2")
        tale.restart("b")
        tale.receive(b"1", redelivered=True)
        assert "came for the first time after 1" in tale.wrong()

    def test_of_repetitions(self) -> None:
        tale = connected(NOTHING)
        tale.send(b"1")
        tale.send(b"2")
        tale.receive(b"1")
        tale.receive(b"2")
        tale.restart("b")
        tale.receive(b"2", redelivered=True)
        tale.receive(b"1", redelivered=True)
        assert "came after 1" in tale.wrong()

    def test_urgent_ones_overtake_others(self) -> None:
        tale = connected()
        tale.send(b"1")
        tale.send(b"2", ttl=0.0, urgent=True)
        tale.deliver(b"2", b"1")
        assert tale.end() == ""

    def test_and_keep_their_own_order(self) -> None:
        tale = connected()
        tale.send(b"1", ttl=0.0, urgent=True)
        tale.send(b"2", ttl=0.0, urgent=True)
        tale.receive(b"2")
        tale.receive(b"1")
        assert "came for the first time after 1" in tale.wrong()

    def test_of_a_durable_receiver(self) -> None:
        tale = connected(DURABLE)
        tale.send(b"1")
        tale.send(b"2")
        tale.receive(b"1", "raised")
        tale.receive(b"2")
        tale.after(1.0).receive(b"1", attempts=2)
        assert "came after 1" in tale.wrong()


class TestReports:
    def test_acknowledged_before_the_callback_has_run(self) -> None:
        tale = connected()
        tale.send(b"1")
        tale.receive(b"1", "running")
        tale.checker.reported_sent("a", "b", b"1")
        tale.checker.reported_acked("a", "b", b"1")
        assert "but is not delivered" in tale.wrong()

    def test_an_acknowledgement_that_leaves_too_early(self) -> None:
        tale = connected()
        tale.send(b"1")
        tale.checker.acknowledging("b", "a", [b"1"])
        assert "but was not handled" in tale.wrong()

    def test_an_acknowledgement_of_what_was_dropped_and_came_late(self) -> None:
        tale = connected()
        tale.send(b"1", ttl=0.0)
        tale.disconnect()
        tale.checker.reported_dropped("a", "b", b"1")
        tale.checker.acknowledging("b", "a", [b"1"])
        assert tale.wrong() == ""

    def test_an_acknowledgement_of_what_is_not_in_the_inbox(self) -> None:
        tale = connected(DURABLE)
        tale.send(b"1")
        tale.receive(b"1", "running")
        tale.checker.acknowledging("b", "a", [b"1"])
        assert "but was not handled" in tale.wrong()
        tale = connected(DURABLE)
        tale.send(b"1")
        tale.checker.stored_in_inbox("b", "a", b"1")
        tale.checker.acknowledging("b", "a", [b"1"])
        assert tale.wrong() == ""

    def test_sent_twice(self) -> None:
        tale = connected()
        tale.send(b"1")
        tale.checker.reported_sent("a", "b", b"1")
        assert tale.wrong() == ""
        tale.checker.reported_sent("a", "b", b"1")
        assert "reported as sent more than once" in tale.wrong()

    def test_once_by_each_process(self) -> None:
        tale = connected()
        tale.send(b"1")
        tale.checker.reported_sent("a", "b", b"1")
        tale.restart("a", b=[b"1"])
        tale.connect().deliver(b"1")
        assert tale.end() == ""

    def test_by_a_process_that_does_not_have_it(self) -> None:
        tale = connected()
        tale.send(b"1")
        tale.restart("a")
        tale.checker.reported_sent("a", "b", b"1")
        assert "does not have it" in tale.wrong()

    def test_acknowledged_twice(self) -> None:
        tale = connected()
        tale.send(b"1")
        tale.deliver(b"1")
        tale.checker.reported_acked("a", "b", b"1")
        assert "acknowledged more than once" in tale.wrong()

    def test_acknowledged_and_not_sent(self) -> None:
        tale = connected()
        tale.send(b"1")
        tale.receive(b"1")
        tale.checker.reported_acked("a", "b", b"1")
        assert "acknowledged before it was sent" in tale.wrong()

    def test_sent_after_it_was_acknowledged(self) -> None:
        tale = connected()
        tale.send(b"1")
        tale.receive(b"1")
        tale.checker.reported_acked("a", "b", b"1")
        tale.checker.reported_sent("a", "b", b"1")
        assert "after it was done with" in tale.wrong()

    def test_acknowledged_and_dropped(self) -> None:
        tale = connected()
        tale.send(b"1", ttl=1.0)
        tale.disconnect().after(1.0)
        tale.checker.reported_dropped("a", "b", b"1")
        tale.receive(b"1")
        tale.checker.reported_sent("a", "b", b"1")
        tale.checker.reported_acked("a", "b", b"1")
        assert "acknowledged and as dropped" in tale.wrong()

    def test_dropped_twice(self) -> None:
        tale = Tale()
        tale.send(b"1", ttl=1.0)
        tale.after(1.0)
        tale.checker.reported_dropped("a", "b", b"1")
        assert tale.wrong() == ""
        tale.checker.reported_dropped("a", "b", b"1")
        assert "dropped more than once" in tale.wrong()

    def test_nothing_at_all(self) -> None:
        tale = connected()
        tale.send(b"1")
        tale.receive(b"1")
        assert "was reported 0 times as done with" in tale.end()

    def test_nothing_of_what_was_found_in_the_storage(self) -> None:
        tale = connected()
        tale.send(b"1")
        tale.deliver(b"1")
        tale.restart("a", b=[b"1"])
        assert "was reported 0 times as done with" in tale.end()


class TestDrops:
    def test_with_its_time(self) -> None:
        tale = Tale()
        tale.send(b"1", ttl=2.0)
        tale.after(2.0)
        tale.checker.reported_dropped("a", "b", b"1")
        assert tale.end() == ""

    def test_too_early(self) -> None:
        tale = Tale()
        tale.send(b"1", ttl=2.0)
        tale.after(1.0).connect().after(5.0).disconnect()
        tale.checker.reported_dropped("a", "b", b"1")
        assert "expired too early, after 1.000 s" in tale.wrong()

    def test_too_late(self) -> None:
        tale = Tale()
        tale.send(b"1", ttl=2.0)
        tale.after(4.0)
        tale.checker.reported_dropped("a", "b", b"1")
        assert "expired too late, after 4.000 s" in tale.wrong()

    def test_the_time_while_the_process_was_down_does_not_count(self) -> None:
        tale = Tale()
        tale.send(b"1", ttl=2.0)
        tale.checker.ended("a")
        tale.after(10.0)
        tale.checker.started("a", SAME, {"b": [b"1"]})
        tale.after(1.0)
        tale.checker.reported_dropped("a", "b", b"1")
        assert "expired too early, after 1.000 s" in tale.wrong()

    def test_for_ever_is_for_ever(self) -> None:
        tale = Tale()
        tale.send(b"1")
        tale.after(100.0)
        tale.checker.reported_dropped("a", "b", b"1")
        assert "may wait for ever" in tale.wrong()

    def test_what_was_never_queued(self) -> None:
        tale = Tale()
        tale.send(b"1", ttl=0.0, offline=True)
        assert tale.end() == ""
        tale.checker.reported_dropped("a", "b", b"1")
        assert "never queued" in tale.wrong()

    def test_delivered_and_dropped(self) -> None:
        for broke in (True, False):
            tale = connected()
            tale.send(b"1", ttl=0.0)
            tale.receive(b"1")
            if broke:
                tale.disconnect()
            tale.checker.reported_dropped("a", "b", b"1")
            assert ("no connection broke" in tale.end()) == (not broke)

    def test_to_make_room(self) -> None:
        for drops in (True, False):
            tale = connected(sender=Traits(keeps=True, drops_oldest=drops))
            tale.send(b"1")
            tale.checker.removed("a", "b", b"1")
            tale.checker.reported_dropped("a", "b", b"1", "QUEUE_FULL")
            assert ("dropped to make room" in tale.end()) == (not drops)

    def test_for_a_reason_that_does_not_exist(self) -> None:
        tale = Tale()
        tale.send(b"1")
        tale.checker.reported_dropped("a", "b", b"1", "TIRED")
        assert "unknown reason, TIRED" in tale.wrong()

    def test_removed_from_the_storage_and_not_delivered(self) -> None:
        tale = connected()
        tale.send(b"1")
        tale.checker.removed("a", "b", b"1")
        assert "removed from the storage, but is not delivered" in tale.wrong()

    def test_removed_from_the_storage_where_it_never_was(self) -> None:
        tale = connected()
        tale.send(b"1", persistent=False)
        tale.checker.removed("a", "b", b"1")
        assert "where it never was" in tale.wrong()


class TestLifetime:
    def test_delivered_though_nobody_was_there(self) -> None:
        tale = Tale()
        tale.send(b"1", ttl=0.0, offline=True)
        tale.after(1.0).connect()
        tale.receive(b"1", since=1.0)
        assert "nobody was there" in tale.wrong()

    def test_delivered_after_its_time(self) -> None:
        tale = Tale()
        tale.send(b"1", ttl=2.0)
        tale.after(10.0).connect()
        tale.receive(b"1", since=10.0)
        assert "though it had waited 10.000 s" in tale.wrong()

    def test_ttl_0_ends_with_the_connection(self) -> None:
        tale = connected()
        tale.send(b"1", ttl=0.0)
        tale.after(0.5).disconnect().after(0.1).connect()
        tale.receive(b"1", since=0.6)
        assert "outlived its connection" in tale.wrong()

    def test_what_came_in_time(self) -> None:
        tale = Tale()
        tale.send(b"1", ttl=2.0)
        tale.after(1.5).connect().after(100.0)
        tale.receive(b"1", since=1.5)
        assert tale.wrong() == ""


class TestInbox:
    @staticmethod
    def tale() -> Tale:
        tale = connected(DURABLE)
        tale.send(b"1")
        tale.checker.stored_in_inbox("b", "a", b"1")
        tale.acknowledge(b"1")
        return tale

    def test_another_attempt(self) -> None:
        tale = self.tale()
        tale.receive(b"1", "raised")
        tale.after(1.0).receive(b"1", "raised", attempts=2)
        tale.after(2.0).receive(b"1", attempts=3)
        assert tale.end() == ""

    def test_too_soon(self) -> None:
        tale = self.tale()
        tale.receive(b"1", "raised")
        tale.after(0.5).receive(b"1", attempts=2)
        assert "came again after 0.500 s already" in tale.wrong()

    def test_after_it_returned(self) -> None:
        tale = self.tale()
        tale.receive(b"1")
        tale.after(1.0).receive(b"1", attempts=2)
        assert "came again" in tale.wrong()

    def test_a_wrong_count(self) -> None:
        tale = self.tale()
        tale.receive(b"1", "raised")
        tale.after(1.0).receive(b"1", attempts=1, redelivered=True)
        assert "has attempt 1, not 2" in tale.wrong()

    def test_the_count_survives_a_crash(self) -> None:
        for attempts, how in ((2, CRASH), (3, CRASH), (1, CRASH), (1, POWER)):
            tale = self.tale()
            tale.receive(b"1", "running")
            tale.restart("b", how)
            tale.receive(b"1", attempts=attempts, redelivered=True)
            assert ("has attempt" in tale.wrong()) == (attempts == 1 and how == CRASH)

    def test_the_others_do_not_come_again_after_a_crash(self) -> None:
        tale = self.tale()
        tale.receive(b"1")
        tale.receive(tale.send(b"2").uuid, "running")
        tale.restart("b")
        tale.receive(b"1", attempts=2)
        assert "came again" in tale.wrong()

    def test_but_after_a_power_failure(self) -> None:
        tale = self.tale()
        tale.receive(b"1")
        tale.after(5.0).restart("b", POWER)
        tale.receive(b"1", redelivered=True)
        assert tale.wrong() == ""

    def test_too_many_attempts(self) -> None:
        tale = self.tale()
        for attempt in range(1, 5):
            tale.after(10.0).receive(b"1", "raised", attempts=attempt)
        assert "should have been given up" in tale.wrong()

    def test_a_dead_letter(self) -> None:
        tale = self.tale()
        for attempt in range(1, 4):
            tale.after(10.0).receive(b"1", "raised", attempts=attempt)
        tale.checker.buried("b", "a", b"1", 3)
        assert tale.end() == ""

    def test_given_up_too_early(self) -> None:
        tale = self.tale()
        tale.receive(b"1", "raised")
        tale.checker.buried("b", "a", b"1", 1)
        assert "given up after 1 attempts" in tale.end()

    def test_given_up_and_not_laid_aside(self) -> None:
        tale = self.tale()
        tale.receive(b"1", "raised")
        assert "given up after its callback raised" in tale.end()

    def test_lost_after_it_was_acknowledged(self) -> None:
        for disk in (SAME, LOST):
            tale = self.tale()
            tale.restart("b", disk=disk)
            assert ("is lost" in tale.end()) == (disk == SAME)

    def test_a_dead_letter_that_nobody_sent(self) -> None:
        tale = self.tale()
        tale.checker.buried("b", "a", b"2", 3)
        tale.checker.retried("b", "a", b"3")
        assert "a dead letter that nobody sent: b'2'" in tale.wrong()
        assert "b'3' is tried again, but nobody sent it" in tale.wrong()

    def test_a_dead_letter_that_is_tried_again(self) -> None:
        tale = self.tale()
        for attempt in range(1, 4):
            tale.after(10.0).receive(b"1", "raised", attempts=attempt)
        tale.receive(tale.send(b"2").uuid)
        tale.acknowledge(b"2")
        tale.checker.retried("b", "a", b"1")
        tale.receive(b"1", attempts=1, redelivered=True)
        assert tale.end() == ""


class TestOfflineMeter:
    def test_it_runs_and_stands_still(self) -> None:
        meter = OfflineMeter()
        assert meter.at(5.0) == 0.0
        meter.set(10.0, True)
        assert meter.at(12.0) == 2.0
        meter.set(13.0, True)
        meter.set(14.0, False)
        assert meter.at(20.0) == 4.0
        meter.set(20.0, True)
        assert [meter.at(when) for when in (5.0, 11.0, 17.0, 21.0)] == [0.0, 1.0, 4.0, 5.0]
