"""Receiving messages: each once, and acknowledged when that is certain."""

from __future__ import annotations

import contextlib
from collections import OrderedDict
from collections.abc import Callable
from typing import Final

from snakemq._core.features import DeliveryFeature
from snakemq._core.frames import decode_sequence, encode_acknowledgement
from snakemq._core.received import Received
from snakemq._failures import StorageFailures
from snakemq._inbox import Inbox, is_passing
from snakemq._peer_connection import Hold, PeerConnection
from snakemq.exceptions import NoConnection, SnakeMQBrokenMessage
from snakemq.message import FLAG_PERSISTENT, Message
from snakemq.packeter import Packeter
from snakemq.storage import QueuesStorageBase

__all__ = ["ACK_DELAY", "MAX_ABSENT", "STORAGE_RETRY", "WINDOW", "Incoming"]

#: What a peer may send before it is acknowledged.
WINDOW: Final = DeliveryFeature(window_messages=8192, window_bytes=16 * 1024 * 1024)

#: How long the acknowledgement of messages with TTL 0 may wait for more, in
#: seconds. They are never repeated, so nothing depends on it but the window;
#: and one for each would double the packets of remote calls.
ACK_DELAY: Final = 0.02

# If more than this waits to be sent, in bytes, there is one acknowledgement of it at most.
_ACK_BACKLOG: Final = 4096

# When so much of the window is used, the sender must not wait.
_ACK_MESSAGES: Final = WINDOW.window_messages // 4
_ACK_BYTES: Final = WINDOW.window_bytes // 4

#: Of how many absent peers is remembered what they sent.
MAX_ABSENT: Final = 1000

#: When a storage that failed is tried again, in seconds.
STORAGE_RETRY: Final = 1.0


