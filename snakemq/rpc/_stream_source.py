"""The server's end of a stream: items of an iterator, as the caller asks for them."""

from __future__ import annotations

import datetime
import decimal
import logging
import threading
import uuid
from collections import deque
from collections.abc import Iterator
from typing import Any, Final, NamedTuple, Protocol

__all__ = ["MAX_WINDOW", "StreamSource", "StreamWriter"]

#: A caller gets no more items in advance than this, whatever it asks for.
MAX_WINDOW: Final = 4096

#: So many items at most are sent together, and about so many bytes.
_BATCH_ITEMS: Final = 256
_BATCH_BYTES: Final = 256 * 1024

#: With so many bytes sent and not asked to go on, the next item waits.
_MAX_KEPT_BYTES: Final = 4 * 1024 * 1024

#: Types of values that never change.
_UNCHANGING: Final[frozenset[type]] = frozenset(
    (
        type(None), bool, int, float, complex, str, bytes, range,
        datetime.date, datetime.time, datetime.datetime, datetime.timedelta,
        decimal.Decimal, uuid.UUID,
    )
)  # fmt: skip

#: Types of values that are what is in them.
_HOLDING: Final[frozenset[type]] = frozenset((list, tuple, set, frozenset))

_log = logging.getLogger("snakemq.rpc.server")


class StreamWriter(Protocol):
    """What a source does with its items. Called from any thread."""

    def write_items(self, position: int, items: list[Any], end: bool) -> bytes:
        """The record of items.

        :raises snakemq.rpc.Unserializable: one of them can't be written
        """

    def write_error(self, position: int, error: BaseException) -> bytes | None:
        """The record of an error in place of an item."""

    def send(self, record: bytes) -> None:
        """Send a record; :meth:`StreamSource.batch_left` has to be called when it has left
        or is lost."""

    def run_source(self) -> None:
        """Have :meth:`StreamSource.run` called in a worker."""

    def flush_source(self) -> None:
        """Have :meth:`StreamSource.flush` called soon, in some thread."""

    def ended(self, error: BaseException | None) -> None:
        """The iterator is at its end, or was closed."""

    def delivered(self) -> None:
        """The caller has all of it."""


class _Batch(NamedTuple):
    position: int
    end: int
    record: bytes


