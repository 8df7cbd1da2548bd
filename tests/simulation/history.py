"""One random history of a few peers: what they send, what goes wrong, and what must hold.

All of it follows from a seed. A history first decides what kind of world it is
(peers, who dials whom, throttles, storages, how bad the network is, which
faults), then lets messages be sent and faults happen for a while, then lets
everything calm down and looks whether anything is wrong or left behind.
"""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import dataclass, field

from snakemq.message import FLAG_PERSISTENT, Message
from snakemq.storage import MemoryQueuesStorage
from snakemq.testing import Conditions, FaultPlan, LinkCrashed, SimNetwork, SimStack
from snakemq.testing.faults import KINDS

#: How long messages are sent and faults happen, in virtual seconds.
ACTIVE = 20.0

#: How long it may take until everything is quiet after that. Connecting again
#: takes up to 30 s, and several attempts may fail at first.
CALM = 600.0


class Injected(Exception):
    """Raised by a user's callback on purpose."""


class FragileStorage(MemoryQueuesStorage):
    """A disk that survives; some accesses to it are the last that the process makes."""

    def __init__(self, peer: Peer) -> None:
        super().__init__()
        self._peer = peer
        #: the process dies at the access with this number, 0 before it and 1 after it
        self.fuse: tuple[int, int] | None = None

    def _access(self, after: int) -> None:
        peer = self._peer
        if not peer.stack.running:
            raise LinkCrashed(peer.name)  # a `finally` of a callback that has crashed
        if self.fuse is not None:
            count, when = self.fuse
            if after == when:
                count -= 1
                self.fuse = (count, when)
            if count <= 0:
                self.fuse = None
                peer.world.crash(peer.name)
                raise LinkCrashed(peer.name)

    def push_many(self, entries: object) -> None:
        self._access(0)
        super().push_many(entries)  # type: ignore[arg-type]
        self._access(1)

    def remove_items(self, queue_name: str, items: object) -> None:
        self._access(0)
        super().remove_items(queue_name, items)  # type: ignore[arg-type]
        self._access(1)


@dataclass
class Sent:
    """A message, and what became of it."""

    number: int
    message: Message
    when: float
    crashes: int  # how many times the sender had crashed when it was sent
    offline: bool  # TTL 0 and the receiver not connected
    delivered: int = 0
    reported_sent: int = 0
    reported_dropped: int = 0
    crashed_in_send: bool = False

    @property
    def persistent(self) -> bool:
        return bool(self.message.flags & FLAG_PERSISTENT) and self.message.ttl != 0


@dataclass
class Way:
    """From one peer to another."""

    sent: list[Sent] = field(default_factory=list)
    by_uuid: dict[bytes, Sent] = field(default_factory=dict)
    #: when the sender was told that the receiver is not connected any more
    broke: list[float] = field(default_factory=list)
    #: numbers in the order of their delivery
    delivered: list[int] = field(default_factory=list)


