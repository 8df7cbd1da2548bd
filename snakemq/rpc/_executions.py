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
from typing import Any, Final, Protocol

__all__ = ["AnswerLimits", "AnswerStore", "Execution", "Executions", "State"]

_log = logging.getLogger("snakemq.rpc.server")


@dataclass(frozen=True)
class AnswerLimits:
    """How many answers are kept for callers that have not acknowledged them.

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


# What a record in the store begins with.
_BEGUN: Final = b"\0"
_ANSWER: Final = b"\1"
_GONE: Final = b"\2"


class Executions:
    """All calls of a server that are running or whose answer may be asked for. Any thread.

    :param time: gives the time in seconds, monotonic
    :param limits: how much is kept
    :param store: where answers survive this process, or ``None``
    """

    def __init__(
        self, time: Callable[[], float], limits: AnswerLimits, store: AnswerStore | None
    ) -> None:
        self.limits = limits
        self._time = time
        self._store = store
        self._lock = threading.Lock()
        self._known: dict[tuple[str, bytes], Execution] = {}
        # In the order of their answers.
        self._answered: OrderedDict[tuple[str, bytes], Execution] = OrderedDict()
        # Those of them whose answer is kept.
        self._kept: OrderedDict[tuple[str, bytes], Execution] = OrderedDict()
        self._bytes = 0
        #: what an earlier process has stored, by key: when, and how its record begins
        self._earlier: OrderedDict[bytes, tuple[float, bytes]] = OrderedDict()
        if store is not None:
            self._load(store)

    def _load(self, store: AnswerStore) -> None:
        now = self._time()
        for key, record, age in store.load():
            self._earlier[key] = (now - age, record[:1])
        self._evict_earlier()

    def __len__(self) -> int:
        return len(self._known)

    @property
    def kept_bytes(self) -> int:
        """How large the answers are that are kept in memory."""
        return self._bytes

    def receive(self, ident: str, req_id: bytes, conn_id: str) -> tuple[Execution, bool]:
        """A request came.

        :return: its execution, and whether it is new: then it has to be begun
        """
        key = (ident, req_id)
        with self._lock:
            known = self._known.get(key)
            if known is not None:
                known.received_on = conn_id
                return known, False
            execution = self._known[key] = Execution(ident, req_id, conn_id)
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
            self._answered[key] = execution
            self._answered.move_to_end(key, last=False)
        if kind == _ANSWER:
            self._recall(key, execution)
        return execution, False

    def is_of_earlier(self, ident: str, req_id: bytes) -> bool:
        """Whether :meth:`receive` of this request will read the store, which may take a while."""
        return bool(self._earlier) and _digest((ident, req_id)) in self._earlier

    def _recall(self, key: tuple[str, bytes], execution: Execution) -> None:
        """An earlier process has answered it."""
        assert self._store is not None
        try:
            record = self._store.get(_digest(key))
        except Exception:
            # It has run; better that the caller knows.
            _log.exception("ident=%s an answer can't be read from the storage", execution.ident)
            return
        if record is not None:
            with self._lock:
                if execution.state is State.ANSWERED:
                    self._keep(key, execution, record[1:])

    def find(self, ident: str, req_id: bytes) -> Execution | None:
        """The execution of a request; ``None``: there is none."""
        return self._known.get((ident, req_id))

    def of(self, ident: str) -> list[Execution]:
        """All of one caller."""
        with self._lock:
            return [each for each in self._known.values() if each.ident == ident]

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
                self._answered[key] = execution
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
        if self._known.get(key) is not execution:
            return []
        del self._known[key]
        self._answered.pop(key, None)
        self._drop_answer(key, execution)
        execution.state = State.FORGOTTEN
        execution.work = None
        return [_digest(key)] if execution.is_stored else []

    def _keep(self, key: tuple[str, bytes], execution: Execution, answer: bytes) -> None:
        execution.answer = answer
        self._kept[key] = execution
        self._bytes += len(answer)

    def _drop_answer(self, key: tuple[str, bytes], execution: Execution) -> None:
        if self._kept.pop(key, None) is not None and execution.answer is not None:
            self._bytes -= len(execution.answer)
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
            if len(self._answered) <= limits.max_count and oldest.answered_at >= latest:
                break
            removed += self._forget(oldest)
        gone: list[Execution] = []
        while self._bytes > limits.max_bytes and len(self._kept) > 1:  # the last one is on its way
            key, execution = next(iter(self._kept.items()))
            self._drop_answer(key, execution)
            if execution.is_stored:
                gone.append(execution)
        return removed, gone

    def _evict_earlier(self) -> None:
        latest = self._time() - self.limits.max_age
        removed: list[bytes] = []
        while self._earlier:
            when, _ = next(iter(self._earlier.values()))
            if len(self._earlier) <= self.limits.max_count and when >= latest:
                break
            removed.append(self._earlier.popitem(last=False)[0])
        self._remove(removed)

    def _remove(self, keys: list[bytes]) -> None:
        if keys and self._store is not None:
            self._store.remove(keys)

    def __repr__(self) -> str:
        return f"<Executions known={len(self._known)} answered={len(self._answered)}>"


def _digest(key: tuple[str, bytes]) -> bytes:
    ident, req_id = key
    return hashlib.blake2b(ident.encode("utf-8", "surrogatepass") + req_id, digest_size=16).digest()