class StreamSource:
    """Takes items from an iterator, in one worker at a time, and sends them.

    Whoever has sent something gets it acknowledged by the next request for
    more; until then it is kept, to be sent again after a reconnect.

    A first item is sent at once, and those that are made while it is under way
    go together: so a slow iterator has no delay, and a fast one few messages.

    :param iterator: is closed at the end, if it can be
    :param window: how many items may be sent before more are asked for
    :param conn_id: connection on which it was asked for
    """

    def __init__(
        self, iterator: Iterator[Any], window: int, conn_id: str, writer: StreamWriter
    ) -> None:
        self._iterator = iterator
        self._writer = writer
        # Taken in this order; the first one while items are written.
        self._flushing = threading.Lock()
        self._lock = threading.Lock()
        self._conn_id = conn_id
        self._limit = min(window, MAX_WINDOW)
        #: index of the next item that is taken
        self._position = 0
        #: ... and of the next one that is sent
        self._sent = 0
        self._pending: list[Any] = []
        self._kept: deque[_Batch] = deque()
        self._kept_bytes = 0
        #: how large an item of the last batch was
        self._item_bytes = 0
        self._under_way = 0
        self._was_lost = False
        self._is_running = True  # whoever makes it runs it first
        #: the worker is inside of the iterator, perhaps for long
        self._is_taking = False
        self._is_cancelled = False
        #: why something of it could not be sent
        self._failure: BaseException | None = None
        self._is_over = False

    @property
    def is_over(self) -> bool:
        """Whether nothing more is taken from the iterator."""
        return self._is_over

    @property
    def conn_id(self) -> str:
        """Connection on which the caller has asked last."""
        return self._conn_id

    # In a worker.

    def run(self) -> None:
        """Take and send items for as long as that is wanted."""
        while self._may_go_on():
            try:
                item = next(self._iterator)
            except StopIteration:
                self._finish(None)
                return
            except BaseException as exc:
                # SystemExit too: it ends no thread here, and the caller waits.
                self._finish(exc)
                return
            is_due = not self._under_way
            if not is_due:  # its owner goes on with it meanwhile
                try:
                    item = _as_it_is_now(item, {})
                except (_CanChange, RecursionError):
                    is_due = True
            with self._lock:
                self._is_taking = False
                self._pending.append(item)
                self._position += 1
                # How large they are is not known before they are written.
                is_due |= (
                    not self._under_way
                    or len(self._pending) >= _BATCH_ITEMS
                    or len(self._pending) * self._item_bytes >= _BATCH_BYTES
                )
            if is_due:
                self.flush()

    def _may_go_on(self) -> bool:
        """Whether to take another item; if not, this worker leaves."""
        while True:
            with self._lock:
                is_over = self._is_cancelled or self._failure is not None
                if not is_over:
                    has_credit = self._position < self._limit and self._kept_bytes < _MAX_KEPT_BYTES
                    # What waits with nothing under way would wait for the next item.
                    if has_credit and (self._under_way or not self._pending):
                        self._is_taking = True
                        return True
                    if not self._pending:
                        self._is_running = False
                        return False
            if is_over:
                self._close(self._failure)
                return False
            self.flush()

    def flush(self) -> None:
        """Send what was taken and waits. Any thread that may take a while."""
        self._flush(end=False)

    def _flush(self, *, end: bool) -> None:
        with self._flushing:
            with self._lock:
                items, self._pending = self._pending, []
                position = self._position - len(items)
            if self._failure is not None or (not items and not end):
                return
            try:
                self._write_and_send(position, items, end)
            except BaseException as exc:
                self._send_one_by_one(position, items, exc)

    def _write_and_send(self, position: int, items: list[Any], end: bool) -> None:
        record = self._writer.write_items(position, items, end)
        self._send(_Batch(position, position + len(items), record))

    def _send_one_by_one(self, position: int, items: list[Any], error: BaseException) -> None:
        """One of them can't be sent: send those before it, and what is wrong with it."""
        if len(items) > 1:
            for item in items:
                try:
                    self._write_and_send(position, [item], False)
                except BaseException as exc:
                    error = exc
                    break
                position += 1
        self._send_error(position, error)
        # Whoever runs it closes it: that may be another thread.
        with self._lock:
            self._failure = error
            wanted = self._start()
        if wanted:
            self._have_it_run()

    def _finish(self, error: BaseException | None) -> None:
        """The iterator has no more items."""
        self._flush(end=error is None)
        if error is not None and self._failure is None:
            self._send_error(self._position, error)
        self._close(self._failure or error)

    def _send_error(self, position: int, error: BaseException) -> None:
        try:
            record = self._writer.write_error(position, error)
            if record is not None:
                self._send(_Batch(position, position, record))
        except BaseException:
            # SystemExit too: nothing that is in an exception ends the worker.
            _log.exception("a caller can't be told of the end of its stream")

    def _close(self, error: BaseException | None) -> None:
        with self._lock:
            if self._is_over:
                return
            self._is_over = True
            self._is_running = False
            self._pending = []
        try:
            close = getattr(self._iterator, "close", None)
            if close is not None:
                close()
        except BaseException as exc:
            error = error or exc
        self._writer.ended(error)
        # The acknowledgement of the last part may have been faster.
        with self._lock:
            delivered = self._is_delivered()
        if delivered:
            self._writer.delivered()

    def _send(self, batch: _Batch) -> None:
        with self._lock:
            if self._is_cancelled:
                return
            self._kept.append(batch)
            self._kept_bytes += len(batch.record)
            self._item_bytes = len(batch.record) // max(1, batch.end - batch.position)
            self._under_way += 1
            self._sent = batch.end
        try:
            self._writer.send(batch.record)
        except BaseException:
            with self._lock:
                if batch in self._kept:
                    self._kept.remove(batch)
                    self._kept_bytes -= len(batch.record)
                    self._sent = batch.position
            raise

    # Any thread.

    def batch_left(self, *, lost: bool) -> None:
        """Something that was sent has arrived, or is lost with its connection."""
        with self._lock:
            self._under_way = max(0, self._under_way - 1)
            # Who runs it may be waiting for the next item.
            waiting = bool(self._pending) and (self._is_taking or not self._is_running)
            self._was_lost |= lost
            delivered = self._is_delivered()
        if delivered:
            self._writer.delivered()
        elif waiting:
            self._writer.flush_source()

    def more(self, position: int, window: int, conn_id: str) -> None:
        """The caller has items, and wants more.

        :param position: it has all items before this one
        :param window: so many behind that may come; 0, with all items: it has
            the end as well
        :param conn_id: another one than before: what it does not have is sent again
        """
        self._ask(position, window, conn_id, has_end=not window)

    def repeat(self, conn_id: str) -> None:
        """The caller has nothing yet, and asks again."""
        self._ask(0, 0, conn_id, has_end=False)

    def _ask(self, position: int, window: int, conn_id: str, *, has_end: bool) -> None:
        again: list[_Batch] = []
        with self._lock:
            # It can't have more than there was.
            position = min(position, self._sent)
            while (
                self._kept and self._kept[0].end <= position and (self._kept[0].position < position)
            ):
                self._kept_bytes -= len(self._kept.popleft().record)
            self._limit = max(self._limit, position + min(window, MAX_WINDOW))
            delivered = self._is_over and (not self._kept or (has_end and position == self._sent))
            if conn_id != self._conn_id and not delivered:
                self._conn_id = conn_id
                again = list(self._kept)
                self._under_way = len(again)
                self._was_lost = False
            wanted = self._start()
        if delivered:
            self._writer.delivered()
        try:
            for batch in again:
                self._writer.send(batch.record)
        finally:
            if wanted:
                self._have_it_run()

    def cancel(self) -> None:
        """The caller wants no more."""
        with self._lock:
            self._is_cancelled = True
            self._kept.clear()
            self._kept_bytes = 0
            is_over = self._is_over
            wanted = self._start()
        if is_over:
            # Not even what is lost.
            self._writer.delivered()
        elif wanted:
            # Closing a generator runs code of the program.
            self._have_it_run()

    def _have_it_run(self) -> None:
        try:
            self._writer.run_source()
        except BaseException:
            with self._lock:
                self._is_running = False  # somebody asks again
            raise

    def _start(self) -> bool:
        """With the lock: whether a worker has to be asked to run it."""
        if self._is_running or self._is_over:
            return False
        self._is_running = True
        return True

    def _is_delivered(self) -> bool:
        """With the lock: whether the caller has all that was sent, and nothing follows."""
        return self._is_over and not self._under_way and not self._was_lost


class _CanChange(Exception):
    """It is not known how to keep a value as it is."""


def _as_it_is_now(value: Any, copies: dict[int, Any]) -> Any:
    """A value that stays the same when its owner goes on with it.

    A generator may yield the same list again and again, with other things in it.

    :param copies: of what is in it, by ``id()``: it may be there more than once
    :raises _CanChange: it may be one that changes, of a type that is not known
    """
    kind = type(value)
    if kind in _UNCHANGING:
        return value
    copy = copies.get(id(value))
    if copy is not None:
        return copy
    if kind in _HOLDING:
        copy = kind([_as_it_is_now(part, copies) for part in value])
    elif kind is dict:
        copy = {
            _as_it_is_now(key, copies): _as_it_is_now(part, copies) for key, part in value.items()
        }
    elif kind is bytearray:
        copy = bytearray(value)
    else:
        raise _CanChange
    copies[id(value)] = copy
    return copy
