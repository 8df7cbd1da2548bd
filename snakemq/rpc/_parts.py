"""Large records, sent and received in parts.

So that others need not wait until all of a record of 100 MB is through, no
more than a window of it is queued at a time; see :mod:`snakemq._core.rpc_parts`.
Peers that do not know parts get it in one message, as in 1.6.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import threading
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from snakemq._core.features import Feature
from snakemq._core.frames import MESSAGE_OVERHEAD
from snakemq._core.rpc_parts import (
    MAX_RECORD_SIZE,
    MAX_UNFINISHED_BYTES,
    PART_OVERHEAD,
    PART_SIZE,
    Assembler,
    Kind,
    Lane,
    PartRefused,
    Transfer,
    decode_refusal,
    encode_refusal,
)
from snakemq._core.rpc_records import Code
from snakemq._peer_log import PeerLog, quoted
from snakemq.exceptions import PacketTooLarge, QueueFull
from snakemq.limits import DropReason
from snakemq.message import Message
from snakemq.rpc.errors import CallError, NotAuthorized
from snakemq.rpc.request_ids import request_ids

if TYPE_CHECKING:
    from snakemq.callbacks import Callback
    from snakemq.contracts import TimerHandle
    from snakemq.messaging import ReceiveHook

__all__ = ["PartReceiver", "PartSender"]

#: How much of the parts may wait for the system to take it over, in bytes. They
#: go before what is not urgent, so some of what messaging gives the system at a
#: time is to be left to that.
_MAX_UNSENT: Final = 128 * 1024

#: When a part is sent again for which there was no room, in seconds.
_RETRY: Final = 0.05


class _Flying(NamedTuple):
    """A part that is on its way."""

    lane: Lane
    transfer: Transfer
    size: int
    since: float


class _Remote:
    """A connected peer to which large records are sent."""

    __slots__ = (
        "bytes",
        "flying",
        "lanes",
        "retry_timer",
        "scheduled",
        "stuck",
        "unsent",
        "unsent_bytes",
    )

    def __init__(self, kind: Kind, part_size: int) -> None:
        #: The first parts of those that take their place in the queue, behind
        #: what waits there; and all that is urgent. That is also what follows
        #: on those, else each part would wait for as long as the first did.
        self.lanes = (Lane(kind, part_size, starts_only=True), Lane(kind, part_size))
        #: how much of them was not sent yet, in bytes
        self.bytes = 0
        #: by identifier of the message
        self.flying: dict[bytes, _Flying] = {}
        #: of urgent ones, those that the system has not taken yet, likewise
        self.unsent: dict[bytes, int] = {}
        self.unsent_bytes = 0
        #: there is a call of the loop on its way
        self.scheduled = False
        #: for each lane, the part for which there was no room
        self.stuck: list[tuple[Transfer, bytes, int] | None] = [None, None]
        self.retry_timer: TimerHandle | None = None

    def sent(self, uuid: bytes) -> bool:
        """The system has taken a message, or never will; whether it was one of these."""
        size = self.unsent.pop(uuid, 0)
        self.unsent_bytes -= size
        return bool(size)


class PartSender:
    """Sends records, the large ones in parts. The owner repeats them after a reconnect.

    A record goes with TTL 0, to the peer that is connected now. When the
    connection ends, nothing more is heard of it: it has arrived or not.

    :param receive_hook: brings refusals; its messaging carries the parts
    :param kind: what records these are
    :param failed: ``func(ident, key, exception)``, from the loop's thread: a
        large record was accepted and then could not be sent, or was refused by
        the other side. Not when the connection ends, nor after :meth:`cancel`.
    :param arrived: ``func(conn_id, ident, key)``, from the loop's thread: all
        parts of a large record were acknowledged. Not if it went in one piece.
        A refusal may still come after it.
    :param max_size: the largest record that is sent in parts, in bytes
    :ivar part_size: what is larger than that travels in parts, in bytes
    """

    def __init__(
        self,
        receive_hook: ReceiveHook,
        kind: Kind,
        failed: Callable[[str, bytes, Exception], object],
        *,
        arrived: Callable[[str, str, bytes], object] | None = None,
        max_size: int = MAX_RECORD_SIZE,
    ) -> None:
        self.log = logging.getLogger("snakemq.rpc.parts")
        self._hook = receive_hook
        self._kind = kind
        self._failed = failed
        self._arrived = arrived or _nothing
        self._max_size = max_size
        messaging = self._messaging = receive_hook.messaging
        room = messaging.packeter.max_packet_size - MESSAGE_OVERHEAD - PART_OVERHEAD
        self.part_size = max(1, min(PART_SIZE, room))
        # Reentrant: a finalizer may give up a call, and it may run anywhere.
        self._lock = threading.RLock()
        self._remotes: dict[str, _Remote] = {}
        #: how much of all records was not sent yet, in bytes
        self._bytes = 0
        self._closed = False
        self._listens = False
        receive_hook.register(kind.refusal, self._handle_refusal, any_thread=True)

    def _slots(self) -> list[tuple[Callback[Any], Callable[..., object]]]:
        messaging = self._messaging
        return [
            (messaging.on_ready, self._handle_ready),
            (messaging.on_disconnect, self._handle_disconnect),
            (messaging.on_messages_sent, self._handle_sent),
            (messaging.on_messages_acked, self._handle_arrived),
            # Of a peer that does not acknowledge this is all that is heard.
            (messaging.on_messages_left, self._handle_arrived),
            (messaging.on_messages_dropped, self._handle_dropped),
        ]

    def _listen(self) -> None:
        # Not before there is something large: most programs send nothing that is.
        if not self._listens:
            self._listens = True
            for slot, func in self._slots():
                slot.wire(func)

    def close(self) -> None:
        """Give up all records, and send no more. Any thread; a second time is harmless."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
            self._remotes.clear()
            self._bytes = 0
            with contextlib.suppress(KeyError):  # the program may have cleared the hook
                self._hook.unregister(self._kind.refusal)
            if self._listens:
                for slot, func in self._slots():
                    slot.remove(func)

    # Any thread.

    def send(
        self,
        ident: str,
        data: bytes,
        *,
        key: bytes = b"",
        urgent: bool = False,
    ) -> bool:
        """Send a record.

        :param data: with its prefix; it is kept, not copied, until it is sent
        :param key: a name for :meth:`cancel` and for the callbacks, of at most
            16 bytes. A large record that has to go in one message, because the
            other side knows no parts, has it as the identifier of that message.
        :param urgent: see :meth:`snakemq.messaging.Messaging.send_message`
        :return: whether it is on its way: the peer is connected
        :raises PacketTooLarge: it can't be sent at all
        :raises QueueFull: there is no room for it
        """
        if len(data) <= self.part_size:
            return self._messaging.send_message(ident, Message(data), urgent=urgent, prompt=True)
        features = self._messaging.peer_features(ident)
        if features is None and not self._messaging.is_connected(ident):
            return False
        if features is not None and Feature.CALLS not in features:
            return self._messaging.send_message(ident, _whole(data, key), urgent=urgent)
        if len(data) > self._max_size:
            raise PacketTooLarge(len(data), self._max_size)
        transfer = Transfer(request_ids.next(), key, data)
        with self._lock:
            if self._closed:
                return False
            self._listen()
            remote = self._remotes.get(ident)
            if remote is None:
                remote = self._remotes[ident] = _Remote(self._kind, self.part_size)
            self._check_room(ident, remote, len(data))
            self._count(remote, len(data))
            waits = not urgent and self._messaging.queued_messages(ident)
            remote.lanes[0 if waits else 1].add(transfer)
            self._pump_soon(ident, remote)
        return True

    def cancel(self, ident: str, key: bytes) -> bool:
        """Do not send what is left of the records with this key.

        :return: whether something was left
        """
        with self._lock:
            remote = self._remotes.get(ident)
            if remote is None:
                return False
            found = [(lane, t) for lane in remote.lanes for t in lane.find_key(key)]
            for lane, transfer in found:
                self._give_up(remote, lane, transfer)
            if found:
                self._pump_soon(ident, remote)
            return bool(found)

    def waiting_bytes(self, ident: str | None = None) -> int:
        """How much of large records was not sent yet.

        :param ident: the receiver; ``None`` for all together
        """
        if ident is None:
            return self._bytes
        remote = self._remotes.get(ident)
        return remote.bytes if remote is not None else 0

    def _check_room(self, ident: str, remote: _Remote, size: int) -> None:
        limits = self._messaging.queue_limits
        if remote.bytes + size > limits.max_bytes:
            raise QueueFull(
                f"a record of {size} bytes for {ident!r}: {remote.bytes} bytes of others wait, "
                f"and the limit is {limits.max_bytes} bytes"
            )
        if self._bytes + size > limits.total_bytes:
            raise QueueFull(
                f"a record of {size} bytes for {ident!r}: {self._bytes} bytes wait for all peers, "
                f"and the limit is {limits.total_bytes} bytes"
            )

    # For those who hold the lock.

    def _count(self, remote: _Remote, size: int) -> None:
        remote.bytes += size
        self._bytes += size

    def _give_up(
        self, remote: _Remote, lane: Lane, transfer: Transfer, *, tell: bool = True
    ) -> None:
        if transfer.data is not None:
            self._count(remote, transfer.offset - transfer.size)
        lane.give_up(transfer, tell=tell)

    def _pump_soon(self, ident: str, remote: _Remote) -> None:
        if not remote.scheduled:
            remote.scheduled = True
            self._messaging.call_soon(self._pump, ident, remote)

    def _forget(self, ident: str) -> None:
        remote = self._remotes.pop(ident, None)
        if remote is not None:
            self._count(remote, -remote.bytes)
            if remote.retry_timer is not None:
                remote.retry_timer.cancel()
                remote.retry_timer = None

    # In the thread of the loop.

    def _pump(self, ident: str, remote: _Remote) -> None:
        """Send what the windows let pass."""
        remote.scheduled = False
        if self._remotes.get(ident) is not remote:
            return  # it is gone, and so is all of it
        features = self._messaging.peer_features(ident)
        if features is None:
            if not self._messaging.is_connected(ident):
                with self._lock:
                    self._forget(ident)
        elif Feature.CALLS not in features:
            self._send_whole(ident, remote)
        elif remote.retry_timer is None:
            for index in (1, 0):
                self._pump_lane(ident, remote, index)

    def _pump_lane(self, ident: str, remote: _Remote, index: int) -> None:
        lane = remote.lanes[index]
        urgent = bool(index)
        while self._remotes.get(ident) is remote:
            with self._lock:
                following = remote.stuck[index]
                remote.stuck[index] = None
                if following is None:
                    if remote.unsent_bytes >= _MAX_UNSENT and urgent:
                        return
                    following = lane.next_part()
                    if following is None:
                        return
                    self._count(remote, -following[2])
            transfer, data, size = following
            message = Message(data)
            if size:
                remote.flying[message.uuid] = _Flying(lane, transfer, size, self._messaging.time())
                if urgent:
                    remote.unsent[message.uuid] = size
                    remote.unsent_bytes += size
            try:
                self._messaging.send_message(ident, message, urgent=urgent)
            except QueueFull:
                remote.flying.pop(message.uuid, None)
                remote.sent(message.uuid)
                remote.stuck[index] = following
                if remote.retry_timer is None:
                    remote.retry_timer = self._messaging.call_later(
                        _RETRY, self._retry, ident, remote
                    )
                return

    def _retry(self, ident: str, remote: _Remote) -> None:
        remote.retry_timer = None
        self._pump(ident, remote)

    def _send_whole(self, ident: str, remote: _Remote) -> None:
        """To a peer that does not know parts."""
        with self._lock:
            whole = [
                (transfer.key, transfer.data, bool(index))
                for index, lane in enumerate(remote.lanes)
                for transfer in lane
            ]
            self._forget(ident)
        for key, data, urgent in whole:
            assert data is not None
            try:
                self._messaging.send_message(ident, _whole(data, key), urgent=urgent)
            except (PacketTooLarge, QueueFull) as exc:
                self._tell(self._failed, ident, key, exc)

    def _tell(self, func: Callable[..., object], *args: object) -> None:
        try:
            func(*args)
        except Exception:  # the others have to be told as well
            self.log.exception("exception in %r", func)

    def _handle_ready(self, conn_id: str, ident: str) -> None:
        remote = self._remotes.get(ident)
        if remote is not None:
            self._pump(ident, remote)

    def _handle_disconnect(self, conn_id: str, ident: str) -> None:
        with self._lock:
            self._forget(ident)

    def _handle_sent(self, conn_id: str, ident: str, messages: Sequence[Message]) -> None:
        remote = self._remotes.get(ident)
        if remote is None or not remote.unsent:
            return
        some = False
        for message in messages:
            some |= remote.sent(message.uuid)
        if some:
            self._pump(ident, remote)

    def _handle_arrived(self, conn_id: str, ident: str, messages: Sequence[Message]) -> None:
        remote = self._remotes.get(ident)
        if remote is None or not remote.flying:
            return
        now = self._messaging.time()
        some = False
        for message in messages:
            part = remote.flying.pop(message.uuid, None)
            if part is not None:
                some = True
                with self._lock:
                    part.lane.window.arrived(part.size, now - part.since)
                    started = part.lane.take_started(part.transfer.transfer_id)
                    if started is not None:
                        remote.lanes[1].add(started)
                transfer = part.transfer
                transfer.arrived += part.size
                if transfer.arrived == transfer.size and not transfer.given_up:
                    self._tell(self._arrived, conn_id, ident, transfer.key)
        if some:
            self._pump(ident, remote)

    def _handle_dropped(self, ident: str, messages: list[Message], reason: DropReason) -> None:
        remote = self._remotes.get(ident)
        if remote is None or not remote.flying or reason is not DropReason.QUEUE_FULL:
            return  # with the connection all of it ends
        for message in messages:
            part = remote.flying.pop(message.uuid, None)
            if part is None:
                continue
            remote.sent(message.uuid)
            transfer = part.transfer
            with self._lock:
                part.lane.window.flying -= part.size
                known = part.lane.find(transfer.transfer_id) is not None
                if known:
                    self._give_up(remote, part.lane, transfer)
                    self._pump_soon(ident, remote)
            if known:
                exc = QueueFull(f"a part for {ident!r} was dropped to make room for newer messages")
                self._tell(self._failed, ident, transfer.key, exc)

    def _handle_refusal(self, conn_id: str, ident: str, message: Message) -> None:
        transfer_id, reason = decode_refusal(self._kind, message.data)
        with self._lock:
            remote = self._remotes.get(ident)
            if remote is None:
                return
            found = [(lane, lane.find(transfer_id)) for lane in remote.lanes]
            for lane, transfer in found:
                if transfer is not None:
                    self._give_up(remote, lane, transfer, tell=False)
        for _, transfer in found:
            if transfer is None:
                continue
            self.log.warning(
                "ident=%s does not take %d bytes: %s", quoted(ident), transfer.size, quoted(reason)
            )
            exc = _error_of(ident, transfer.size, reason)
            self._tell(self._failed, ident, transfer.key, exc)


