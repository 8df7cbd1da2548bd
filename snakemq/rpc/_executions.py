"""Which requests were received, and what became of them: so that each is executed once.

A caller that was disconnected repeats its requests, with the same ``req_id``.
A request that is known is attached to what is running, or gets the answer that
was kept.

::

    BEGUN     -> ANSWERED   the method returned or raised
    ANSWERED  -> FORGOTTEN  the answer was acknowledged, or is too old
    BEGUN     -> FORGOTTEN  it was cancelled, or refused
    INTERRUPTED -> ANSWERED an earlier process was killed while it ran, and it
                            must not run again: the caller is told

The answer is kept until the caller has acknowledged it on the connection on
which the request came last. It can't come once more then: on each connection
a caller sends a request once, and for a call that has its answer never again.
A caller that acknowledges nothing (1.6) is remembered until there are too many.
"""

from __future__ import annotations

import enum
import hashlib
import logging
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from operator import attrgetter
from typing import Any, Final, Protocol, TypeAlias

from snakemq.counters import Counters

__all__ = ["AnswerLimits", "AnswerStore", "Execution", "Executions", "State"]

_log = logging.getLogger("snakemq.rpc.server")


@dataclass(frozen=True)
class AnswerLimits:
    """How many answers are kept for callers that have not acknowledged them.

    When there are too many, the oldest one goes of a caller that has more than
    others: nobody loses answers to one who does not fetch theirs.

    Without its answer a call can't be repeated: the caller then gets
    :class:`~snakemq.rpc.AnswerGone`. Of what is beyond count or age not even
    that it has run is known: the method would run again.

    :raises ValueError: one of them is negative
    """

    #: so many calls are remembered
    max_count: int = 10_000
    #: so many bytes of answers are kept
    max_bytes: int = 64 * 1024 * 1024
    #: for so many seconds
    max_age: float = 86400.0

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if not value >= 0:
                raise ValueError(f"{name} must be at least 0, not {value!r}")


class AnswerStore(Protocol):
    """What answers are kept in that survive the process: a :class:`snakemq.queues.Ledger`."""

    def load(self) -> Any:
        """Keys, records and their ages."""

    def get(self, key: bytes) -> bytes | None:
        """Read one."""

    def put(self, key: bytes, record: bytes) -> None:
        """Store one."""

    def remove(self, keys: list[bytes]) -> None:
        """Remove some."""


class State(enum.Enum):
    """How far a call is."""

    BEGUN = "begun"
    INTERRUPTED = "interrupted"
    ANSWERED = "answered"
    FORGOTTEN = "forgotten"


# Looking for them in their class takes longer, and is done several times for each call.
_BEGUN: Final = State.BEGUN
_ANSWERED: Final = State.ANSWERED
_FORGOTTEN: Final = State.FORGOTTEN


class Execution:
    """A call that was received.

    :ivar work: what the server has to know about it while it runs
    :ivar received_on: connection on which the request came last
    """

    __slots__ = (
        "answer",
        "answered_at",
        "caller",
        "ident",
        "is_stored",
        "received_on",
        "req_id",
        "state",
        "work",
    )

    def __init__(self, caller: _Caller, req_id: bytes, conn_id: str) -> None:
        self.caller = caller
        self.ident = caller.ident
        self.req_id = req_id
        self.received_on = conn_id
        self.state = _BEGUN
        self.work: Any = None
        #: the record of the reply; ``None``: there is none yet, or it is gone
        self.answer: bytes | None = None
        self.answered_at = 0.0
        #: something about it is in the store
        self.is_stored = False

    @property
    def is_gone(self) -> bool:
        """Whether it has run and its answer was not kept."""
        return self.state is _ANSWERED and self.answer is None


_answered_at: Final = attrgetter("answered_at")

#: Executions in the order of their answers.
_Line: TypeAlias = "OrderedDict[Execution, None]"


class _Caller:
    """What is remembered of one caller."""

    __slots__ = ("bytes", "calls", "gone", "ident", "kept")

    def __init__(self, ident: str) -> None:
        self.ident = ident
        #: all of them, by request
        self.calls: dict[bytes, Execution] = {}
        #: those that are answered, with their answers
        self.kept: _Line = OrderedDict()
        #: likewise, without: these are not kept (any more)
        self.gone: _Line = OrderedDict()
        #: how large the answers are together
        self.bytes = 0

    def oldest(self) -> Execution | None:
        """The one of these that was answered first."""
        gone, kept = next(iter(self.gone), None), next(iter(self.kept), None)
        if gone is None or kept is None:
            return gone or kept
        return min(gone, kept, key=_answered_at)