class Peer:
    """A process that sends, receives, misbehaves, crashes and is started again."""

    def __init__(self, world: History, name: str) -> None:
        rng = world.rng
        self.world = world
        self.name = name
        self.crashes = 0
        # After a kill: when what was on its way has arrived.
        self.restart_after = rng.uniform(0.1 if world.kind == "faulty" else 2.0, 3.0)
        #: who is connected, and on which connection
        self.connected: dict[str, str] = {}
        #: since when connections exist
        self.since: dict[str, float] = {}
        self.storage = FragileStorage(self) if rng.random() < 0.6 else None
        self.throttle = rng.choice((3000, 30_000, 300_000)) if rng.random() < 0.25 else None
        self.keepalive = rng.uniform(1.0, 5.0) if rng.random() < 0.5 else None
        # How likely its callbacks do such a thing.
        self.raises = 0.05 if rng.random() < 0.2 else 0.0
        self.closes = 0.02 if world.kind == "faulty" and rng.random() < 0.2 else 0.0
        self.dies = 0.01 if world.kind == "faulty" and rng.random() < 0.2 else 0.0
        self.replies = 0.2 if rng.random() < 0.3 else 0.0
        self.stack = SimStack(
            world.network,
            name,
            storage=self.storage,
            throttle=self.throttle,
            on_start=self._started,
        )

    def _started(self, stack: SimStack) -> None:
        self.stack = stack
        messaging = stack.messaging
        messaging.keepalive_interval = self.keepalive
        messaging.keepalive_wait = 5.0
        messaging.on_connect.add(self._connected)
        messaging.on_disconnect.add(self._disconnected)
        messaging.on_message_recv.add(self._received)
        messaging.on_message_sent.add(self._reported_sent)
        messaging.on_message_drop.add(self._reported_dropped)
        messaging.on_error.add(self._failed)
        stack.packeter.on_error.add(self._failed)
        stack.packeter.link.on_error.add(self._failed)  # type: ignore[attr-defined]
        stack.link.on_error.add(self._failed)
        stack.link.on_connect.add(self._link_connected)

    def _check_alive(self) -> None:
        if not self.stack.running:
            raise LinkCrashed(self.name)  # a `finally` of a callback that has crashed

    def _failed(self, conn_id: str | None, exc: Exception) -> None:
        if not isinstance(exc, Injected):
            self.world.wrong(f"{self.name}: on_error {exc!r}")

    def _link_connected(self, conn_id: str) -> None:
        self.since[conn_id] = self.world.network.now

    def act(self, conn_id: str, ident: str) -> None:
        """What a user's callback may do."""
        if self.world.over:
            return
        rng = self.world.rng
        if self.replies and rng.random() < self.replies:
            self.world.send(self.name, ident)
        if self.closes and rng.random() < self.closes and conn_id in self.stack.link.connections:
            self.stack.packeter.close(conn_id)
        if self.dies and rng.random() < self.dies:
            self.world.crash(self.name)
        if self.raises and rng.random() < self.raises:
            raise Injected

    def _connected(self, conn_id: str, ident: str) -> None:
        self._check_alive()
        self.world.note("connected", self.name, ident)
        if ident in self.connected:
            self.world.wrong(f"{self.name}: {ident} is connected twice")
        self.connected[ident] = conn_id
        self.act(conn_id, ident)

    def _disconnected(self, conn_id: str, ident: str) -> None:
        self._check_alive()
        self.world.note("disconnected", self.name, ident)
        self.world.breaks += 1
        self.world.ways[self.name, ident].broke.append(self.world.network.now)
        if self.connected.pop(ident, None) != conn_id:
            self.world.wrong(f"{self.name}: {ident} leaves {conn_id}, where it was not")
        self.act(conn_id, ident)

    def _received(self, conn_id: str, ident: str, message: Message) -> None:
        self._check_alive()
        if self.connected.get(ident) != conn_id:
            self.world.wrong(f"{self.name}: a message from {ident}, who is not connected")
        number = int(message.data.split(b":")[0])
        self.world.note("received", self.name, ident, number)
        self.world.delivered(ident, self.name, number, self.since[conn_id])
        self.act(conn_id, ident)

    def _reported_sent(self, conn_id: str, ident: str, uuid: bytes) -> None:
        self._check_alive()
        self.world.ways[self.name, ident].by_uuid[uuid].reported_sent += 1
        self.act(conn_id, ident)

    def _reported_dropped(self, ident: str, uuid: bytes) -> None:
        self._check_alive()
        sent = self.world.ways[self.name, ident].by_uuid[uuid]
        sent.reported_dropped += 1
        ttl = sent.message.ttl
        if ttl is not None and self.world.network.now < sent.when + ttl - 1e-3:
            self.world.wrong(f"{self.name}: {sent} to {ident} was dropped too early")
        self.act("", ident)