class Incoming:
    """The memory of what was received, and its acknowledgement. Loop thread only.

    :param packeter: the layer below
    :param storage: where the memory is kept; ``None``: nowhere
    :param inbox: where messages wait for their callbacks; ``None``: they do not
    :param set_hold: ``func(connection, hold, held)``
    :param failures: where failures of the storage are told
    """

    def __init__(
        self,
        packeter: Packeter,
        storage: QueuesStorageBase | None,
        inbox: Inbox | None,
        set_hold: Callable[[PeerConnection, Hold, bool], object],
        failures: StorageFailures,
    ) -> None:
        self._packeter = packeter
        self._storage = storage
        self._inbox = inbox
        self._set_hold = set_hold
        self._failures = failures
        #: whether all messages are to be noted, and not only the persistent ones:
        #: the others can come again, too, when this process is restarted
        self.notes_all = storage is not None
        # The absent peers first, the longest absent first of all.
        self._memories: OrderedDict[str, Received] = OrderedDict()
        self._connected: set[str] = set()

    def arrive(self, connection: PeerConnection, ident: str) -> None:
        """A peer that knows acknowledged delivery is connected."""
        memory = self._memories.get(ident)
        if memory is None:
            memory = self._memories[ident] = self._load(ident)
        self._memories.move_to_end(ident)
        self._connected.add(ident)
        memory.begin()
        connection.memory = memory
        # Before the first message there has to be a word about its number.
        connection.doubtful = 1

    def _load(self, ident: str) -> Received:
        if self._storage is not None:
            try:
                known = self._storage.load_received(ident)
            except Exception as exc:
                self._failures.report(
                    exc,
                    "what was received of %r before can't be read: what it sends again will "
                    "come with redelivered set",
                    ident,
                )
            else:
                return Received(WINDOW.window_messages, known)
        return Received(WINDOW.window_messages)

    def depart(self, connection: PeerConnection, ident: str) -> None:
        """It is gone. What it sent is remembered for when it comes back."""
        if connection.memory is None:
            return
        self._connected.discard(ident)
        self._memories.move_to_end(ident)
        if connection.memory.is_empty:
            # Soon: a callback may have closed it, whose message is not noted yet.
            self._packeter.call_soon(self._forget_empty, ident)
        absent = len(self._memories) - len(self._connected)
        if absent > MAX_ABSENT:
            oldest = next(name for name in self._memories if name not in self._connected)
            del self._memories[oldest]

    def _forget_empty(self, ident: str) -> None:
        """Whoever makes up an identifier costs nothing that lasts."""
        memory = self._memories.get(ident)
        if memory is not None and memory.is_empty and ident not in self._connected:
            del self._memories[ident]

    def expect(self, connection: PeerConnection, payload: bytes) -> None:
        """The other side says where it is in the line of its messages.

        :raises SnakeMQBrokenMessage: malformed
        """
        memory = connection.memory
        assert memory is not None
        sequence = connection.sequence = decode_sequence(payload)
        memory.meet(sequence.stream)
        connection.number = connection.check_number = sequence.number
        last = connection.last_number = memory.last_number(sequence.stream)
        connection.knows_all = memory.knows_all(sequence.stream)
        known = 0 if last is None else last - sequence.number + 1
        connection.doubtful = max(0, known, sequence.stored, sequence.repeated)

    def is_wanted(self, connection: PeerConnection, message: Message) -> bool:
        """Look at a message that may have come before.

        What can't be told gets its ``redelivered`` set.

        :return: false if it did come before
        :raises SnakeMQBrokenMessage: it was not said which number it has
        """
        sequence = connection.sequence
        memory = connection.memory
        if sequence is None or memory is None:
            raise SnakeMQBrokenMessage("a message before its sequence")
        number = connection.check_number
        connection.check_number += 1
        connection.doubtful -= 1
        last = connection.last_number
        if last is not None and number <= last:
            self._note_again(connection, message)
            return False
        stored = number - sequence.number < sequence.stored
        if number - sequence.number >= max(sequence.stored, sequence.repeated):
            return True
        if connection.knows_all and not stored:
            return True
        if memory.recognise(message.uuid):
            self._note_again(connection, message)
            return False
        message.redelivered = True
        return True

    def _note_again(self, connection: PeerConnection, message: Message) -> None:
        """Have it among the last ones that are remembered: it may come once more.

        Those that the sender may repeat need not be the last ones that it sent,
        because it drops some. And it may be an earlier process that wrote this
        one down, and the disk not have it yet.
        """
        if connection.memory is not None and (self.notes_all or message.flags & FLAG_PERSISTENT):
            connection.memory.add(message.uuid)
            if self._storage is not None:
                connection.unmarked.append(message.uuid)
                connection.must_sync |= bool(message.flags & FLAG_PERSISTENT)

    @staticmethod
    def skip(connection: PeerConnection) -> None:
        """A message was handled before its turn, which is now."""
        if connection.doubtful:
            connection.doubtful -= 1
            connection.check_number += 1

    def note(self, connection: PeerConnection, message: Message) -> None:
        """The callbacks of a message have run: remember that.

        Of a persistent message the storage knows when this returns, so that it
        does not come again if this process is killed now.
        """
        memory = connection.memory
        assert memory is not None
        if message.ttl == 0:
            return  # it is never repeated
        memory.add(message.uuid)
        if self._storage is not None:
            connection.unmarked.append(message.uuid)
            if message.flags & FLAG_PERSISTENT:
                connection.must_sync = True
                self._mark(connection)

    def handled(self, connection: PeerConnection, count: int, size: int, *, wait: bool) -> None:
        """Messages were received together, and the callbacks of those that were wanted have run.

        With an inbox: they are to be stored now.

        :param count: how many messages
        :param size: how many bytes
        :param wait: the acknowledgement is not urgent
        """
        connection.received_total += count
        connection.number += count
        connection.unacked_bytes += size
        if self._inbox is not None and connection.ack_timer is None:
            # If one of the callbacks interrupts the loop.
            self._acknowledge_soon(connection)
        if not self._settle(connection) or connection.memory is None or connection.ident is None:
            return
        if (
            not wait
            or connection.received_total - connection.acked_received >= _ACK_MESSAGES
            or connection.unacked_bytes >= _ACK_BYTES
        ):
            self._acknowledge(connection)
        elif connection.ack_timer is None:
            self._acknowledge_soon(connection)

    def _acknowledge_soon(self, connection: PeerConnection) -> None:
        if connection.memory is not None:
            connection.ack_timer = self._packeter.call_later(
                ACK_DELAY, self._acknowledge_later, connection
            )

    def _settle(self, connection: PeerConnection) -> bool:
        """Make durable what has to be before it is acknowledged.

        :return: whether that is done; else it is tried again later
        """
        if self._inbox is not None:
            if not self._store(connection, self._inbox):
                self._set_hold(connection, Hold.STORAGE, True)
                self._try_later(connection)
                self._let_pass(connection, self._inbox)
                return False
            self._set_hold(connection, Hold.STORAGE, False)
        # Only now: what is not in the inbox has to come again.
        if connection.memory is not None and connection.sequence is not None:
            sequence = connection.sequence
            announced = max(sequence.stored, sequence.repeated)
            connection.memory.handled(
                sequence.stream,
                connection.number - 1,
                has_new=connection.number > sequence.number + announced,
            )
        if self._storage is not None and not (self._mark(connection) and self._sync(connection)):
            self._try_later(connection)
            return False
        if self._inbox is not None:
            self._inbox.run(connection.session.ident)
        return True

    def _store(self, connection: PeerConnection, inbox: Inbox) -> bool:
        messages = connection.unstored
        if not messages:
            return True
        ident = connection.session.ident
        try:
            inbox.store(connection.conn_id, ident, messages, keep=WINDOW.window_messages)
        except Exception as exc:
            self._failures.report(
                exc,
                "conn=%s ident=%r %d messages could not be stored and are not acknowledged",
                connection.conn_id,
                ident,
                len(messages),
            )
            return False
        if connection.memory is not None:
            for message in messages:
                if message.ttl != 0:
                    connection.memory.add(message.uuid)
        connection.unstored = []
        if inbox.is_full(ident):
            self._set_hold(connection, Hold.INBOX, True)
        return True

    @staticmethod
    def _let_pass(connection: PeerConnection, inbox: Inbox) -> None:
        """What is for now only does not wait for the storage."""
        passing = [message for message in connection.unstored if is_passing(message)]
        connection.unstored = [m for m in connection.unstored if not is_passing(m)]
        inbox.let_pass(connection.conn_id, connection.session.ident, passing)

    def _mark(self, connection: PeerConnection) -> bool:
        uuids = connection.unmarked
        if uuids and self._storage is not None:
            if connection.retry_timer is not None:
                return False  # one complaint is enough
            try:
                self._storage.add_received(
                    connection.session.ident, uuids, keep=WINDOW.window_messages, sync=False
                )
            except Exception as exc:
                self._failed(connection, exc)
                self._try_later(connection)
                return False
            connection.unmarked = []
        return True

    def _sync(self, connection: PeerConnection) -> bool:
        if connection.must_sync and self._storage is not None:
            try:
                self._storage.sync()
            except Exception as exc:
                self._failed(connection, exc)
                return False
            connection.must_sync = False
        return True

    def _failed(self, connection: PeerConnection, exc: Exception) -> None:
        self._failures.report(
            exc,
            "conn=%s ident=%r the storage failed, what was received is not acknowledged",
            connection.conn_id,
            connection.session.ident,
        )

    def _try_later(self, connection: PeerConnection) -> None:
        if connection.retry_timer is None and connection.ident is not None:
            connection.retry_timer = self._packeter.call_later(
                STORAGE_RETRY, self._try_again, connection
            )

    def _try_again(self, connection: PeerConnection) -> None:
        connection.retry_timer = None
        if self._settle(connection) and connection.memory is not None:
            self._acknowledge(connection)

    def acknowledge_now(self, connection: PeerConnection) -> None:
        """Send the acknowledgement that waits for more messages, if there is one."""
        if connection.ack_timer is not None:
            self._acknowledge(connection)

    def acknowledge_at_last(self, connection: PeerConnection) -> None:
        """It is about to end: send the acknowledgement that waits, also behind another one."""
        if connection.ack_due or connection.ack_timer is not None:
            connection.last_ack = None
            self._acknowledge(connection)

    def _acknowledge_later(self, connection: PeerConnection) -> None:
        connection.ack_timer = None
        self._acknowledge(connection)

    def _acknowledge(self, connection: PeerConnection) -> None:
        if (
            connection.ident is None
            or connection.unstored
            or connection.unmarked
            or connection.must_sync
        ):
            return  # it is gone, or tried again later
        if connection.ack_timer is not None:
            connection.ack_timer.cancel()
            connection.ack_timer = None
        with contextlib.suppress(NoConnection):
            # At its end: the sender will repeat, and be recognised.
            connection.ack_due = self._waits_for_reader(connection)
            if connection.ack_due:
                return
            connection.acked_received = connection.received_total
            connection.unacked_bytes = 0
            frame = encode_acknowledgement(connection.received_total)
            connection.last_ack = self._packeter.send_packet(connection.conn_id, frame)

    def _waits_for_reader(self, connection: PeerConnection) -> bool:
        # The next one will count all. So who sends and reads nothing gets no memory for them.
        return (
            connection.last_ack is not None
            and self._packeter.unsent_bytes(connection.conn_id) > _ACK_BACKLOG
        )

    def handle_sent(self, connection: PeerConnection, packet_id: int) -> None:
        """The packets up to this one are with the system."""
        if connection.last_ack is not None and connection.last_ack <= packet_id:
            connection.last_ack = None
            if connection.ack_due:
                self._acknowledge(connection)
