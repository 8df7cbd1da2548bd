"""The inbox: messages that are stored until their callbacks have returned.

Each message is stored before it is acknowledged. Its callbacks are called in
the order of arrival, one message of a peer after the other; when one raises,
that peer's messages wait for a while and the same one is tried again, so that
the order stays. After some attempts it is laid aside among the dead letters.
"""

from __future__ import annotations

import contextlib
import enum
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from typing import Final, cast

from snakemq._failures import StorageFailures
from snakemq._peer_log import PeerLog, quoted
from snakemq._transaction import Transaction
from snakemq.contracts import TimerHandle
from snakemq.counters import Counters
from snakemq.exceptions import StorageError
from snakemq.message import FLAG_PERSISTENT, Message
from snakemq.packeter import Packeter
from snakemq.storage import DeadLetter, InboxItem, QueuesStorageBase

__all__ = ["INBOX_BYTES", "INBOX_MESSAGES", "Inbox", "Waiting", "is_passing"]

#: How often the callbacks of a message are called before it is a dead letter.
MAX_ATTEMPTS: Final = 10

#: When a message is tried again, in seconds: after the first attempt, and at most.
RETRY_DELAY: Final = 1.0
MAX_RETRY_DELAY: Final = 60.0

#: How many messages of a peer wait here before it has to keep the rest, and of
#: how many bytes.
INBOX_MESSAGES: Final = 8192
INBOX_BYTES: Final = 16 * 1024 * 1024


class _State(enum.Enum):
    """What became of a message in the inbox."""

    STORED = "stored"
    #: its callback will say when it is done
    DEFERRED = "deferred"
    #: nothing more to do but to remove it from the storage
    DONE = "done"
    #: not in the storage any more
    REMOVED = "removed"


class Waiting:
    """A message that is stored here and not handled yet.

    :param number: what the storage knows it by
    """

    __slots__ = ("conn_id", "ident", "message", "number", "state")

    def __init__(self, number: int, conn_id: str, ident: str, message: Message) -> None:
        self.number = number
        self.conn_id = conn_id
        self.ident = ident
        self.message = message
        self.state = _State.STORED


class _Passing:
    """A message that is not stored, and keeps its place among the others."""

    __slots__ = ("conn_id", "message")

    def __init__(self, conn_id: str, message: Message) -> None:
        self.conn_id = conn_id
        self.message = message


def is_passing(message: Message) -> bool:
    """Whether a message is for now only: it is neither stored nor repeated."""
    return message.ttl == 0 and not message.flags & FLAG_PERSISTENT


def _waiting(message: Message) -> Waiting | None:
    return cast("Waiting | None", message.__dict__.get("_waiting"))


class _Line:
    """What waits of one peer."""

    __slots__ = ("bytes", "count", "done", "items", "timer")

    def __init__(self) -> None:
        self.items: deque[Waiting | _Passing] = deque()
        # With those that are deferred.
        self.count = 0
        self.bytes = 0
        #: is to be removed from the storage with the next step there
        self.done: int | None = None
        self.timer: TimerHandle | None = None


