"""Carries out the plan of a history with whole stacks on a simulated network.

A :class:`World` makes happen what a :class:`~tests.simulation.plan.Plan` says
and tells the :class:`~tests.simulation.checker.Checker` of all that comes of
it. After the faults it lets everything calm down, and looks whether anything is
left behind.
"""

from __future__ import annotations

import random
import traceback
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from unittest.mock import patch

from snakemq import _holding, _inbox, _incoming, _queue, _writer, messaging
from snakemq._core.features import DeliveryFeature, Feature
from snakemq.exceptions import QueueFull, StorageError
from snakemq.message import FLAG_PERSISTENT, Message
from snakemq.testing import Fault, FaultPlan, LinkCrashed, SimNetwork
from tests.simulation.checker import Checker
from tests.simulation.peer import Peer, key_of
from tests.simulation.plan import (
    ACTIVE,
    Burst,
    FullDisk,
    Fuse,
    Kill,
    MessagePlan,
    Plan,
)
from tests.simulation.records import (
    BACKUP,
    CRASH,
    LOST,
    POWER,
    SAME,
    STOP,
    Entry,
)

#: How long it may take until everything is quiet after that. Connecting again
#: takes up to 30 s, and several attempts may fail at first.
CALM = 600.0

#: When TCP notices that the other machine does not know a connection any more.
PATIENCE = 60.0


