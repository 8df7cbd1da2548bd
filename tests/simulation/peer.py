"""A machine of a history and the processes on it: they send, receive, misbehave and die."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from snakemq import _inbox
from snakemq._core.refusal import Refusal
from snakemq.contracts import Buffer
from snakemq.exceptions import RefusedByPeer, StorageError
from snakemq.limits import DropReason, QueueLimits, WhenFull
from snakemq.message import FLAG_PERSISTENT, Message
from snakemq.storage import QueuesStorageBase
from snakemq.storage.sqlite import SqliteQueuesStorage
from snakemq.testing import LinkCrashed, SimStack
from tests.simulation.disk import AFTER, BEFORE, Disk, DiskStorage, OldDiskStorage
from tests.simulation.plan import (
    ACTIVE,
    FullDisk,
    Fuse,
    PeerPlan,
)
from tests.simulation.records import (
    CRASH,
    POWER,
    SAME,
    Delivery,
    Traits,
)
from tests.simulation.wire import Tap

if TYPE_CHECKING:
    from tests.simulation.world import World

#: What does not work when a disk is full. (What is removed from the storage of a
#: sender is not written again; it would be sent again by the next process.)
CHANGES = frozenset(
    (
        "push",
        "push_many",
        "change_items",
        "add_received",
        "sync",
        "push_inbox",
        "advance_inbox",
        "uncount_attempt",
        "bury",
        "retry_dead",
    )
)

#: Until then callbacks raise, reply and so on. It would never get quiet otherwise.
MISBEHAVIOUR = ACTIVE + 10.0


def key_of(data: bytes) -> bytes:
    """What tells a message from all others."""
    return data.split(b":", 1)[0]


def _database() -> QueuesStorageBase:
    return SqliteQueuesStorage(":memory:")


class Injected(Exception):
    """Raised by a user's callback on purpose."""


class Life:
    """One process of a peer: it has an end, after which nothing of it may happen."""

    def __init__(self, peer: Peer) -> None:
        self.peer = peer
        self.alive = True
        self.fuse: Fuse | None = None
        self._left = 0
        #: what goes over its connections
        self.taps: dict[str, Tap] = {}
        #: since when it has them
        self.since: dict[str, float] = {}
        #: those that are paused
        self.paused: set[str] = set()
        #: on which connection a peer is connected
        self.connected: dict[str, str] = {}

    def light(self, fuse: Fuse) -> None:
        """From now on accesses to the outer world are counted."""
        self.fuse = fuse
        self._left = fuse.count

    def access(self, what: str, moment: str) -> None:
        """The process is about to do something that can be seen from outside, or did it."""
        self.check()
        if moment == BEFORE and what in CHANGES and self.peer.disk_is_full:
            raise StorageError("the disk is full")
        fuse = self.fuse
        if fuse is None or moment != fuse.moment:
            return
        self._left -= 1
        if self._left <= 0:
            self.fuse = None
            self.peer.world.note(self.peer.name, f"the fuse: {moment} {what}")
            self.peer.world.crash(self.peer.name, fuse.how, flush=fuse.flush)
            self.check()

    def check(self) -> None:
        """Do not go on in a process that is dead."""
        if not self.alive:
            raise LinkCrashed(self.peer.name)