# What a record in the store begins with.
_RECORD_BEGUN: Final = b"\0"
_RECORD_ANSWER: Final = b"\1"
_RECORD_GONE: Final = b"\2"


class Executions:
    """All calls of a server that are running or whose answer may be asked for. Any thread.

    :param time: gives the time in seconds, monotonic
    :param limits: how much is kept
    :param store: where answers survive this process, or ``None``
    :param counters: counts what is beyond the limits, as ``answers_forgotten``
    """

    def __init__(
        self,
        time: Callable[[], float],
        limits: AnswerLimits,
        store: AnswerStore | None,
        counters: Counters | None = None,
    ) -> None:
        self.limits = limits
        self._counters = counters or Counters("answers_forgotten")
        self._time = time
        self._store = store
        self._lock = threading.Lock()
        # Those of whom there is anything.
        self._callers: dict[str, _Caller] = {}
        #: how many of them have answers
        self._answered_callers = 0
        # Of all callers. In which order is known of each caller only: it takes time for each
        # call, and who looks for the oldest of all looks at all callers.
        self._answered = 0
        self._bytes = 0
        #: what an earlier process has stored, by key: when, and how its record begins
        self._earlier: OrderedDict[bytes, tuple[float, bytes]] = OrderedDict()
        #: how many requests of a caller are received later
        self._deferred: dict[str, int] = {}
        #: connections of those that have ended meanwhile
        self._ended: dict[str, set[str]] = {}
        if store is not None:
            self._load(store)

    def _load(self, store: AnswerStore) -> None:
        now = self._time()
        for key, record, age in store.load():
            self._earlier[key] = (now - age, record[:1])
        self._evict_earlier()

    @property
    def has_answers(self) -> bool:
        """Whether there is something that will be too old some day."""
        return self._answered > 0

    def __len__(self) -> int:
        with self._lock:
            return sum(len(caller.calls) for caller in self._callers.values())

    @property
    def kept_bytes(self) -> int:
        """How large the answers are that are kept in memory."""
        return self._bytes

    def defer(self, ident: str) -> None:
        """A request of a caller is received later, in another thread."""
        with self._lock:
            self._deferred[ident] = self._deferred.get(ident, 0) + 1

    def deferred(self, ident: str) -> None:
        """Such a request was received, or came to nothing."""
        with self._lock:
            self._deferred[ident] -= 1
            if not self._deferred[ident]:
                del self._deferred[ident]
                self._ended.pop(ident, None)

    def connection_ended(self, ident: str, conn_id: str) -> None:
        """What came on a connection and was not received yet comes again, if it is still wanted."""
        with self._lock:
            if ident in self._deferred:
                self._ended.setdefault(ident, set()).add(conn_id)

    def receive(self, ident: str, req_id: bytes, conn_id: str) -> tuple[Execution, bool] | None:
        """A request came.

        :return: its execution, and whether it is new: then it has to be begun.
            ``None``: its connection has ended. It may have been repeated since,
            and answered, and be forgotten: it must not be begun.
        """
        with self._lock:
            if self._ended and conn_id in self._ended.get(ident, ()):
                return None
            caller = self._callers.get(ident)
            if caller is None:
                caller = self._callers[ident] = _Caller(ident)
            known = caller.calls.get(req_id)
            if known is not None:
                known.received_on = conn_id
                return known, False
            execution = caller.calls[req_id] = Execution(caller, req_id, conn_id)
            if not self._earlier:
                return execution, True
            stored = self._earlier.pop(_digest(execution), None)
            if stored is None:
                return execution, True
            execution.is_stored = True
            when, kind = stored
            if kind == _RECORD_BEGUN:
                execution.state = State.INTERRUPTED
                return execution, True
            self._note_answered(execution, when, None)
            caller.gone.move_to_end(execution, last=False)
        if kind == _RECORD_ANSWER:
            self._recall(execution)
        return execution, False

    def is_of_earlier(self, ident: str, req_id: bytes) -> bool:
        """Whether :meth:`receive` of this request will read the store, which may take a while."""
        return bool(self._earlier) and _digest_of(ident, req_id) in self._earlier

    def _recall(self, execution: Execution) -> None:
        """An earlier process has answered it."""
        assert self._store is not None
        try:
            record = self._store.get(_digest(execution))
        except Exception:
            # It has run; better that the caller knows.
            _log.exception("ident=%r an answer can't be read from the storage", execution.ident)
            return
        if record is not None:
            with self._lock:
                if execution.state is _ANSWERED:
                    self._note_answered(execution, execution.answered_at, record[1:])
                    execution.caller.kept.move_to_end(execution, last=False)

    def find(self, ident: str, req_id: bytes) -> Execution | None:
        """The execution of a request; ``None``: there is none."""
        caller = self._callers.get(ident)
        return None if caller is None else caller.calls.get(req_id)

    def of(self, ident: str) -> list[Execution]:
        """All of one caller."""
        with self._lock:
            caller = self._callers.get(ident)
            return [] if caller is None else list(caller.calls.values())

    def store_begin(self, execution: Execution) -> None:
        """Have it known, after a restart too, that it was begun.

        :raises Exception: of the store
        """
        if self._store is not None:
            self._put(execution, _RECORD_BEGUN)

    def answered(self, execution: Execution, answer: bytes, *, is_stored: bool = False) -> None:
        """Keep an answer. It is in the store when this returns.

        :param is_stored: it is there already
        :raises Exception: of the store; it is kept in memory then
        """
        removed: list[bytes] = []
        gone: list[Execution] = []
        with self._lock:
            execution.work = None
            is_wanted = execution.state is not _FORGOTTEN
            if is_wanted:
                execution.is_stored |= is_stored
                self._note_answered(execution, self._time(), answer)
                limits = self.limits
                if self._bytes > limits.max_bytes or self._answered > limits.max_count:
                    removed, gone = self._evict(execution)
            elif is_stored:
                removed = [_digest(execution)]
        if self._store is None:
            return
        try:
            if is_wanted and not is_stored:
                self._put(execution, _RECORD_ANSWER + answer)
            for each in gone:
                self._put(each, _RECORD_GONE)
        finally:
            self._remove(removed)

    def _put(self, execution: Execution, record: bytes) -> None:
        if self._store is None:
            return
        digest = _digest(execution)
        self._store.put(digest, record)
        with self._lock:
            execution.is_stored = True
            is_forgotten = execution.state is _FORGOTTEN
        if is_forgotten:  # while it was stored
            self._remove([digest])

    @staticmethod
    def record(execution: Execution, answer: bytes) -> tuple[bytes, bytes]:
        """Key and record of an answer, for one that is stored by a transaction."""
        return _digest(execution), _RECORD_ANSWER + answer

    def acknowledged(self, executions: Iterable[Execution], conn_id: str) -> None:
        """A caller has these answers."""
        removed: list[bytes] = []
        with self._lock:
            for execution in executions:
                # Else the request may come once more, on the newer connection.
                if execution.received_on == conn_id:
                    removed += self._forget(execution)
        if removed:
            self._remove(removed)

    def forget(self, execution: Execution) -> None:
        """It will not be asked for again, or may be begun anew."""
        with self._lock:
            removed = self._forget(execution)
        if removed:
            self._remove(removed)

    def expire(self) -> float | None:
        """Forget what is too old.

        :return: in how many seconds there will be more; ``None``: there is nothing
        """
        with self._lock:
            removed, oldest = self._forget_old()
            limits = self.limits
            if self._bytes > limits.max_bytes or self._answered > limits.max_count:
                lasts = [next(reversed(each.kept)) for each in self._callers.values() if each.kept]
                removed += self._evict(max(lasts, key=_answered_at, default=None))[0]
        self._remove(removed)
        if oldest is None:
            return None
        return max(0.0, oldest + self.limits.max_age - self._time())

    # With the lock.

    def _forget(self, execution: Execution) -> list[bytes]:
        state = execution.state
        if state is _FORGOTTEN:
            return []
        caller = execution.caller
        del caller.calls[execution.req_id]
        if not caller.calls:
            del self._callers[caller.ident]
        if state is _ANSWERED:
            if execution.answer is not None:
                self._drop_answer(execution)
            else:
                del caller.gone[execution]
            self._answered -= 1
            if not (caller.kept or caller.gone):
                self._answered_callers -= 1
        execution.state = _FORGOTTEN
        execution.work = None
        return [_digest(execution)] if execution.is_stored else []

    def _note_answered(self, execution: Execution, when: float, answer: bytes | None) -> None:
        """It has run. Once more when there is an answer to be kept, if there was none yet."""
        caller = execution.caller
        if execution.state is _ANSWERED:
            del caller.gone[execution]
        else:
            execution.state = _ANSWERED
            self._answered += 1
            if not (caller.kept or caller.gone):
                self._answered_callers += 1
        execution.answered_at = when
        if answer is None:
            caller.gone[execution] = None
            return
        execution.answer = answer
        caller.kept[execution] = None
        size = len(answer)
        self._bytes += size
        caller.bytes += size

    def _drop_answer(self, execution: Execution) -> None:
        """Of one that has any."""
        assert execution.answer is not None
        size = len(execution.answer)
        execution.answer = None
        caller = execution.caller
        del caller.kept[execution]
        self._bytes -= size
        caller.bytes -= size

    def _evict(self, newest: Execution | None) -> tuple[list[bytes], list[Execution]]:
        """Forget calls, and drop answers, beyond the limits of number and size.

        :param newest: its answer is on its way, and is kept
        :return: what has to leave the store, and whose answers have to
        """
        removed: list[bytes] = []
        limits = self.limits
        while self._answered > limits.max_count:
            removed += self._forget_unasked(
                self._first_of_most(
                    self._answered,
                    lambda caller: len(caller.kept) + len(caller.gone),
                    _Caller.oldest,
                    newest,
                )
            )
        gone: list[Execution] = []
        while self._bytes > limits.max_bytes:
            execution = self._first_of_most(
                self._bytes,
                attrgetter("bytes"),
                lambda caller: next(iter(caller.kept), None),
                newest,
            )
            if execution is newest:
                break
            self._drop_answer(execution)
            execution.caller.gone[execution] = None
            self._counters.add("answers_forgotten")
            if execution.is_stored:
                gone.append(execution)
        return removed, gone

    def _forget_old(self) -> tuple[list[bytes], float | None]:
        """Forget calls beyond the limit of age.

        :return: what has to leave the store, and when the oldest of the others was answered
        """
        removed: list[bytes] = []
        oldest: list[float] = []
        latest = self._time() - self.limits.max_age
        for caller in list(self._callers.values()):
            while (first := caller.oldest()) is not None and first.answered_at < latest:
                removed += self._forget_unasked(first)
            if first is not None:
                oldest.append(first.answered_at)
        return removed, min(oldest, default=None)

    def _forget_unasked(self, execution: Execution) -> list[bytes]:
        self._counters.add("answers_forgotten")
        return self._forget(execution)

    def _first_of_most(
        self,
        total: int,
        size_of: Callable[[_Caller], int],
        first_of: Callable[[_Caller], Execution | None],
        newest: Execution | None,
    ) -> Execution:
        """The oldest one of a caller that has much, but not the newest of all.

        :param total: how much there is
        :param size_of: how much a caller has
        :param first_of: the oldest one of a caller
        """
        if newest is not None and size_of(newest.caller) * self._answered_callers >= total:
            first = first_of(newest.caller)
            if first is not None and first is not newest:
                return first
        # It has less than most: most often there is one that has nearly all.
        callers = self._callers.values()
        first = first_of(max(callers, key=size_of))
        if first is None or first is newest:
            firsts = map(first_of, callers)
            others = [each for each in firsts if each is not None and each is not newest]
            first = min(others, key=_answered_at, default=newest)
        assert first is not None
        return first

    def _evict_earlier(self) -> None:
        latest = self._time() - self.limits.max_age
        removed: list[bytes] = []
        while self._earlier:
            when, _ = next(iter(self._earlier.values()))
            if len(self._earlier) <= self.limits.max_count and when >= latest:
                break
            removed.append(self._earlier.popitem(last=False)[0])
            self._counters.add("answers_forgotten")
        self._remove(removed)

    def _remove(self, keys: list[bytes]) -> None:
        if keys and self._store is not None:
            self._store.remove(keys)

    def __repr__(self) -> str:
        return f"<Executions known={len(self)} answered={self._answered}>"


def _digest(execution: Execution) -> bytes:
    return _digest_of(execution.ident, execution.req_id)


def _digest_of(ident: str, req_id: bytes) -> bytes:
    return hashlib.blake2b(ident.encode("utf-8", "surrogatepass") + req_id, digest_size=16).digest()