def _whole(data: bytes, key: bytes) -> Message:
    return Message(data, uuid=key or None)


def _error_of(ident: str, size: int, reason: str) -> CallError:
    code, _, text = reason.partition(": ")
    if code == Code.NOT_AUTHORIZED.value:
        return NotAuthorized(text)
    return CallError(f"{ident!r} does not take a record of {size} bytes: {reason}")


def _nothing(*_: object) -> None:
    """For who does not want to know."""


class PartReceiver:
    """Receives large records in parts.

    :param receive_hook: brings the parts
    :param kind: what records these are
    :param deliver: ``func(conn_id, ident, message)``, from the loop's thread:
        a record came, with its prefix
    :param max_size: the largest record that is taken, and how much of
        unfinished ones may come over one connection, in bytes
    :param max_unfinished: how much of unfinished ones there may be of all
        connections together. Beyond that, the connection that has the most loses
        its largest.
    :param objection: ``func(conn_id, ident, beginning)``: why a record that
        begins in this way is not taken; empty if it is
    :param refused: called for each record that is not taken, in the loop's thread
    """

    def __init__(
        self,
        receive_hook: ReceiveHook,
        kind: Kind,
        deliver: Callable[[str, str, Message], object],
        *,
        max_size: int = MAX_RECORD_SIZE,
        max_unfinished: int = MAX_UNFINISHED_BYTES,
        objection: Callable[[str, str, memoryview], str] | None = None,
        refused: Callable[[], object] | None = None,
    ) -> None:
        self._max_unfinished = max_unfinished
        self._objection = objection
        self._refused = refused or _nothing
        self._hook = receive_hook
        messaging = self._messaging = receive_hook.messaging
        self._log = PeerLog(logging.getLogger("snakemq.rpc.parts"), messaging.time)
        self._kind = kind
        self._deliver = deliver
        self._max_size = max_size
        self._lock = threading.Lock()
        self._closed = False
        #: by connection
        self._assemblers: dict[str, Assembler] = {}
        self._idents: dict[str, str] = {}
        #: how much of unfinished records is here, in bytes
        self.held_bytes = 0
        # The connections whose parts are to be acknowledged.
        self._acknowledging: set[str] = set()
        receive_hook.register(kind.part, self._handle_part, any_thread=True)
        messaging.on_disconnect.wire(self._handle_disconnect)

    def close(self) -> None:
        """Take no more, and forget what is not complete. A second time is harmless."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
        with contextlib.suppress(KeyError):  # the program may have cleared the hook
            self._hook.unregister(self._kind.part)
        self._messaging.on_disconnect.remove(self._handle_disconnect)
        self._assemblers = {}
        self.held_bytes = 0

    def _new_assembler(self, conn_id: str, ident: str) -> Assembler:
        objection = self._objection
        judge = None if objection is None else functools.partial(objection, conn_id, ident)
        assembler = Assembler(self._kind, self._max_size, judge)
        self._assemblers[conn_id] = assembler
        self._idents[conn_id] = ident
        return assembler

    def _handle_part(self, conn_id: str, ident: str, message: Message) -> None:
        if self._closed:
            return
        assembler = self._assemblers.get(conn_id)
        if assembler is None:
            assembler = self._new_assembler(conn_id, ident)
        if conn_id not in self._acknowledging:
            # The sender waits for it. When all that came together is handled.
            self._acknowledging.add(conn_id)
            self._messaging.call_soon(self._acknowledge, conn_id)
        held = assembler.held
        record = None
        try:
            record = assembler.feed(message.data)
        except PartRefused as exc:
            self._refuse(conn_id, ident, exc)
        self.held_bytes += assembler.held - held
        if record is not None:
            self._deliver(conn_id, ident, Message(record))
        elif self.held_bytes > self._max_unfinished:
            self._make_room()

    def _make_room(self) -> None:
        conn_id, assembler = max(self._assemblers.items(), key=lambda item: item[1].held)
        held = assembler.held
        transfer_id = assembler.drop_largest()
        self.held_bytes += assembler.held - held
        reason = f"too much is unfinished: the limit is {self._max_unfinished} bytes for all"
        self._refuse(conn_id, self._idents[conn_id], PartRefused(transfer_id, reason))

    def _acknowledge(self, conn_id: str) -> None:
        self._acknowledging.discard(conn_id)
        self._messaging.acknowledge(conn_id)

    def _refuse(self, conn_id: str, ident: str, exc: PartRefused) -> None:
        self._refused()
        self._log.warning(
            ident, "conn=%s ident=%s a record is not taken: %s", conn_id, quoted(ident), exc
        )
        if exc.transfer_id:
            refusal = encode_refusal(self._kind, exc.transfer_id, str(exc))
            with contextlib.suppress(QueueFull):  # then its sender finds out by the deadline
                self._messaging.send_message(ident, Message(refusal), urgent=True)

    def _handle_disconnect(self, conn_id: str, ident: str) -> None:
        assembler = self._assemblers.pop(conn_id, None)
        if assembler is not None:
            self.held_bytes -= assembler.held
            del self._idents[conn_id]