class World:
    """A world made from a plan. :meth:`run` returns what is wrong with it."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.rng = random.Random(plan.seed ^ 0x5EED)
        self.network = SimNetwork(
            self.rng.getrandbits(32), conditions=plan.conditions, loop_delay=plan.loop_delay
        )
        #: all is quiet, users do nothing any more
        self.over = False
        self.events: list[tuple[object, ...]] = []
        self.messages: dict[bytes, Message] = {}
        self._batches = 0
        self.window = plan.window or (8192, 16 * 1024 * 1024)
        self.peers = {peer.name: Peer(self, peer) for peer in plan.peers}
        self.checker = Checker(
            self.network.time,
            {name: peer.traits for name, peer in self.peers.items()},
            keep=self.window[0],
        )
        for peer in self.peers.values():
            peer.start()
        for one, other in plan.dials:
            self.peers[one].stack.connect(self.peers[other].stack, 1.0)
        self.ways = sorted({*plan.dials, *((other, one) for one, other in plan.dials)})
        for step in plan.steps:
            self._plan_step(step)

    @property
    def problems(self) -> list[str]:
        """What is wrong."""
        return self.checker.problems

    def note(self, *what: object) -> None:
        """Something happens."""
        self.events.append((self.network.now, *what))

    def number(self, receiver: str, sender: str, uuid: bytes) -> str:
        """Which message that is, for the story."""
        entries = self.checker.way(sender, receiver).by_uuid.get(uuid, [])
        return "/".join(str(entry.number) for entry in entries)

    def later(self, delay: float, func: Callable[[], object]) -> None:
        """Do something after so many seconds."""
        self.network.call_later(delay, func)

    def _plan_step(self, step: object) -> None:
        if isinstance(step, Burst):
            self.later(step.at, lambda: self.send(step.sender, step.messages, batch=step.batch))
        elif isinstance(step, Kill):
            self.later(step.at, lambda: self._kill(step))
        elif isinstance(step, FullDisk):
            self.later(step.at, lambda: self._fill_disk(step.peer, True))
            self.later(step.at + step.lasts, lambda: self._fill_disk(step.peer, False))
        elif isinstance(step, Fuse):
            self.later(step.at, lambda: self.peers[step.peer].light(step))
        elif isinstance(step, Fault):
            FaultPlan((step,)).start(self.network, crash=_never, restart=_never)
            self.later(
                step.at,
                lambda: self.note(
                    "the network:", step.kind, step.a, step.b, f"for {step.lasts:.3f} s"
                ),
            )

    # Sending

    def any_message(self, receiver: str) -> MessagePlan:
        """What a callback sends."""
        rng = self.rng
        return MessagePlan(receiver, 10, rng.choice((None, 0.0, 2.0)), rng.random() < 0.5)

    def send(self, sender: str, plans: Sequence[MessagePlan], *, batch: bool) -> None:
        """Have messages sent, unless the sender is not running."""
        peer = self.peers[sender]
        if not peer.life.alive:
            return
        pairs: list[tuple[MessagePlan, Message]] = []
        for plan in plans:
            message = self._make_message(sender, plan)
            pairs.append((plan, message))
            for _ in range(1, plan.times):
                if self.plan.kind != "calm":
                    # Another one with the same uuid: so it can be told which is which.
                    message = self._make_message(sender, plan, message.uuid)
                pairs.append((plan, message))
        if batch:
            self._batches += 1
            number = self._batches
            entries = [self._entry(peer, plan, message, number) for plan, message in pairs]
            self._hand_over(
                peer,
                entries,
                lambda: peer.stack.messaging.send_messages(
                    [(plan.receiver, message) for plan, message in pairs]
                ),
            )
            return
        for plan, message in pairs:
            if not peer.life.alive:
                return
            self._hand_over(
                peer, [self._entry(peer, plan, message, None)], self._sender(peer, plan, message)
            )

    @staticmethod
    def _sender(peer: Peer, plan: MessagePlan, message: Message) -> Callable[[], object]:
        send = peer.stack.messaging.send_message
        if plan.urgent:
            return lambda: send(plan.receiver, message, urgent=True)
        return lambda: send(plan.receiver, message)

    def _make_message(self, sender: str, plan: MessagePlan, uuid: bytes = b"") -> Message:
        key = b"%d" % len(self.messages)
        uuid = uuid or f"{sender}{plan.receiver}".encode() + key
        if not plan.short:
            uuid = uuid.ljust(16, b".")
        flags = FLAG_PERSISTENT if plan.persistent else 0
        message = Message(key + b":" + bytes(plan.size), plan.ttl, flags, uuid)
        self.messages[key] = message
        return message

    def _entry(self, peer: Peer, plan: MessagePlan, message: Message, batch: int | None) -> Entry:
        entry = self.checker.sending(
            peer.name,
            plan.receiver,
            key_of(message.data),
            uuid=message.uuid,
            persistent=plan.persistent,
            ttl=plan.ttl,
            urgent=plan.urgent and batch is None,
            offline=plan.ttl == 0 and not peer.stack.messaging.is_connected(plan.receiver),
            batch=batch,
        )
        self.note(peer.name, "sends to", plan.receiver, entry, f"{plan.size} bytes")
        return entry

    def _hand_over(self, peer: Peer, entries: list[Entry], send: Callable[[], object]) -> None:
        inside = peer.stack.link.is_inside_loop()
        outcome = "accepted"
        try:
            send()
        except QueueFull:
            outcome = "refused"
            if peer.plan.limit is None:
                self.checker.wrong(f"{peer.name}: a queue without a limit is full")
        except StorageError:
            outcome = "refused"
            if not peer.disk_is_full:
                self.checker.wrong(f"{peer.name}: its disk is full")
        except LinkCrashed:
            outcome = "crashed"
            if inside:
                raise
        finally:
            for entry in entries:
                entry.outcome = outcome
            if outcome != "accepted":
                self.note(peer.name, outcome, [entry.number for entry in entries])

    def _fill_disk(self, name: str, full: bool) -> None:
        self.note(name, "has a full disk" if full else "has room on its disk again")
        self.peers[name].disk_is_full = full

    # Ends and beginnings

    def _kill(self, kill: Kill) -> None:
        peer = self.peers[kill.peer]
        if kill.how == STOP:
            self._stop(peer, kill)
        else:
            self.crash(kill.peer, kill.how, silent=kill.silent, flush=kill.flush, kill=kill)

    def crash(
        self,
        name: str,
        how: str = CRASH,
        *,
        silent: bool = False,
        flush: bool = False,
        kill: Kill | None = None,
    ) -> None:
        """A process ends; a later restart is certain."""
        peer = self.peers[name]
        if not peer.life.alive:
            return
        self.note(name, "dies:", how, *(["silently"] if silent else []))
        self._ended(peer, how, kill)
        if peer.stack.running:
            peer.stack.crash(silent, flush)

    def _ended(self, peer: Peer, how: str, kill: Kill | None) -> None:
        peer.life.alive = False
        self.checker.ended(peer.name, how)
        if how == POWER:
            peer.disk.fail_power(self.rng)
        down = peer.plan.down if kill is None else kill.down
        self.later(down, lambda: self._restart(peer, SAME if kill is None else kill.disk))

    def _stop(self, peer: Peer, kill: Kill) -> None:
        if not peer.life.alive:
            return
        self.note(peer.name, "is stopped")
        try:
            peer.stack.close()
        except LinkCrashed:
            return
        self._ended(peer, STOP, kill)

    def _restart(self, peer: Peer, disk: str) -> None:
        if peer.life.alive:
            return
        if disk == LOST:
            peer.disk.revert(0)
        elif disk == BACKUP:
            peer.disk.revert(self.rng.randint(0, len(peer.disk)))
        peer.start(disk)

    # The end

    def run(self) -> list[str]:
        """Let it all happen.

        :returns: what is wrong, empty if nothing is
        """
        try:
            with small_window(self.plan.window):
                self._run()
        finally:
            for peer in self.peers.values():
                peer.disk.close()
        return self.problems

    def _run(self) -> None:
        self.network.run(ACTIVE)
        self.network.heal()
        if self._calm_down() and (not self.plan.retries_dead or self._retry_dead()):
            self._end_misbehaviour()
            self._look_for_dead_letters()
            self.checker.finish()
            self._check_idle()
            self._check_end()

    def _end_misbehaviour(self) -> None:
        self.over = True
        for peer in self.peers.values():
            peer.life.fuse = None
            peer.disk_is_full = False

    def _calm_down(self) -> bool:
        start = self.network.now
        while self.network.now < start + CALM:
            self.network.run(2.0)
            if self._quiet() and self.network.run_until_idle(timeout=2.0) and self._quiet():
                return True
            if self.network.now > start + PATIENCE:
                # A connection to a machine that vanished stays until something
                # is sent on it, if there is no keepalive.
                self.network.probe()
        self.checker.wrong(f"it does not get quiet: {self._waiting()}")
        return False

    def _waiting(self) -> list[str]:
        return [
            f"{sender} to {receiver}: connected={messaging.is_connected(receiver)} "
            f"queued={messaging.queued_messages(receiver)} "
            f"inbox={self._in_inbox(self.peers[receiver])}"
            for sender, receiver in self.ways
            for messaging in [self.peers[sender].stack.messaging]
        ]

    def _quiet(self) -> bool:
        if any(not peer.life.alive or self._in_inbox(peer) for peer in self.peers.values()):
            return False
        for sender, receiver in self.ways:
            messaging = self.peers[sender].stack.messaging
            if not messaging.is_connected(receiver) or messaging.queued_messages(receiver):
                return False
        return True

    @staticmethod
    def _in_inbox(peer: Peer) -> int:
        return len(peer.disk.content.get_inbox())

    def _retry_dead(self) -> bool:
        """Try the dead letters again, now that nothing fails any more."""
        self._end_misbehaviour()
        for peer in self.peers.values():
            for letter in peer.disk.content.get_dead():
                self.note(peer.name, "tries again", letter.ident, key_of(letter.message.data))
                self.checker.retried(peer.name, letter.ident, key_of(letter.message.data))
            if peer.plan.durable:
                peer.stack.messaging.inbox.retry_dead_letters()
        return self._calm_down()

    def _look_for_dead_letters(self) -> None:
        for peer in self.peers.values():
            for letter in peer.disk.content.get_dead():
                self.checker.buried(
                    peer.name, letter.ident, key_of(letter.message.data), letter.attempts
                )

    def _check_idle(self) -> None:
        # An acknowledgement may wait a moment for more, and the storage is
        # looked after when nothing was written for a while.
        self.network.run(3.0)
        for peer in self.peers.values():
            # What did not say who it is does not stay for ever.
            connections = len(peer.stack.messaging._connections)
            unidentified = connections - len(peer.life.connected)
            timers = unidentified
            if peer.plan.keepalive is not None:
                timers += connections
            found = peer.stack.link.pending_timers
            # One that has just been made may still wait for the throttle.
            more = unidentified if peer.plan.throttle is not None else 0
            if not timers <= found <= timers + more:
                self.checker.wrong(f"{peer.name}: {found} timers are left, not {timers}")
            calls: list[int] = []
            peer.stack.messaging.call_soon(calls.append, 1)
            self.network.run_until_idle()
            if not calls:
                self.checker.wrong(f"{peer.name}: the loop is dead")

    def _check_end(self) -> None:
        """Part all of them, and look for what is left."""
        for peer in self.peers.values():
            for address in list(peer.stack._connectors):
                peer.stack.link.del_connector(address)
        self.network.run(20.0)
        self.network.probe()
        self.network.run(1.0)
        if self.network.connections:
            self.checker.wrong(f"connections are left: {self.network.connections}")
        for peer in self.peers.values():
            left = Counter(self._left_behind(peer))
            if +left:
                self.checker.wrong(f"{peer.name}: left behind: {dict(+left)}")
        for peer in self.peers.values():
            peer.stack.close()

    def _left_behind(self, peer: Peer) -> dict[str, int]:
        stack = peer.stack
        content = peer.disk.content
        return {
            "connected peers": len(peer.life.connected),
            "link connections": len(stack.link.connections),
            "packeter connections": len(stack.packeter._connections),
            "throttle connections": len(getattr(stack.packeter.link, "_connections", ())),
            "messaging connections": len(stack.messaging._connections),
            "messaging peers": len(stack.messaging.connected_peers()),
            "queues": len(stack.messaging.queues_manager),
            "timers": stack.link.pending_timers,
            "stored messages": sum(len(content.get_items(name)) for name in content.get_queues()),
            "messages in the inbox": self._in_inbox(peer),
        }

    def story(self) -> str:
        """All that happened, a line for each."""
        return "\n".join(
            f"{when:10.4f}  " + " ".join(str(word) for word in what) for when, *what in self.events
        )


@contextmanager
def small_window(window: tuple[int, int] | None) -> Iterator[None]:
    """Peers allow each other so little to be unacknowledged, and remember as little.

    Their inboxes are as small, and what they keep in memory of what is stored.
    """
    if window is None:
        yield
        return
    feature = DeliveryFeature(*window)
    with (
        patch.object(_incoming, "WINDOW", feature),
        patch.object(_incoming, "_ACK_MESSAGES", max(window[0] // 4, 1)),
        patch.object(_incoming, "_ACK_BYTES", max(window[1] // 4, 1)),
        patch.object(messaging, "_FEATURES", {Feature.DELIVERY: feature.encode()}),
        patch.object(_holding, "_LIMIT_WITH_WINDOW", 4096 + 2 * window[1]),
        patch.object(_inbox, "INBOX_MESSAGES", window[0]),
        patch.object(_inbox, "INBOX_BYTES", window[1]),
        patch.object(_queue, "PAGE_MESSAGES", max(window[0] // 2, 1)),
        patch.object(_queue, "PAGE_BYTES", window[1]),
        patch.object(_queue, "WINDOW_MESSAGES", window[0]),
        patch.object(_queue, "WINDOW_BYTES", window[1]),
        patch.object(_queue, "_EXPIRED_AT_ONCE", 2),
        patch.object(_writer, "MAX_UNSYNCED", window[0] // 2),
    ):
        yield


def problems_of(plan: Plan, world: World | None = None) -> list[str]:
    """What is wrong with the history of a plan.

    :param world: where it is to happen; a new one by default
    """
    try:
        if world is None:
            world = World(plan)
        return world.run()
    except Exception as exc:
        found = world.problems if world is not None else []
        where = traceback.extract_tb(exc.__traceback__)[-1]
        return [*found, f"{type(exc).__name__}: {exc} ({where.name}, line {where.lineno})"]


def _never(*args: object) -> None:
    raise AssertionError("a fault of the network that is a crash")