class History:
    """A world made from a seed. :meth:`run` returns what is wrong with it."""

    def __init__(self, seed: int) -> None:
        rng = self.rng = random.Random(seed)
        #: what can go wrong: nothing; one peer is killed now and then, and its
        #: system delivers what it had taken; anything
        self.kind = rng.choices(("calm", "kills", "faulty"), (15, 10, 75))[0]
        self.network = SimNetwork(
            rng.getrandbits(32),
            conditions=self._conditions(),
            loop_delay=rng.choice((0.0, 0.001, 0.05, 0.2)),
        )
        self.problems: list[str] = []
        #: all is quiet, users do nothing any more
        self.over = False
        self.trace: list[tuple[object, ...]] = []
        #: disconnections that messaging told
        self.breaks = 0
        names = "abcd"[: rng.choice((2, 2, 2, 3, 3, 4))]
        self.ways: dict[tuple[str, str], Way] = {}
        self.peers = {name: Peer(self, name) for name in names}
        self._dial(names)
        if self.kind == "faulty":
            times = self._plan_faults()
        elif self.kind == "kills":
            times = self._plan_kills("a")
        else:
            times = []
        self._plan_messages(times)

    def _conditions(self) -> Conditions:
        rng = self.rng
        bad = rng.random() if self.kind == "faulty" else 0.2
        # What a killed process has sent must arrive before its successor does.
        buffers = (65536, 3000, 500) if self.kind != "kills" else (65536,)
        return Conditions(
            delay=rng.uniform(0.0005, 0.1) * bad,
            jitter=rng.uniform(0.0, 0.2) * bad,
            send_buffer=rng.choice(buffers),
            recv_buffer=rng.choice(buffers),
            split=rng.choice((0.0, 0.3, 1.0)),
            partial_send=rng.choice((0.0, 0.3, 0.7)),
        )

    def _dial(self, names: str) -> None:
        for index, one in enumerate(names):
            for other in names[index + 1 :]:
                way = self.rng.random()
                if len(names) > 2 and way < 0.2 and index > 0:
                    continue  # these two do not know each other
                # When both dial, one of the two connections is closed, with
                # what the other side may have sent on it.
                both = 0.55 if self.kind == "faulty" else 0.75
                if way < 0.75:
                    self.peers[one].stack.connect(self.peers[other].stack, 1.0)
                if way >= both:
                    self.peers[other].stack.connect(self.peers[one].stack, 1.0)
                self.ways[one, other] = Way()
                self.ways[other, one] = Way()

    # What happens

    def _plan_messages(self, faults: list[float]) -> None:
        rng = self.rng
        count = rng.choice((10, 40, 100, 200))
        while count > 0:
            # In bursts: what is sent together travels together.
            burst = min(count, rng.choice((1, 3, 20)))
            count -= burst
            way = rng.choice(list(self.ways))
            when = rng.random() * ACTIVE
            if faults and rng.random() < 0.7:
                # On its way when something goes wrong, or just after.
                when = max(0.0, rng.choice(faults) + rng.choice((-0.3, -0.05, 0.5)) * rng.random())
            self.network.call_later(when, self._send_burst, way, burst)

    def _send_burst(self, way: tuple[str, str], burst: int) -> None:
        for _ in range(burst):
            self.send(*way)

    def send(self, sender: str, receiver: str) -> None:
        """Have a message sent, unless the sender is not running."""
        peer = self.peers[sender]
        if not peer.stack.running:
            return
        rng = self.rng
        way = self.ways[sender, receiver]
        number = len(way.sent)
        size = rng.choice((0, 10, 10, 10, 300, 3000))
        ttl = rng.choice((None, None, None, 0.0, 2.0, 20.0))
        flags = FLAG_PERSISTENT if rng.random() < 0.5 else 0
        uuid = f"{sender}{receiver}{number}".encode()
        message = Message(b"%d:" % number + bytes(size), ttl, flags, uuid)
        offline = ttl == 0 and not peer.stack.messaging.is_connected(receiver)
        sent = Sent(number, message, self.network.now, peer.crashes, offline)
        way.sent.append(sent)
        way.by_uuid[message.uuid] = sent
        self.note("send", sender, receiver, number)
        inside = peer.stack.link.is_inside_loop()
        try:
            peer.stack.messaging.send_message(receiver, message)
        except LinkCrashed:
            sent.crashed_in_send = True
            if inside:
                raise

    def delivered(self, sender: str, receiver: str, number: int, since: float) -> None:
        """A message arrived on a connection that exists ``since`` then."""
        way = self.ways[sender, receiver]
        sent = way.sent[number]
        way.delivered.append(number)
        sent.delivered += 1
        if sent.message.ttl == 0:
            if sent.offline:
                self.wrong(f"message {number} from {sender} to {receiver} should not have waited")
            if any(sent.when <= broke < since for broke in way.broke):
                self.wrong(f"message {number} from {sender} to {receiver} outlived its connection")

    def _plan_faults(self) -> list[float]:
        rng = self.rng
        kinds = rng.sample(KINDS, rng.randint(1, len(KINDS)))
        plan = FaultPlan.random(
            rng, list(self.peers), duration=ACTIVE, count=rng.choice((1, 3, 10)), kinds=kinds
        )
        plan.start(self.network, crash=self.crash, restart=self.restart)
        for peer in self.peers.values():
            if peer.storage is not None and rng.random() < 0.3:
                peer.storage.fuse = (rng.randint(1, 20), rng.randint(0, 1))
        return [fault.at for fault in plan.faults]

    def _plan_kills(self, name: str) -> list[float]:
        peer = self.peers[name]
        times = [self.rng.random() * ACTIVE for _ in range(self.rng.randint(1, 5))]
        for when in times:
            self.network.call_later(when, self.crash, name)
        if peer.storage is not None and self.rng.random() < 0.5:
            peer.storage.fuse = (self.rng.randint(1, 20), self.rng.randint(0, 1))
        return times

    def crash(self, name: str, silent: bool = False) -> None:
        """Kill a peer; a later restart is certain."""
        peer = self.peers[name]
        if not peer.stack.running:
            return
        self.note("crash", name)
        peer.crashes += 1
        peer.connected.clear()
        self.network.call_later(peer.restart_after, self.restart, name)
        peer.stack.crash(silent, flush=self.kind == "kills")

    def restart(self, name: str) -> None:
        peer = self.peers[name]
        if not peer.stack.running:
            self.note("restart", name)
            peer.stack.restart()

    # What must hold

    def wrong(self, what: str) -> None:
        self.problems.append(f"at {self.network.now:.3f}: {what}")

    def note(self, *what: object) -> None:
        self.trace.append((self.network.now, *what))

    def run(self) -> list[str]:
        """Let it all happen.

        :returns: what is wrong, empty if nothing is
        """
        self.network.run(ACTIVE)
        self.network.heal()
        if self._calm_down():
            self.over = True
            self._check_messages()
            self._check_idle()
            self._check_end()
        return self.problems

    def _calm_down(self) -> bool:
        deadline = self.network.now + CALM
        while self.network.now < deadline:
            self.network.run(2.0)
            if self._quiet() and self.network.run_until_idle(timeout=2.0) and self._quiet():
                return True
            self._find_dead_connections()
        waiting = {
            (sender, receiver): (
                self.peers[sender].stack.messaging.is_connected(receiver),
                self.peers[sender].stack.messaging.queued_messages(receiver),
            )
            for sender, receiver in self.ways
        }
        self.wrong(f"it does not get quiet; connected, queued: {waiting}")
        return False

    def _find_dead_connections(self) -> None:
        # A connection to a machine that vanished stays until something is sent
        # on it, if there is no keepalive.
        for sender, receiver in self.ways:
            one, other = self.peers[sender].stack, self.peers[receiver].stack
            if one.messaging.is_connected(receiver) and not other.messaging.is_connected(sender):
                self.send(sender, receiver)

    def _quiet(self) -> bool:
        for peer in self.peers.values():
            if not peer.stack.running:
                return False
        for sender, receiver in self.ways:
            messaging = self.peers[sender].stack.messaging
            if not messaging.is_connected(receiver) or messaging.queued_messages(receiver):
                return False
        return True

    def _check_messages(self) -> None:
        harmless = not self.breaks and not any(peer.crashes for peer in self.peers.values())
        for (sender, receiver), way in self.ways.items():
            crashes = self.peers[sender].crashes
            self._check_order(f"{sender} to {receiver}", way, crashes)
            for sent in way.sent:
                what = f"message {sent.number} from {sender} to {receiver} ({sent})"
                if sent.reported_sent > 1 + crashes - sent.crashes:
                    self.wrong(f"{what} was reported as sent more than once")
                if sent.reported_dropped > 1:
                    self.wrong(f"{what} was reported as dropped more than once")
                # Handed over, then a crash before that was noted on the disk.
                again = sent.persistent and crashes > sent.crashes
                if sent.reported_dropped and sent.delivered and not again:
                    self.wrong(f"{what} was delivered and dropped")
                if sent.reported_dropped and sent.message.ttl is None:
                    self.wrong(f"{what} was dropped, though it may wait for ever")
                if not sent.delivered:
                    must_survive = (
                        self.kind == "kills"
                        and sender == "a"
                        and sent.persistent
                        and sent.message.ttl is None
                        and self.peers[sender].storage is not None
                    )
                    self._check_loss(what, sent, crashes, harmless or must_survive)

    def _check_order(self, what: str, way: Way, crashes: int) -> None:
        # After a crash persistent messages may come again: the process died
        # between handing them to the system and noting that on the disk.
        highest = -1
        repeats = 0
        repeating = -1
        for number in way.delivered:
            if number > highest:
                highest = number
                repeating = -1
                continue
            sent = way.sent[number]
            if number <= repeating or repeating < 0:
                repeats += 1
            repeating = number
            if not sent.persistent or sent.crashes == crashes or repeats > crashes:
                self.wrong(f"{what}: {number} came after {highest}: {way.delivered}")
                return

    def _check_loss(self, what: str, sent: Sent, crashes: int, must_arrive: bool) -> None:
        if sent.offline or sent.crashed_in_send or sent.reported_dropped:
            return
        if must_arrive:
            self.wrong(f"{what} was lost though no connection broke under it")
        elif not sent.reported_sent and crashes == sent.crashes:
            self.wrong(f"{what} vanished without a trace")

    def _check_idle(self) -> None:
        for peer in self.peers.values():
            stack = peer.stack
            timers = stack.link.pending_timers
            connections = len(stack.link.connections)
            # Those that have not said who they are do not wait for ever.
            expected = connections - len(stack.messaging.connected_peers())
            if peer.keepalive:
                expected += connections
            # One that has just come may wait a moment before it is used.
            expected += sum(
                connection.settle_timer is not None
                for connection in stack.messaging._connections.values()
            )
            if timers != expected:
                self.wrong(f"{peer.name}: {timers} timers are left, not {expected}")
            calls: list[int] = []
            stack.messaging.call_soon(calls.append, 1)
            self.network.run_until_idle()
            if not calls:
                self.wrong(f"{peer.name}: the loop is dead")

    def _check_end(self) -> None:
        for peer in self.peers.values():
            for address in list(peer.stack._connectors):
                peer.stack.link.del_connector(address)
        self.network.run(20.0)
        self.network.probe()
        self.network.run(1.0)
        if self.network.connections:
            self.wrong(f"connections are left: {self.network.connections}")
        for peer in self.peers.values():
            stack = peer.stack
            left = Counter(
                {
                    "connected peers": len(peer.connected),
                    "link connections": len(stack.link.connections),
                    "packeter connections": len(stack.packeter._connections),
                    "throttle connections": len(getattr(stack.packeter.link, "_connections", ())),
                    "messaging connections": len(stack.messaging._connections),
                    "messaging peers": len(stack.messaging.connected_peers()),
                    "queues": len(stack.messaging.queues_manager),
                    "timers": stack.link.pending_timers,
                    "stored messages": sum(
                        len(peer.storage.get_items(name)) for name in peer.storage.get_queues()
                    )
                    if peer.storage is not None
                    else 0,
                }
            )
            if +left:
                self.wrong(f"{peer.name}: left behind: {dict(+left)}")
        for peer in self.peers.values():
            peer.stack.close()


def run_history(seed: int) -> list[str]:
    """What is wrong with the history of this seed."""
    return History(seed).run()
