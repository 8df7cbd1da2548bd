"""Bringing answers to callers, again if need be."""

from __future__ import annotations

import enum
import threading
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypeAlias

from snakemq._core.rpc_parts import REPLY_PARTS
from snakemq._core.rpc_records import REPLY_PREFIX, Code
from snakemq._peer_log import PeerLog, quoted
from snakemq.exceptions import QueueFull
from snakemq.limits import DropReason
from snakemq.message import Message, fleeting
from snakemq.rpc._executions import Execution, Executions
from snakemq.rpc._parts import PartSender
from snakemq.rpc._replies import ReplyWriter
from snakemq.rpc.errors import AnswerGone, Unserializable
from snakemq.rpc.remote_traceback import describe

if TYPE_CHECKING:
    from snakemq.contracts import TimerHandle
    from snakemq.messaging import ReceiveHook

__all__ = ["Answers", "End"]

#: When an answer for which there was no room is sent again, in seconds.
_FIRST_RETRY: Final = 0.05
_LAST_RETRY: Final = 5.0

#: So many replies of one caller wait for room.
_MAX_BLOCKED: Final = 10_000

#: So many large answers are remembered, for the case that they are refused.
_MAX_LARGE: Final = 1000

#: How often at most to look for answers that are too old, in seconds.
_EXPIRY_INTERVAL: Final = 10.0


class End(enum.Enum):
    """What became of a reply that was sent."""

    #: the caller has it
    ACKNOWLEDGED = "acknowledged"
    #: it was handed to the system, and nothing more will be known of it
    LEFT = "left"
    #: the connection ended before that, or there was none
    LOST = "lost"


_ACKNOWLEDGED: Final = End.ACKNOWLEDGED

#: Of whom a reply is: the execution that it answers, which is forgotten when it is
#: acknowledged; or ``func(end, conn_id)``, with the connection on which it was acknowledged,
#: if it was.
_Source: TypeAlias = Execution | Callable[[End, str], object]


class _Blocked(NamedTuple):
    """A reply for which there is no room."""

    source: _Source
    #: empty: it is the answer of an execution, and kept there, as long as it is kept
    record: bytes


def _ignore(end: End, conn_id: str) -> None:
    """Nobody has to know."""


#: A timer that is about to be set.
_ARMING: Final = object()


