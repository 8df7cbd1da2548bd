"""A storage that outlives the stack, but not the process. For tests."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Sequence

from snakemq._core.received import last_of_each
from snakemq.message import Message
from snakemq.storage._common import (
    check_keep,
    check_uuids,
    make_message,
    wall_clock,
)
from snakemq.storage._memory_outbox import MemoryOutbox
from snakemq.storage._numbered import Numbered
from snakemq.storage.base import (
    MAX_RECEIVED_PEERS,
    DeadLetter,
    InboxItem,
)

__all__ = ["MemoryQueuesStorage"]


class MemoryQueuesStorage(MemoryOutbox):
    """Keeps items in memory. **They are lost with the process.**

    It is there for tests: hand the same object to one
    :class:`~snakemq.messaging.Messaging` after the other and it plays the
    disk that survives a restart. :meth:`close` therefore keeps what is stored,
    and the storage can go on being used.

    What it returns are copies, as from a disk: a change of a message that was
    pushed changes nothing here until :meth:`update_items_ttl`.

    May be used from any thread. Pushing an item costs the same however many
    there are, and so does removing it.

    :param wall_clock: gives the time for :meth:`oldest` and
        :attr:`DeadLetter.died_at`, in seconds since 1970; that of the system if
        it is not given
    """

    keeps_received = True

    def __init__(self, *, wall_clock: Callable[[], float] = wall_clock) -> None:
        super().__init__(wall_clock=wall_clock)
        # In the order of the last addition.
        self._received: dict[str, deque[bytes]] = {}
        self._last_id = 0
        self._inbox: Numbered[InboxItem] = Numbered()
        self._dead: Numbered[DeadLetter] = Numbered()

    def close(self) -> None:
        """Does nothing: the content stays, and can be used again."""

    def received_peers(self) -> list[str]:
        with self._lock:
            return list(self._received)

    def load_received(self, ident: str) -> list[bytes]:
        with self._lock:
            return list(self._received.get(ident, ()))

    def add_received(self, ident: str, uuids: Iterable[bytes], *, keep: int, sync: bool) -> None:
        check_keep(keep)
        new = check_uuids(uuids)
        with self._lock:
            self._remember(ident, new, keep)

    def _remember(self, ident: str, uuids: list[bytes], keep: int) -> None:
        if not uuids:
            return
        known = self._received.pop(ident, None)
        if known is None:
            known = deque()
            if len(self._received) >= MAX_RECEIVED_PEERS:
                del self._received[next(iter(self._received))]
        self._received[ident] = known
        known.extend(uuids)
        if len(known) > 2 * keep:
            self._received[ident] = deque(last_of_each(known)[-keep:])

    def sync(self) -> None:
        """Does nothing: there is no disk."""

    def push_inbox(self, ident: str, messages: Iterable[Message], *, keep: int) -> list[int]:
        check_keep(keep)
        copies = [_copy_received(message) for message in messages]
        with self._lock:
            self._remember(ident, [copy.uuid for copy in copies if copy.ttl != 0], keep)
            return [self._append(ident, message).id for message in copies]

    def _append(self, ident: str, message: Message) -> InboxItem:
        self._last_id += 1
        item = self._inbox[self._last_id] = InboxItem(self._last_id, ident, message, 0)
        return item

    def get_inbox(self, after: int = 0, limit: int | None = None) -> list[InboxItem]:
        with self._lock:
            items = [self._inbox[number] for number in self._inbox.numbers(after, limit)]
            return [item._replace(message=_copy_received(item.message)) for item in items]

    def advance_inbox(self, done: int | None, starting: int | None) -> None:
        with self._lock:
            if done is not None:
                self._inbox.pop(done)
            item = None if starting is None else self._inbox.get(starting)
            if item is not None:
                self._inbox[item.id] = item._replace(attempts=item.attempts + 1)

    def uncount_attempt(self, item_id: int) -> None:
        with self._lock:
            item = self._inbox.get(item_id)
            if item is not None and item.attempts:
                self._inbox[item_id] = item._replace(attempts=item.attempts - 1)

    def bury(self, item_id: int, reason: str) -> None:
        with self._lock:
            item = self._inbox.pop(item_id)
            if item is not None:
                self._dead[item_id] = DeadLetter(*item, reason, self._wall_clock())

    def get_dead(self, after: int = 0, limit: int | None = None) -> list[DeadLetter]:
        with self._lock:
            letters = [self._dead[number] for number in self._dead.numbers(after, limit)]
            return [letter._replace(message=_copy_received(letter.message)) for letter in letters]

    def count_dead(self) -> int:
        with self._lock:
            return len(self._dead)

    def add_dead(self, letters: Iterable[DeadLetter]) -> None:
        copies = [letter._replace(message=_copy_received(letter.message)) for letter in letters]
        with self._lock:
            for letter in copies:
                self._last_id += 1
                self._dead[self._last_id] = letter._replace(id=self._last_id)

    def retry_dead(self, ids: Sequence[int] | None) -> list[InboxItem]:
        with self._lock:
            letters = self._take_dead(ids)
            for letter in letters:
                if letter.attempts:
                    letter.message.redelivered = True
            items = [self._append(letter.ident, letter.message) for letter in letters]
            return [item._replace(message=_copy_received(item.message)) for item in items]

    def drop_dead(self, ids: Sequence[int] | None) -> int:
        with self._lock:
            return len(self._take_dead(ids))

    def _take_dead(self, ids: Sequence[int] | None) -> list[DeadLetter]:
        """Remove those of them that are there, in the order in which they were received."""
        numbers = self._dead.numbers() if ids is None else sorted(set(ids))
        letters = [self._dead.pop(number) for number in numbers]
        return [letter for letter in letters if letter is not None]


def _copy_received(message: Message) -> Message:
    return make_message(message.data, message.ttl, message.flags, message.uuid, message.redelivered)