class Inbox:
    """Messages that are stored and not handled yet, of all peers.

    What can be called from any thread says so.

    :ivar max_attempts: how often the callbacks of a message are called before
        it is a dead letter
    :ivar retry_delay: when it is tried again after the first attempt, in
        seconds; twice as long after each further one
    :ivar max_retry_delay: at most so many seconds later
    :param packeter: gives timers
    :param storage: where the messages are
    :param deliver: ``func(conn_id, ident, message)``; calls the callbacks and
        returns what one of them raised, or ``None``
    :param tell_room: ``func(ident)``; there is room again for messages of this peer
    :param begin: ``func(remove)``; begins a transaction whose last step is
        ``remove(storage)``
    :param log: where is told what becomes of messages that fail
    :param failures: where failures of the storage are told
    :param counters: with ``dead_letters``
    :raises StorageError: the storage can't keep them, or not be read
    """

    def __init__(
        self,
        packeter: Packeter,
        storage: QueuesStorageBase | None,
        deliver: Callable[[str, str, Message], Exception | None],
        tell_room: Callable[[str], object],
        begin: Callable[
            [Callable[[QueuesStorageBase], object]], AbstractContextManager[Transaction]
        ],
        log: PeerLog,
        failures: StorageFailures,
        counters: Counters,
    ) -> None:
        if storage is None or not storage.keeps_received:
            what = "no storage" if storage is None else f"a {type(storage).__name__}"
            raise StorageError(
                "durable_receive needs a storage that keeps what is received, such as "
                f"SqliteQueuesStorage, and there is {what}"
            )
        self.max_attempts = MAX_ATTEMPTS
        self.retry_delay = RETRY_DELAY
        self.max_retry_delay = MAX_RETRY_DELAY
        self._packeter = packeter
        self._storage = storage
        self._deliver = deliver
        self._tell_room = tell_room
        self._begin_transaction = begin
        self._log = log
        self._counters = counters
        self._failures = failures
        self._lines: dict[str, _Line] = {}
        # What an earlier process left. The callbacks are called when the loop runs.
        self.take_up(storage.get_inbox())

    def take_up(self, items: Iterable[InboxItem]) -> None:
        """Messages are in the storage: have their callbacks called."""
        for item in items:
            # They may have been, by an earlier process that could not write
            # that down any more.
            item.message.redelivered = True
            item.message.attempts = item.attempts
            self._add(Waiting(item.id, "", item.ident, item.message))
            self._packeter.call_soon(self.run, item.ident)

    def store(self, conn_id: str, ident: str, messages: list[Message], *, keep: int) -> None:
        """Messages arrived; then :meth:`run`.

        Those with TTL 0 are never repeated, so they are not stored, and do not
        wait behind one that failed, because somebody may wait for them.

        :param keep: how many identifiers are remembered of this peer
        :raises snakemq.exceptions.StorageError: they are not stored
        """
        stored = [message for message in messages if not is_passing(message)]
        ids = iter(self._storage.push_inbox(ident, stored, keep=keep) if stored else ())
        for message in messages:
            if is_passing(message):
                self._line(ident).items.append(_Passing(conn_id, message))
            else:
                message.attempts = 0
                self._add(Waiting(next(ids), conn_id, ident, message))

    def let_pass(self, conn_id: str, ident: str, messages: list[Message]) -> None:
        """Call the callbacks for messages that do not wait for those that can't be stored."""
        line = self._line(ident)
        line.items.extend(_Passing(conn_id, message) for message in messages)
        self._let_pass(line, ident)

    def _line(self, ident: str) -> _Line:
        line = self._lines.get(ident)
        if line is None:
            line = self._lines[ident] = _Line()
        return line

    def _add(self, waiting: Waiting) -> None:
        line = self._line(waiting.ident)
        line.items.append(waiting)
        line.count += 1
        line.bytes += len(waiting.message.data)
        waiting.message.__dict__["_waiting"] = waiting

    def is_full(self, ident: str) -> bool:
        """Whether enough waits of this peer."""
        line = self._lines.get(ident)
        return line is not None and (line.count >= INBOX_MESSAGES or line.bytes >= INBOX_BYTES)

    # For the application.

    def dead_letters(self) -> list[DeadLetter]:
        """The messages whose callbacks failed too often, the oldest first. Any thread."""
        return self._storage.get_dead()

    def retry_dead_letters(self, ids: Sequence[int] | None = None) -> int:
        """Put dead letters back, behind what is there. Any thread.

        :param ids: of :meth:`dead_letters`; ``None``: all
        :return: how many
        """
        items = self._storage.retry_dead(ids)
        self._packeter.call_soon(self.take_up, items)
        return len(items)

    def drop_dead_letters(self, ids: Sequence[int] | None = None) -> int:
        """Delete dead letters. Any thread.

        :param ids: of :meth:`dead_letters`; ``None``: all
        :return: how many
        """
        return self._storage.drop_dead(ids)

    @contextlib.contextmanager
    def transaction(self, message: Message) -> Iterator[Transaction]:
        """Handle a message exactly once; in its callback, or before :meth:`done`.

        As :meth:`snakemq.messaging.Messaging.transaction`, and the message
        leaves the inbox with it. So what is written by way of
        :attr:`Transaction.db` is written if, and only if, the message does not
        come again. Once it is committed it does not come again whatever the
        callback raises.

        :raises StorageError: the message is not in the inbox (any more)
        """
        waiting = _waiting(message)
        if waiting is None or waiting.state in (_State.DONE, _State.REMOVED):
            raise StorageError(
                "only a message that is in the inbox has a transaction, and this one is not there"
            )
        number = waiting.number
        with self._begin_transaction(
            lambda storage: storage.advance_inbox(number, None)
        ) as transaction:
            yield transaction
        deferred = waiting.state is _State.DEFERRED
        waiting.state = _State.REMOVED
        if deferred:
            self._packeter.call_soon(self._leave, waiting)

    def defer(self, message: Message) -> bool:
        """In a callback: the message is not handled when the callbacks return.

        It stays in the inbox until :meth:`done`, and those after it are handled
        meanwhile. This was no attempt; the next :meth:`begin` is one.

        :return: false if it is not one of the inbox
        """
        waiting = _waiting(message)
        if waiting is None or waiting.state is not _State.STORED:
            return False
        waiting.state = _State.DEFERRED
        message.attempts -= 1
        with self._errors_logged(waiting.ident):
            self._storage.uncount_attempt(waiting.number)
        return True

    def begin(self, message: Message) -> None:
        """A message that was deferred is being handled now. Any thread."""
        waiting = _waiting(message)
        if waiting is not None and waiting.state is _State.DEFERRED:
            message.attempts += 1
            with self._errors_logged(waiting.ident):
                self._storage.advance_inbox(None, waiting.number)

    @contextlib.contextmanager
    def _errors_logged(self, ident: str) -> Iterator[None]:
        # It is only about how often a message comes again at most.
        try:
            yield
        except Exception as exc:
            self._failures.report(exc, "ident=%r the storage of the inbox failed", ident)

    def done(self, message: Message) -> None:
        """A message that was deferred is handled. Any thread.

        It does not come again if this process is killed when this has returned.
        """
        waiting = _waiting(message)
        if waiting is None or waiting.state is not _State.DEFERRED:
            return
        waiting.state = _State.DONE
        self._remove_deferred(waiting)

    def _remove_deferred(self, waiting: Waiting) -> None:
        try:
            self._storage.advance_inbox(waiting.number, None)
        except Exception as exc:
            self._failures.report(exc, "ident=%r the storage of the inbox failed", waiting.ident)
            self._packeter.call_soon(
                self._packeter.call_later, self.retry_delay, self._remove_deferred, waiting
            )
            return
        waiting.state = _State.REMOVED
        self._packeter.call_soon(self._leave, waiting)

    def _leave(self, waiting: Waiting) -> None:
        line = self._lines[waiting.ident]
        self._gone(line, waiting)
        if not line.count and not line.items and line.done is None:
            del self._lines[waiting.ident]

    # Calling the callbacks.

    def run(self, ident: str) -> None:
        """Call the callbacks for what waits of a peer, until one raises."""
        line = self._lines.get(ident)
        if line is None:
            return
        if line.timer is not None:
            self._let_pass(line, ident)
            return
        try:
            while line.items:
                first = line.items[0]
                if isinstance(first, _Passing):
                    # If this process is killed now, the one before must not come again.
                    if not self._remove_done(line, ident):
                        return
                    line.items.popleft()
                    self._deliver(first.conn_id, ident, first.message)
                elif not self._step(line, first):
                    return
            self._remove_done(line, ident)
        finally:
            if line.items and line.timer is None:
                # KeyboardInterrupt out of a callback: the loop may be called again.
                self._packeter.call_soon(self.run, ident)
            elif not line.count and not line.items and line.done is None:
                self._lines.pop(ident, None)

    def _step(self, line: _Line, waiting: Waiting) -> bool:
        """The next message: whether it is out of the way."""
        if waiting.state is _State.STORED and waiting.message.attempts >= self.max_attempts:
            return self._bury(line, waiting, "this process ended while its callbacks ran")
        if waiting.state is _State.STORED:
            try:
                self._storage.advance_inbox(line.done, waiting.number)
            except Exception as exc:
                self._storage_failed(line, waiting.ident, exc)
                return False
            line.done = None
            message = waiting.message
            message.attempts += 1
            if message.attempts > 1:
                message.redelivered = True
            failure: Exception | None = None
            finished = False
            try:
                failure = self._deliver(waiting.conn_id, waiting.ident, message)
                finished = True
            finally:
                # KeyboardInterrupt: all callbacks have run, as elsewhere.
                if not finished and waiting.state is _State.STORED:
                    waiting.state = _State.DONE
            if failure is not None and waiting.state is not _State.REMOVED:
                return self._failed(line, waiting, failure)
            if waiting.state is _State.STORED:
                waiting.state = _State.DONE
        if waiting.state is _State.DONE:
            if not self._remove_done(line, waiting.ident):
                return False
            line.done = waiting.number
        line.items.popleft()
        if waiting.state is not _State.DEFERRED:
            self._gone(line, waiting)
        return True

    def _remove_done(self, line: _Line, ident: str) -> bool:
        """Remove from the storage what was handled last."""
        if line.done is not None:
            try:
                self._storage.advance_inbox(line.done, None)
            except Exception as exc:
                self._storage_failed(line, ident, exc)
                return False
            line.done = None
        return True

    def _failed(self, line: _Line, waiting: Waiting, failure: Exception) -> bool:
        message = waiting.message
        waiting.state = _State.STORED
        if message.attempts < self.max_attempts:
            delay = min(self.max_retry_delay, self.retry_delay * 2.0 ** (message.attempts - 1))
            self._log.warning(
                waiting.ident,
                "ident=%a message %s failed for the %d. time, next attempt in %.1f s",
                waiting.ident,
                message.uuid.hex(),
                message.attempts,
                delay,
            )
            self._wait(line, waiting.ident, delay)
            return False
        return self._bury(line, waiting, f"{type(failure).__name__}: {failure}")

    def _bury(self, line: _Line, waiting: Waiting, reason: str) -> bool:
        message = waiting.message
        try:
            self._storage.bury(waiting.number, reason)
        except Exception as exc:
            self._storage_failed(line, waiting.ident, exc)
            return False
        self._counters.add("dead_letters")
        self._log.error(
            waiting.ident,
            "ident=%a message %s failed %d times and is a dead letter now: %s",
            waiting.ident,
            message.uuid.hex(),
            message.attempts,
            quoted(reason),
        )
        line.items.popleft()
        self._gone(line, waiting)
        return True

    def _storage_failed(self, line: _Line, ident: str, exc: Exception) -> None:
        self._failures.report(exc, "ident=%r the storage of the inbox failed", ident)
        self._wait(line, ident, self.retry_delay)

    def _wait(self, line: _Line, ident: str, delay: float) -> None:
        if line.timer is None:
            line.timer = self._packeter.call_later(delay, self._retry, line, ident)
        self._let_pass(line, ident)

    def _let_pass(self, line: _Line, ident: str) -> None:
        """What is for now only does not wait for the next attempt."""
        passing = deque(item for item in line.items if isinstance(item, _Passing))
        line.items = deque(item for item in line.items if isinstance(item, Waiting))
        try:
            while passing:
                item = passing.popleft()
                self._deliver(item.conn_id, ident, item.message)
        finally:  # KeyboardInterrupt: at the next opportunity
            line.items += passing

    def _retry(self, line: _Line, ident: str) -> None:
        line.timer = None
        self.run(ident)

    def _gone(self, line: _Line, waiting: Waiting) -> None:
        was_full = self.is_full(waiting.ident)
        line.count -= 1
        line.bytes -= len(waiting.message.data)
        # They hold each other, and would wait for the garbage collector.
        waiting.message.__dict__.pop("_waiting", None)
        if was_full and not self.is_full(waiting.ident):
            self._tell_room(waiting.ident)
