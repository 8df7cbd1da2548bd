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
from collections.abc import Callable
from dataclasses import dataclass
from operator import itemgetter
from typing import Any, Final, Protocol, TypeAlias

from snakemq.counters import Counters

__all__ = ["AnswerLimits", "AnswerStore", "Execution", "Executions", "State"]

_Key: TypeAlias = "tuple[str, bytes]"

_log = logging.getLogger("snakemq.rpc.server")


@dataclass(frozen=True)
class AnswerLimits:
    """How many answers are kept for callers that have not acknowledged them.

    When there are too many, the oldest one goes of a caller that has more than
    others: nobody loses answers to one who does not fetch theirs.

    Without its answer a call can't be repeated: the caller then gets
    :class:`~snakemq.rpc.AnswerGone`. Of what is beyond count or age not even
    that it has run is known: the method would run again.
    """

    #: so many calls are remembered
    max_count: int = 10_000
    #: so many bytes of answers are kept
    max_bytes: int = 64 * 1024 * 1024
    #: for so many seconds
    max_age: float = 86400.0


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


class Execution:
    """A call that was received.

    :ivar work: what the server has to know about it while it runs
    :ivar received_on: connection on which the request came last
    """

    __slots__ = (
        "answer",
        "answered_at",
        "ident",
        "is_stored",
        "received_on",
        "req_id",
        "state",
        "work",
    )

    def __init__(self, ident: str, req_id: bytes, conn_id: str) -> None:
        self.ident = ident
        self.req_id = req_id
        self.received_on = conn_id
        self.state = State.BEGUN
        self.work: Any = None
        #: the record of the reply; ``None``: there is none yet, or it is gone
        self.answer: bytes | None = None
        self.answered_at = 0.0
        #: something about it is in the store
        self.is_stored = False

    @property
    def is_gone(self) -> bool:
        """Whether it has run and its answer was not kept."""
        return self.state is State.ANSWERED and self.answer is None


class _Share:
    """What is remembered of one caller."""

    __slots__ = ("answered", "bytes", "kept")

    def __init__(self) -> None:
        # In the order of their answers, as those of all callers are.
        self.answered: OrderedDict[_Key, Execution] = OrderedDict()
        self.kept: OrderedDict[_Key, Execution] = OrderedDict()
        self.bytes = 0