class Peer:
    """A machine and what runs on it: sends, receives, misbehaves, dies and comes back."""

    def __init__(self, world: World, plan: PeerPlan) -> None:
        self.world = world
        self.name = plan.name
        self.plan = plan
        self.disk = Disk(_database) if world.plan.sqlite else Disk()
        #: sizes that the disk had when a copy of it was made
        self.backups: list[int] = []
        self.life = Life(self)
        self.life.alive = False
        self._fuse: Fuse | None = None  # for when it runs again
        self.disk_is_full = False
        #: numbers in its inbox, with sender and key of the message
        self._in_inbox: dict[int, tuple[str, bytes]] = {}
        # What is in the storage, by position.
        self._positions: dict[int, bytes] = {}
        self.traits = Traits(
            keeps=plan.storage != "none",
            remembers=plan.storage == "full",
            durable=plan.durable,
            max_attempts=plan.max_attempts,
            retry_delay=plan.retry_delay,
            drops_oldest=plan.limit is not None and plan.drops_oldest,
            fails=any(
                isinstance(step, FullDisk) and step.peer == plan.name for step in world.plan.steps
            ),
        )
        self.stack: SimStack

    def start(self, disk: str = SAME) -> None:
        """Start a process; for the first time, or after the end of the last one."""
        life = self.life = Life(self)
        if self._fuse is not None:
            life.light(self._fuse)
            self._fuse = None
        content = self.disk.content
        stored = {
            name: [key_of(item.data) for item in content.get_items(name)]
            for name in content.get_queues()
        }
        self.world.note(self.name, "starts", f"disk: {disk}")
        self.world.checker.started(self.name, disk, stored)
        try:
            if hasattr(self, "stack"):
                self.stack.storage = self._storage(life)
                self.stack.restart()
            else:
                self._make(life)
        except LinkCrashed:
            pass  # it is going to be started again

    def _make(self, life: Life) -> None:
        plan = self.plan
        self.stack = SimStack(
            self.world.network,
            self.name,
            storage=self._storage(life),
            throttle=plan.throttle,
            on_start=self._started,
            durable_receive=plan.durable,
        )

    def _storage(self, life: Life) -> QueuesStorageBase | None:
        if self.plan.storage == "none":
            return None
        kind = DiskStorage if self.plan.storage == "full" else OldDiskStorage
        return kind(self.disk, life.access, self._changed)

    def _changed(self, method: str, args: Sequence[Any], result: Any) -> None:
        checker = self.world.checker
        if method == "remove_items":
            for item in args[1]:
                checker.removed(self.name, args[0], key_of(item.data))
        elif method == "change_items":
            for position, (_, message) in zip(result, args[0], strict=True):
                self._positions[position] = key_of(message.data)
            for removal in args[1]:
                for position in removal.positions:
                    checker.removed(self.name, removal.queue_name, self._positions[position])
        elif method == "take_expired":
            for item in result:
                checker.removed(self.name, args[0], key_of(item.message.data))
        elif method == "push_inbox":
            for number, message in zip(result, args[1], strict=True):
                self._in_inbox[number] = (args[0], key_of(message.data))
                checker.stored_in_inbox(self.name, args[0], key_of(message.data))
            # Urgent ones, whose TTL is 0, may go over it.
            stored = sum(
                item.ident == args[0] and item.message.ttl != 0
                for item in self.disk.content.get_inbox()
            )
            if stored > _inbox.INBOX_MESSAGES + self.world.window[0]:
                checker.wrong(f"{self.name} has {stored} messages of {args[0]} in its inbox")
        elif method == "retry_dead":
            for item in result:
                self._in_inbox[item.id] = (item.ident, key_of(item.message.data))
        elif method == "advance_inbox" and args[0] is not None:
            checker.left_inbox(self.name, *self._in_inbox[args[0]])

    def light(self, fuse: Fuse) -> None:
        """The process that runs, or the next one, has a fuse."""
        if self.life.alive:
            self.life.light(fuse)
        else:
            self._fuse = fuse

    def _started(self, stack: SimStack) -> None:
        self.stack = stack
        messaging = stack.messaging
        plan = self.plan
        if plan.durable:
            messaging.inbox.max_attempts = plan.max_attempts
            messaging.inbox.retry_delay = plan.retry_delay
            messaging.inbox.max_retry_delay = plan.retry_delay * 4
        if plan.limit is not None:
            policy = WhenFull.DROP_OLDEST if plan.drops_oldest else WhenFull.REFUSE
            messaging.queue_limits = QueueLimits(
                max_messages=plan.limit, max_stored_messages=plan.limit, when_full=policy
            )
        messaging.keepalive_interval = self.plan.keepalive
        messaging.keepalive_wait = 5.0
        messaging.on_connect.add(self._connected)
        messaging.on_disconnect.add(self._disconnected)
        messaging.on_message_recv.add(self._received)
        messaging.on_message_sent.add(self._reported_sent)
        messaging.on_message_acked.add(self._reported_acked)
        messaging.on_messages_dropped.add(self._reported_dropped)
        messaging.on_error.add(self._failed)
        stack.packeter.on_error.add(self._failed)
        stack.packeter.link.on_error.add(self._failed)  # type: ignore[attr-defined]
        link = stack.link
        link.on_error.add(self._failed)
        # Before the stack: it may answer at once.
        link.on_recv.funcs = (self._bytes_came, *link.on_recv.funcs)
        link.on_connect.add(self._link_connected)
        send = link.send
        life = self.life

        def watched_send(conn_id: str, *data: Buffer) -> None:
            life.access("send", BEFORE)
            send(conn_id, *data)
            self._bytes_went(conn_id, b"".join(data)[: link.unreported(conn_id)])
            life.access("send", AFTER)

        link.send = watched_send  # type: ignore[method-assign]

    # What it sees of the network

    def _link_connected(self, conn_id: str) -> None:
        self.life.check()
        self.life.since[conn_id] = self.world.network.now

    def _tap(self, conn_id: str) -> Tap:
        tap = self.life.taps.get(conn_id)
        if tap is None:
            tap = self.life.taps[conn_id] = Tap()
        return tap

    def _bytes_came(self, conn_id: str, data: bytes) -> None:
        self._complain(self._tap(conn_id).receive(data))

    def _bytes_went(self, conn_id: str, data: bytes) -> None:
        done, problems = self._tap(conn_id).send(data, self.world.window)
        self._complain(problems)
        ident = next(
            (ident for ident, conn in self.life.connected.items() if conn == conn_id), None
        )
        if done and ident is not None:
            self.world.note(self.name, "acknowledges", ident, len(done))
            self.world.checker.acknowledging(self.name, ident, map(key_of, done))
            self._complain(self._not_durable(ident, done))

    def _not_durable(self, ident: str, datas: list[bytes]) -> list[str]:
        late = {
            uuid
            for change in self.disk.late
            if change.method == "add_received" and change.args[0] == ident
            for uuid in change.args[1]
        }
        messages = [self.world.messages[key_of(data)] for data in datas]
        return [
            f"acknowledges message {key_of(message.data)}, which a power failure can take"
            for message in messages
            if message.flags & FLAG_PERSISTENT and message.uuid.ljust(16, b"\0") in late
        ]

    def _complain(self, problems: list[str]) -> None:
        for problem in problems:
            self.world.checker.wrong(f"{self.name} {problem}")

    # Its callbacks

    def _failed(self, conn_id: str | None, exc: Exception) -> None:
        self.life.check()
        # (Its disk may be full, or fail otherwise.) A network that stands still for so long
        # makes a peer too slow to say who it is.
        is_late = isinstance(exc, RefusedByPeer) and exc.code == Refusal.IDENTIFICATION_TIMEOUT
        if not is_late and not isinstance(exc, Injected | StorageError):
            self.world.checker.wrong(f"{self.name}: on_error {exc!r}")

    def act(self, conn_id: str, ident: str, raises: float) -> None:
        """What a user's callback may do."""
        world = self.world
        if world.over or world.network.now > MISBEHAVIOUR:
            return
        rng = world.rng
        plan = self.plan
        if plan.replies and rng.random() < plan.replies:
            world.send(self.name, [world.any_message(ident)], batch=False)
        if plan.closes and rng.random() < plan.closes and conn_id in self.stack.link.connections:
            world.note(self.name, "closes", ident)
            self.stack.packeter.close(conn_id)
        if plan.dies and rng.random() < plan.dies:
            how = POWER if world.plan.kind == "power" and rng.random() < 0.5 else CRASH
            world.crash(self.name, how)
        if plan.pauses and rng.random() < plan.pauses and self.connected_by(ident) == conn_id:
            self._pause(conn_id)
        if raises and rng.random() < raises:
            raise Injected

    def connected_by(self, ident: str) -> str | None:
        """The connection on which a peer is connected."""
        return self.life.connected.get(ident)

    def _pause(self, conn_id: str) -> None:
        life = self.life
        self.world.note(self.name, "pauses", conn_id)
        life.paused.add(conn_id)
        self.stack.messaging.pause(conn_id)

        def resume() -> None:
            if life.alive and conn_id in life.connected.values():
                self.world.note(self.name, "resumes", conn_id)
                life.paused.discard(conn_id)
                self.stack.messaging.resume(conn_id)

        self.world.later(self.world.rng.uniform(0.0, 3.0), resume)

    def _connected(self, conn_id: str, ident: str) -> None:
        self.life.check()
        self.world.note(self.name, "is connected with", ident)
        if ident in self.life.connected:
            self.world.checker.wrong(f"{self.name}: {ident} is connected twice")
        self.life.connected[ident] = conn_id
        self.world.checker.connected(self.name, ident)
        self.act(conn_id, ident, self.plan.raises)

    def _disconnected(self, conn_id: str, ident: str) -> None:
        self.life.check()
        self.world.note(self.name, "loses", ident)
        if self.life.connected.pop(ident, None) != conn_id:
            self.world.checker.wrong(f"{self.name}: {ident} leaves {conn_id}, where it was not")
        self.world.checker.disconnected(self.name, ident)
        self.act(conn_id, ident, self.plan.raises)

    def _received(self, conn_id: str, ident: str, message: Message) -> None:
        self.life.check()
        world = self.world
        here = self.connected_by(ident) == conn_id
        if not here and not self.plan.durable:
            world.checker.wrong(f"{self.name}: a message from {ident}, who is not connected")
        passing = message.ttl == 0 and not message.flags & FLAG_PERSISTENT
        stored = self.plan.durable and not passing
        attempts = message.attempts if stored else 1
        if conn_id in self.life.paused and not self.plan.durable and not passing:
            world.checker.wrong(f"{self.name}: a message from {ident}, who is paused")
        delivery = world.checker.delivered(
            self.name,
            ident,
            key_of(message.data),
            redelivered=message.redelivered,
            attempts=attempts,
            since=self.life.since[conn_id] if here and attempts == 1 else None,
        )
        number = delivery.entry.number if delivery.entry is not None else "?"
        again = " again" if message.redelivered else ""
        world.note(self.name, f"receives{again} from {ident}", number, f"attempt {attempts}")
        original = world.messages[key_of(message.data)]
        if (message.data, message.flags, message.uuid) != (
            original.data,
            original.flags,
            original.uuid.ljust(16, b"\0"),
        ):
            world.checker.wrong(f"{self.name}: message {number} from {ident} is not what it was")
        try:
            self.act(conn_id, ident, self.plan.raises)
        except Injected:
            world.note(self.name, "raises", number)
            world.checker.done(delivery, "raised")
            raise
        if stored and self.plan.defers and not world.over and world.rng.random() < self.plan.defers:
            self._defer(delivery, message)
        else:
            world.checker.done(delivery, "returned")

    def _defer(self, delivery: Delivery, message: Message) -> None:
        life = self.life
        inbox = self.stack.messaging.inbox
        rng = self.world.rng
        delivery.loose = True
        if not inbox.defer(message):
            self.world.checker.wrong(f"{self.name} can't defer a message of its inbox")
        self.world.note(self.name, "defers")
        delivery.attempts -= 1
        delivery.outcome = "deferred"

        def begin() -> None:
            if life.alive:
                with suppress(LinkCrashed):
                    inbox.begin(message)
                    delivery.attempts += 1
                    self.world.later(rng.uniform(0.0, 1.0), done)

        def done() -> None:
            if life.alive:
                self.world.note(self.name, "is done with what it deferred")
                with suppress(LinkCrashed):
                    inbox.done(message)

        self.world.later(rng.uniform(0.0, 1.0), begin if rng.random() < 0.5 else done)

    def _reported_sent(self, conn_id: str, ident: str, uuid: bytes) -> None:
        self.life.check()
        self.world.checker.reported_sent(self.name, ident, uuid)
        self.act(conn_id, ident, self.plan.raises)

    def _reported_acked(self, conn_id: str, ident: str, uuid: bytes) -> None:
        self.life.check()
        self.world.note(
            self.name,
            "has an acknowledgement from",
            ident,
            self.world.number(ident, self.name, uuid),
        )
        self.world.checker.reported_acked(self.name, ident, uuid)
        self.act(conn_id, ident, self.plan.raises)

    def _reported_dropped(self, ident: str, messages: list[Message], reason: DropReason) -> None:
        self.life.check()
        for message in messages:
            self.world.note(
                self.name,
                "drops for",
                ident,
                self.world.number(ident, self.name, message.uuid),
                reason.name,
            )
            self.world.checker.reported_dropped(self.name, ident, key_of(message.data), reason.name)
        self.act("", ident, self.plan.raises)