class Answers:
    """Sends the answers to calls, and keeps those that may be asked for again.

    :param receive_hook: its messaging carries them
    :param executions: keeps them
    :param replies: writes what is said instead of an answer that can't be sent
    """

    def __init__(
        self,
        receive_hook: ReceiveHook,
        executions: Executions,
        replies: ReplyWriter,
        log: PeerLog,
    ) -> None:
        messaging = self._messaging = receive_hook.messaging
        self._executions = executions
        self._replies = replies
        self._log = log
        self._lock = threading.Lock()
        # What was sent and not acknowledged, by peer and message.
        self._sent: dict[str, dict[bytes, _Source]] = {}
        # Large ones may be refused by the caller, even when all of it was sent.
        self._large: OrderedDict[bytes, bytes] = OrderedDict()
        # For which there was no room.
        self._blocked: dict[str, deque[_Blocked]] = {}
        self._retry_delay = 0.0
        self._retry_timer: TimerHandle | None = None
        #: told when one of them is acknowledged or lost
        self.on_change: Callable[[], object] = lambda: None
        #: told when there was no room for one, and too many others waited already
        self.on_lost: Callable[[], object] = lambda: None
        self._timer: Any = None
        self._closed = False
        self._parts = PartSender(
            receive_hook, REPLY_PARTS, self._part_failed, arrived=self._part_arrived
        )
        self._acknowledged = partial(self._out_of_queue, End.ACKNOWLEDGED)
        self._left = partial(self._out_of_queue, End.LEFT)
        messaging.on_messages_acked.wire(self._acknowledged)
        messaging.on_messages_left.wire(self._left)
        messaging.on_messages_dropped.wire(self._dropped)
        messaging.on_disconnect.wire(self._disconnected)

    @property
    def under_way(self) -> int:
        """How many replies connected callers have not acknowledged."""
        with self._lock:
            return sum(map(len, self._sent.values())) + sum(map(len, self._blocked.values()))

    def keep_and_send(
        self, execution: Execution, answer: bytes, *, is_stored: bool = False
    ) -> None:
        """A call has its answer. Any thread.

        :param answer: empty: its caller gets none, also when it asks again
        :param is_stored: it is in the store already
        """
        try:
            self._executions.answered(execution, answer, is_stored=is_stored)
        except Exception:
            # It has run; better that the caller knows.
            ident = execution.ident
            self._log.exception(ident, "ident=%s an answer could not be stored", quoted(ident))
        if self._timer is None:
            self._watch()
        if answer:
            self.send(execution.ident, answer, execution)

    def send_again(self, execution: Execution) -> None:
        """The caller has asked again for an answer. Any thread."""
        answer = execution.answer
        if answer:
            self.send(execution.ident, answer, execution)
        elif execution.is_gone and (gone := self._answer_of(execution)):
            self.send(execution.ident, gone)

    def _send_instead(self, ident: str, req_id: bytes, error: Exception, source: _Source) -> None:
        """Send what is wrong with an answer."""
        failure = Unserializable(f"the result can't be sent: {describe(error)}")
        record = self._replies.error(req_id, failure, "", code=Code.UNSERIALIZABLE)
        if record is not None:
            try:
                self.send(ident, record, source)
            except Exception as reason:
                self._not_answered(ident, reason)

    def _not_answered(self, ident: str, error: Exception) -> None:
        self._log.error(
            ident, "ident=%s can't be answered: %s", quoted(ident), quoted(describe(error))
        )

    def send(self, ident: str, record: bytes, source: _Source = _ignore) -> None:
        """Send a reply. It is lost if the caller is not connected. Any thread.

        :param source: the execution of which this is the answer, or what is called when it
            is known to have arrived, or nothing more will be known of it
        :raises Exception: it can't be sent. If it is an answer, its caller is told instead.
        """
        # Behind those for which there was no room before.
        if ident not in self._blocked:
            full = self._try_to_send(ident, record, source)
            if full is None:
                return
            self._log.warning(
                ident, "ident=%s is answered later, for its queue is full: %s", quoted(ident), full
            )
        self._block(ident, _Blocked(source, b"" if isinstance(source, Execution) else record))

    def _try_to_send(self, ident: str, record: bytes, source: _Source) -> QueueFull | None:
        """Send a reply, unless there is no room for it."""
        # Somebody waits for it: it goes before the messages that wait.
        message = fleeting(REPLY_PREFIX + record)
        with self._lock:
            self._sent.setdefault(ident, {})[message.uuid] = source
        is_lost = True
        try:
            if len(message.data) <= self._parts.part_size:
                messaging = self._messaging
                is_lost = not (
                    messaging.shortcut.send(ident, message)
                    or messaging.send_message(ident, message, urgent=True, prompt=True)
                )
            else:
                if isinstance(source, Execution):
                    self._remember_large(message.uuid, source.req_id)
                is_lost = not self._parts.send(ident, message.data, key=message.uuid, urgent=True)
        except QueueFull as exc:
            is_lost = False
            self._take_back(ident, message.uuid)
            return exc
        except Exception as exc:
            if not isinstance(source, Execution):
                raise
            self._not_sent(source, exc)
        finally:
            if is_lost:
                self._end(ident, message.uuid, End.LOST)
        return None

    def _not_sent(self, execution: Execution, error: Exception) -> None:
        """An answer is too large, most often; that it is so is not."""
        ident = execution.ident
        self._log.warning(
            ident, "ident=%s an answer can't be sent: %s", quoted(ident), quoted(describe(error))
        )

        def ended(end: End, conn_id: str) -> None:
            if end is _ACKNOWLEDGED:
                self._executions.acknowledged([execution], conn_id)

        self._send_instead(ident, execution.req_id, error, ended)

    def _remember_large(self, key: bytes, req_id: bytes) -> None:
        with self._lock:
            self._large[key] = req_id
            if len(self._large) > _MAX_LARGE:
                self._large.popitem(last=False)

    def close(self) -> None:
        """Send nothing more."""
        self._closed = True
        messaging = self._messaging
        messaging.call_soon(self._cancel_timers)
        messaging.on_messages_acked.remove(self._acknowledged)
        messaging.on_messages_left.remove(self._left)
        messaging.on_messages_dropped.remove(self._dropped)
        messaging.on_disconnect.remove(self._disconnected)
        self._parts.close()
        with self._lock:
            self._sent.clear()
            self._blocked.clear()

    def _take_back(self, ident: str, key: bytes) -> _Source | None:
        with self._lock:
            sent = self._sent.get(ident)
            source = sent.pop(key, None) if sent else None
            self._forget_empty(ident)
            return source

    def _forget_empty(self, ident: str) -> None:
        if ident in self._sent and not self._sent[ident]:
            del self._sent[ident]

    def _end(self, ident: str, key: bytes, end: End, conn_id: str = "") -> None:
        source = self._take_back(ident, key)
        if source is not None:
            self._tell_end([source], end, conn_id)

    def _tell_end(self, sources: Iterable[_Source], end: End, conn_id: str) -> None:
        """Say what became of replies. What this raises is logged: there are others to be told."""
        answered: list[Execution] = []
        for source in sources:
            if isinstance(source, Execution):
                answered.append(source)
                continue
            try:
                source(end, conn_id)
            except Exception:
                self._log.exception("", "exception in %r", source)
        if answered and end is _ACKNOWLEDGED:
            try:
                self._executions.acknowledged(answered, conn_id)
            except Exception:
                self._log.exception("", "%d answers could not be forgotten", len(answered))
        self.on_change()

    def _block(self, ident: str, blocked: _Blocked) -> None:
        """Send something when there is room for it again."""
        with self._lock:
            first = not self._blocked
            line = self._blocked.setdefault(ident, deque())
            line.append(blocked)
            lost = line.popleft() if len(line) > _MAX_BLOCKED else None
        if lost is not None:
            self.on_lost()
            self._tell_end([lost.source], End.LOST, "")
        if first:
            self._messaging.call_soon(self._arm_retry)

    # In the thread of the loop.

    def _out_of_queue(
        self, end: End, conn_id: str, ident: str, messages: Sequence[Message]
    ) -> None:
        sent = self._sent.get(ident)
        if sent:
            sources: list[_Source] = []
            for message in messages:
                # One step, so that of two threads one gets it.
                source = sent.pop(message.uuid, None)
                if source is not None:
                    sources.append(source)
            if not sent:
                with self._lock:
                    self._forget_empty(ident)
            self._tell_end(sources, end, conn_id)
        if ident in self._blocked:
            self._retry_line(ident)  # there may be room now

    def _dropped(self, ident: str, messages: list[Message], reason: DropReason) -> None:
        if reason is not DropReason.QUEUE_FULL or ident not in self._sent:
            return  # with the connection all of it ends
        for message in messages:
            source = self._take_back(ident, message.uuid)
            if source is not None:
                self._block(ident, _Blocked(source, message.data[len(REPLY_PREFIX) :]))

    def _arm_retry(self) -> None:
        if self._retry_timer is None and not self._closed:
            self._retry_delay = min(max(2 * self._retry_delay, _FIRST_RETRY), _LAST_RETRY)
            self._retry_timer = self._messaging.call_later(self._retry_delay, self._retry)

    def _retry(self) -> None:
        self._retry_timer = None
        for ident in list(self._blocked):
            self._retry_line(ident)
        if self._blocked:
            self._arm_retry()
        else:
            self._retry_delay = 0.0

    def _retry_line(self, ident: str) -> None:
        """Send what waits for a caller, as far as there is room."""
        while True:
            with self._lock:
                line = self._blocked.get(ident)
                if line is None:
                    return
                if not line:
                    del self._blocked[ident]
                    return
                blocked = line[0]
            source, record = blocked
            if not record and isinstance(source, Execution):
                record = self._answer_of(source)
            try:
                if record and self._try_to_send(ident, record, source) is not None:
                    return
            except Exception as exc:
                self._not_answered(ident, exc)
            with self._lock:
                if line and line[0] is blocked:
                    line.popleft()

    def _answer_of(self, execution: Execution) -> bytes:
        """What is kept for a caller; empty: nothing has to be said any more."""
        if not execution.is_gone:
            return execution.answer or b""
        gone = AnswerGone("the method has run, and its answer was not kept until now")
        return self._replies.error(execution.req_id, gone, "", code=Code.ANSWER_GONE) or b""

    def _part_arrived(self, conn_id: str, ident: str, key: bytes) -> None:
        self._end(ident, key, End.ACKNOWLEDGED, conn_id)

    def _part_failed(self, ident: str, key: bytes, error: Exception) -> None:
        self._log.error(
            ident, "ident=%s a large answer could not be sent: %s", quoted(ident), quoted(error)
        )
        self._end(ident, key, End.LOST)
        req_id = self._large.pop(key, None)
        if req_id is not None:
            self._send_instead(ident, req_id, error, _ignore)

    def _disconnected(self, conn_id: str, ident: str) -> None:
        with self._lock:
            lost = list(self._sent.pop(ident, {}).values())
            lost += [blocked.source for blocked in self._blocked.pop(ident, ())]
        self._tell_end(lost, End.LOST, conn_id)

    def _cancel_timers(self) -> None:
        if self._retry_timer is not None:
            self._retry_timer.cancel()
        if self._timer is not None and self._timer is not _ARMING:
            self._timer.cancel()
        self._timer = None

    def _watch(self) -> None:
        """See to it that answers that nobody asks for are forgotten some day."""
        if self._timer is not None or self._closed:
            return
        with self._lock:
            if self._timer is not None:
                return
            self._timer = _ARMING
        self._messaging.call_soon(self._expire)

    def _expire(self) -> None:
        delay = self._executions.expire()
        with self._lock:
            # Until now nobody else could set one.
            self._timer = None
            if delay is not None and not self._closed:
                self._timer = self._messaging.call_later(max(delay, _EXPIRY_INTERVAL), self._expire)
        if delay is None and self._executions.has_answers:
            self._watch()  # there is one that came meanwhile