# What a record in the store begins with.
_BEGUN: Final = b"\0"
_ANSWER: Final = b"\1"
_GONE: Final = b"\2"


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
        # By caller and request.
        self._known: dict[str, dict[bytes, Execution]] = {}
        self._count = 0
        # In the order of their answers.
        self._answered: OrderedDict[_Key, Execution] = OrderedDict()
        # Those of them whose answer is kept.
        self._kept: OrderedDict[_Key, Execution] = OrderedDict()
        self._bytes = 0
        #: of callers that have any of those
        self._shares: dict[str, _Share] = {}
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
        return bool(self._answered)

    def __len__(self) -> int:
        return self._count

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
        key = (ident, req_id)
        with self._lock:
            if self._ended and conn_id in self._ended.get(ident, ()):
                return None
            of_caller = self._known.setdefault(ident, {})
            known = of_caller.get(req_id)
            if known is not None:
                known.received_on = conn_id
                return known, False
            execution = of_caller[req_id] = Execution(ident, req_id, conn_id)
            self._count += 1
            if not self._earlier:
                return execution, True
            stored = self._earlier.pop(_digest(key), None)
            if stored is None:
                return execution, True
            execution.is_stored = True
            when, kind = stored
            if kind == _BEGUN:
                execution.state = State.INTERRUPTED
                return execution, True
            execution.state = State.ANSWERED
            execution.answered_at = when
            share = self._share(ident)
            for line in (self._answered, share.answered):
                line[key] = execution
                line.move_to_end(key, last=False)
        if kind == _ANSWER:
            self._recall(key, execution)
        return execution, False

    def is_of_earlier(self, ident: str, req_id: bytes) -> bool:
        """Whether :meth:`receive` of this request will read the store, which may take a while."""
        return bool(self._earlier) and _digest((ident, req_id)) in self._earlier

    def _recall(self, key: _Key, execution: Execution) -> None:
        """An earlier process has answered it."""
        assert self._store is not None
        try:
            record = self._store.get(_digest(key))
        except Exception:
            # It has run; better that the caller knows.
            _log.exception("ident=%r an answer can't be read from the storage", execution.ident)
            return
        if record is not None:
            with self._lock:
                if execution.state is State.ANSWERED:
                    self._keep(key, execution, record[1:])

    def find(self, ident: str, req_id: bytes) -> Execution | None:
        """The execution of a request; ``None``: there is none."""
        of_caller = self._known.get(ident)
        return None if of_caller is None else of_caller.get(req_id)

    def of(self, ident: str) -> list[Execution]:
        """All of one caller."""
        with self._lock:
            return list(self._known.get(ident, {}).values())

    def store_begin(self, execution: Execution) -> None:
        """Have it known, after a restart too, that it was begun.

        :raises Exception: of the store
        """
        if self._store is not None:
            self._put(execution, _BEGUN)

    def answered(self, execution: Execution, answer: bytes, *, is_stored: bool = False) -> None:
        """Keep an answer. It is in the store when this returns.

        :param is_stored: it is there already
        :raises Exception: of the store; it is kept in memory then
        """
        key = (execution.ident, execution.req_id)
        with self._lock:
            execution.work = None
            is_wanted = execution.state is not State.FORGOTTEN
            removed: list[bytes] = []
            gone: list[Execution] = []
            if is_wanted:
                execution.state = State.ANSWERED
                execution.answered_at = self._time()
                execution.is_stored |= is_stored
                self._answered[key] = self._share(key[0]).answered[key] = execution
                self._keep(key, execution, answer)
                removed, gone = self._evict()
            elif is_stored:
                removed = [_digest(key)]
        try:
            if is_wanted and not is_stored:
                self._put(execution, _ANSWER + answer)
            for each in gone:
                self._put(each, _GONE)
        finally:
            self._remove(removed)

    def _put(self, execution: Execution, record: bytes) -> None:
        if self._store is None:
            return
        digest = _digest((execution.ident, execution.req_id))
        self._store.put(digest, record)
        with self._lock:
            execution.is_stored = True
            is_forgotten = execution.state is State.FORGOTTEN
        if is_forgotten:  # while it was stored
            self._remove([digest])

    @staticmethod
    def record(execution: Execution, answer: bytes) -> tuple[bytes, bytes]:
        """Key and record of an answer, for one that is stored by a transaction."""
        return _digest((execution.ident, execution.req_id)), _ANSWER + answer

    def acknowledged(self, execution: Execution, conn_id: str) -> None:
        """The caller has the answer."""
        # Else the request may come once more, on the newer connection.
        if execution.received_on == conn_id:
            self.forget(execution)

    def forget(self, execution: Execution) -> None:
        """It will not be asked for again, or may be begun anew."""
        with self._lock:
            removed = self._forget(execution)
        self._remove(removed)

    def expire(self) -> float | None:
        """Forget what is too old.

        :return: in how many seconds there will be more; ``None``: there is nothing
        """
        with self._lock:
            removed, _ = self._evict()
            oldest = next(iter(self._answered.values()), None)
        self._remove(removed)
        if oldest is None:
            return None
        return max(0.0, oldest.answered_at + self.limits.max_age - self._time())

    # With the lock.

    def _forget(self, execution: Execution) -> list[bytes]:
        key = (execution.ident, execution.req_id)
        of_caller = self._known.get(execution.ident, {})
        if of_caller.get(execution.req_id) is not execution:
            return []
        del of_caller[execution.req_id]
        self._count -= 1
        if not of_caller:
            del self._known[execution.ident]
        if self._answered.pop(key, None) is not None:
            self._drop_answer(key, execution)
            share = self._shares[execution.ident]
            del share.answered[key]
            if not share.answered:
                del self._shares[execution.ident]
        execution.state = State.FORGOTTEN
        execution.work = None
        return [_digest(key)] if execution.is_stored else []

    def _share(self, ident: str) -> _Share:
        share = self._shares.get(ident)
        if share is None:
            share = self._shares[ident] = _Share()
        return share

    def _keep(self, key: _Key, execution: Execution, answer: bytes) -> None:
        share = self._shares[key[0]]
        execution.answer = answer
        self._kept[key] = share.kept[key] = execution
        self._bytes += len(answer)
        share.bytes += len(answer)

    def _drop_answer(self, key: _Key, execution: Execution) -> None:
        if self._kept.pop(key, None) is not None and execution.answer is not None:
            share = self._shares[key[0]]
            del share.kept[key]
            self._bytes -= len(execution.answer)
            share.bytes -= len(execution.answer)
            execution.answer = None

    def _evict(self) -> tuple[list[bytes], list[Execution]]:
        """Forget calls, and drop answers, beyond the limits.

        :return: what has to leave the store, and whose answers have to
        """
        removed: list[bytes] = []
        limits = self.limits
        latest = self._time() - limits.max_age
        while self._answered:
            oldest = next(iter(self._answered.values()))
            if oldest.answered_at >= latest:
                if len(self._answered) <= limits.max_count:
                    break
                oldest = self._first_of_most(
                    self._answered,
                    len(self._answered),
                    lambda share: (share.answered, len(share.answered)),
                )
            removed += self._forget(oldest)
            self._counters.add("answers_forgotten")
        gone: list[Execution] = []
        while self._bytes > limits.max_bytes and len(self._kept) > 1:  # the last one is on its way
            execution = self._first_of_most(
                self._kept, self._bytes, lambda share: (share.kept, share.bytes)
            )
            self._drop_answer((execution.ident, execution.req_id), execution)
            self._counters.add("answers_forgotten")
            if execution.is_stored:
                gone.append(execution)
        return removed, gone

    def _first_of_most(
        self,
        line: OrderedDict[_Key, Execution],
        total: int,
        of: Callable[[_Share], tuple[OrderedDict[_Key, Execution], int]],
    ) -> Execution:
        """The oldest one of a caller that has much, but not the newest of all.

        :param total: how much there is
        :param of: what of a caller is in this line, and how much of it that is
        """
        newest = next(reversed(line))
        own, much = of(self._shares[newest[0]])
        if len(own) < 2 or much * len(self._shares) < total:
            # It has less than most: most often there is one that has nearly all.
            own, _ = max(map(of, self._shares.values()), key=itemgetter(1))
        key, execution = next(iter(own.items()))
        return execution if key != newest else next(iter(line.values()))

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
        return f"<Executions known={self._count} answered={len(self._answered)}>"


def _digest(key: _Key) -> bytes:
    ident, req_id = key
    return hashlib.blake2b(ident.encode("utf-8", "surrogatepass") + req_id, digest_size=16).digest()
