"""The queues, in an SQL database.

How much each queue holds, and its clock, are in memory too: nobody else changes
them. What remains of a TTL is ``expires`` less the clock, so all TTLs of a queue
are advanced by one row.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypeVar

from snakemq.exceptions import StorageDamaged
from snakemq.message import Message
from snakemq.storage._common import check_seconds, wall_clock
from snakemq.storage._sqla_change import Change
from snakemq.storage._sqla_servers import Server
from snakemq.storage._sqla_session import SqlSession
from snakemq.storage._sqla_tables import Tables, checked, decoded, encoded
from snakemq.storage.base import QueueSummary, Removal, StoredItem

if TYPE_CHECKING:
    from sqlalchemy import Connection

__all__ = ["SqlOutbox", "parts"]

_T = TypeVar("_T")

#: So many values at most are listed in one statement.
_PART: Final = 500

#: So many rows at most go with one statement where all of them go, so that
#: none takes longer than an answer may.
_PURGE: Final = 5000

#: What remains of a TTL is told to the microsecond. It is the difference of two
#: numbers that have been rounded.
_DIGITS: Final = 6
_HALF_A_MICROSECOND: Final = 5e-7


def parts(values: Sequence[_T], size: int = _PART) -> Iterator[Sequence[_T]]:
    """Values in parts that a statement can list."""
    for start in range(0, len(values), size):
        yield values[start : start + size]


class _Count(NamedTuple):
    """A row of the table ``queues``."""

    messages: int
    size: int
    seconds: float


_NOTHING: Final = _Count(0, 0, 0.0)


class _Tally:
    """How much the queues hold while a change is made.

    :param counts: what they held before
    :ivar last: the last position that was given
    """

    def __init__(self, counts: dict[bytes, _Count], last: int) -> None:
        self._before = counts
        self.last = last
        self._now: dict[bytes, _Count] = {}

    def get(self, name: bytes) -> _Count:
        found = self._now.get(name)
        return self._before.get(name, _NOTHING) if found is None else found

    def add(self, name: bytes, messages: int, size: int) -> None:
        count = self.get(name)
        self._now[name] = _Count(count.messages + messages, count.size + size, count.seconds)

    def set(self, name: bytes, messages: int, size: int) -> None:
        self._now[name] = _Count(messages, size, self.get(name).seconds)

    def rows(self) -> tuple[list[dict[str, Any]], list[dict[str, Any]], list[dict[str, Any]]]:
        """What is new, what is different, and what is empty."""
        new: list[dict[str, Any]] = []
        different: list[dict[str, Any]] = []
        empty: list[dict[str, Any]] = []
        for name, count in self._now.items():
            was_there = name in self._before
            if count.messages > 0:
                (different if was_there else new).append(
                    {"of" if was_there else "name": name, **count._asdict()}
                )
            elif was_there:
                empty.append({"of": name})
        return new, different, empty

    def apply(self) -> None:
        for name, count in self._now.items():
            if count.messages > 0:
                self._before[name] = count
            else:
                self._before.pop(name, None)


class SqlOutbox:
    """Items in queues. The methods are those of
    :class:`~snakemq.storage.base.QueuesStorageBase`.

    :param session: the connection
    :param tables: those of the storage
    :param server: what is special about the database
    """

    def __init__(self, session: SqlSession, tables: Tables, server: Server) -> None:
        self._session = session
        self._server = server
        self._counts: dict[bytes, _Count] = {}
        self._last = 0
        self._statements = _Statements(tables)
        session.on_connect(self._load)

    def _load(self, conn: Connection) -> None:
        rows = conn.execute(self._statements.queues)
        self._counts = {
            bytes(name): _Count(int(messages), int(size), float(seconds))
            for name, messages, size, seconds in rows
        }
        self._last = max(self._last, int(conn.execute(self._statements.last).scalar() or 0))

    # What there is

    def names(self) -> list[str]:
        return self._session.look(lambda: [decoded(name) for name in self._counts])

    def summarize(self) -> list[QueueSummary]:
        return self._session.look(
            lambda: [
                QueueSummary(decoded(name), count.messages, count.size)
                for name, count in self._counts.items()
            ]
        )

    def last_position(self) -> int:
        return self._session.look(lambda: self._last)

    def items(self, queue_name: str) -> list[Message]:
        name = encoded(queue_name)
        return [
            stored.message
            for stored in self._session.read(
                lambda conn: self._stored(name, conn.execute(self._statements.all, {"of": name}))
            )
        ]

    def page(
        self, queue_name: str, after: int, *, max_messages: int, max_bytes: int
    ) -> list[StoredItem]:
        name = encoded(queue_name)

        def work(conn: Connection) -> list[StoredItem]:
            limit = max_messages
            if self._counts.get(name, _NOTHING).size >= max_bytes:
                # Not to fetch what does not belong to the page.
                place = {"of": name, "after": after, "limit": limit}
                limit = size = 0
                for (each,) in conn.execute(self._statements.sizes, place):
                    limit += 1
                    size += each
                    if size >= max_bytes:
                        break
            place = {"of": name, "after": after, "limit": limit}
            return self._stored(name, conn.execute(self._statements.page, place))

        return self._session.read(work)

    def next_expiry(self, queue_name: str, after: int) -> float | None:
        name = encoded(queue_name)

        def work(conn: Connection) -> float | None:
            place = {"of": name, "after": after}
            return self._remaining(name, conn.execute(self._statements.next_expiry, place).scalar())

        return self._session.read(work)

    def oldest(self, queue_name: str) -> float | None:
        place = {"of": encoded(queue_name)}
        found = self._session.read(
            lambda conn: conn.execute(self._statements.oldest, place).scalar()
        )
        return None if found is None else float(found)

    # Changes

    def change(
        self, push: Iterable[tuple[str, Message]], remove: Iterable[Removal], *, sync: bool
    ) -> list[int]:
        # Read before the first change, so that a bad entry stores none.
        entries = [_Entry(name, item) for name, item in push]
        for entry in entries:
            self._server.check_size(entry.data)
        removals = [
            (encoded(removal.queue_name), sorted(set(removal.positions)), removal.bytes)
            for removal in remove
        ]
        if not entries and not any(positions for _, positions, _ in removals):
            self._session.check_writable()
            return []

        def work(change: Change) -> list[int]:
            tally = self._tally()
            for name, positions, size in removals:
                self._remove(change, tally, name, positions, size)
            found = self._append(change, tally, entries, wall_clock())
            self._write(change, tally)
            return found

        return self._session.change(work, sync=sync)

    def append(self, change: Change, batches: Iterable[Sequence[tuple[str, Message]]]) -> None:
        """Append items that were stored elsewhere, as a part of a change."""
        tally = self._tally()
        for entries in batches:
            self._append(change, tally, [_Entry(*entry) for entry in entries], None)
        self._write(change, tally)

    def remove_items(self, queue_name: str, items: Iterable[Message]) -> None:
        name = encoded(queue_name)
        wanted = Counter(item.uuid for item in items)

        def work(change: Change) -> None:
            found: list[int] = []
            size = 0
            left = wanted.copy()
            for some in parts(list(wanted)):
                place = {"of": name, "uuids": list(some)}
                for position, uuid, each in change.run(self._statements.by_uuid_of, place):
                    if left[bytes(uuid)] > 0:
                        left[bytes(uuid)] -= 1
                        found.append(int(position))
                        size += int(each)
            tally = self._tally()
            self._remove(change, tally, name, found, size)
            self._write(change, tally)

        self._unless_nothing(wanted, work)

    def delete_items(self, items: Iterable[Message]) -> None:
        uuids = list({item.uuid for item in items})

        def work(change: Change) -> None:
            found: dict[bytes, list[tuple[int, int]]] = {}
            for some in parts(uuids):
                rows = change.run(self._statements.by_uuid, {"uuids": list(some)})
                for name, position, size in rows:
                    found.setdefault(bytes(name), []).append((int(position), int(size)))
            tally = self._tally()
            for name, places in found.items():
                positions = [position for position, _ in places]
                self._remove(change, tally, name, positions, sum(size for _, size in places))
            self._write(change, tally)

        self._unless_nothing(uuids, work)

    def delete_all(self) -> None:
        def work(change: Change) -> None:
            last = 0
            while True:
                place = {"after": last, "limit": _PURGE}
                some = change.run(self._statements.positions, place).scalars().all()
                if not some:
                    break
                last = int(some[-1])
                change.run(self._statements.delete_range, {"first": some[0], "last": last})
            change.run(self._statements.forget_all)
            change.afterwards(self._counts.clear)

        self._session.change(work)

    def update_ttls(self, items: Iterable[Message]) -> None:
        ttls = {item.uuid: item.ttl for item in items}

        def work(change: Change) -> None:
            rows: list[dict[str, Any]] = []
            for some in parts(list(ttls)):
                found = change.run(self._statements.queues_of, {"uuids": list(some)})
                for name, uuid in found:
                    expires = self._expires(bytes(name), ttls[bytes(uuid)])
                    rows.append({"of": name, "item": uuid, "expires": expires})
            if rows:
                change.run(self._statements.set_expiry, rows)

        self._unless_nothing(ttls, work)

    def advance_ttl(self, queue_name: str, seconds: float) -> None:
        check_seconds(seconds)
        name = encoded(queue_name)

        def work(change: Change) -> None:
            count = self._counts.get(name)
            if count is None:
                return
            ahead = count._replace(seconds=count.seconds + seconds)
            change.run(self._statements.set_clock, {"of": name, "seconds": ahead.seconds})
            change.take_back_by(self._statements.set_clock, {"of": name, "seconds": count.seconds})
            change.afterwards(lambda: self._counts.update({name: ahead}))

        if seconds and self._session.look(lambda: name in self._counts):
            self._session.change(work, sync=False)

    def take_expired(
        self, queue_name: str, seconds: float, after: int, max_messages: int
    ) -> list[StoredItem]:
        name = encoded(queue_name)

        def work(change: Change) -> list[StoredItem]:
            count = self._counts.get(name, _NOTHING)
            until = count.seconds + seconds + _HALF_A_MICROSECOND
            place = {"of": name, "after": after, "until": until, "limit": max_messages}
            rows = change.run(self._statements.expired, place).all()
            found = sorted(self._stored(name, rows), key=lambda stored: stored.position)
            if not found:
                return found
            size = sum(len(stored.message.data) for stored in found)
            tally = self._tally()
            self._remove(change, tally, name, [stored.position for stored in found], size)
            self._write(change, tally)
            change.take_back_by(self._statements.insert, [row._asdict() for row in rows])
            change.take_back_by(self._statements.forget, {"of": name})
            change.take_back_by(self._statements.remember, {"name": name, **count._asdict()})
            return found

        if self._session.look(lambda: name not in self._counts):
            return []
        return self._session.change(work, sync=False)

    # Their parts

    def _tally(self) -> _Tally:
        return _Tally(self._counts, self._last)

    def _unless_nothing(self, given: Any, work: Callable[[Change], None]) -> None:
        if given:
            self._session.change(work)
        else:
            self._session.check_writable()

    def _append(
        self, change: Change, tally: _Tally, entries: Sequence[_Entry], stored_at: float | None
    ) -> list[int]:
        """Append items, and count them."""
        first = tally.last + 1
        rows = []
        sums: dict[bytes, tuple[int, int]] = {}
        for position, entry in enumerate(entries, first):
            size = len(entry.data)
            rows.append(
                {
                    "position": position,
                    "queue_name": entry.name,
                    "uuid": entry.uuid,
                    "data": entry.data,
                    "size": size,
                    "flags": entry.flags,
                    "expires": self._expires(entry.name, entry.ttl),
                    "stored_at": stored_at,
                }
            )
            messages, total = sums.get(entry.name, (0, 0))
            sums[entry.name] = messages + 1, total + size
        if not rows:
            return []
        last = tally.last = first + len(rows) - 1
        change.run(self._statements.insert, rows)
        change.take_back_by(self._statements.delete_range, {"first": first, "last": last})
        less = []
        for name, (messages, size) in sums.items():
            tally.add(name, messages, size)
            less.append({"of": name, "less": messages, "less_size": size})
        change.take_back_by(self._statements.uncount, less)
        change.take_back_by(self._statements.forget_empty, {})
        return list(range(first, last + 1))

    def _remove(
        self, change: Change, tally: _Tally, name: bytes, positions: Sequence[int], size: int
    ) -> None:
        """Remove items, and count them off.

        :param size: of all of them, if all of them are there
        """
        gone = 0
        for some in parts(positions):
            gone += change.run(self._statements.delete, {"of": name, "positions": some}).rowcount
        if gone == len(positions):
            tally.add(name, -gone, -size)
        else:
            # Some were not there. How large those were that were, nobody can
            # tell any more.
            messages, left = change.run(self._statements.count, {"of": name}).one()
            tally.set(name, int(messages), int(left or 0))

    def _write(self, change: Change, tally: _Tally) -> None:
        """Write down what the queues hold now."""
        new, different, empty = tally.rows()
        if new:
            change.run(self._statements.remember, new)
        if different:
            change.run(self._statements.set_count, different)
        if empty:
            change.run(self._statements.forget, empty)

        def afterwards() -> None:
            tally.apply()
            self._last = tally.last

        change.afterwards(afterwards)

    def _expires(self, name: bytes, ttl: float | None) -> float | None:
        return None if ttl is None else self._counts.get(name, _NOTHING).seconds + ttl

    def _remaining(self, name: bytes, expires: Any) -> float | None:
        if expires is None:
            return None
        seconds = self._counts.get(name, _NOTHING).seconds
        return max(round(expires - seconds, _DIGITS), 0.0) if seconds else float(expires)

    def _stored(self, name: bytes, rows: Iterable[Any]) -> list[StoredItem]:
        found = []
        for row in rows:
            try:
                ttl = self._remaining(name, row.expires)
                item = Message(bytes(row.data), ttl, row.flags, bytes(row.uuid))
            except (TypeError, ValueError) as exc:
                raise StorageDamaged(
                    f"queue storage {self._session.where} has a row in table"
                    f" {self._statements.table!r} that is not a message ({exc}); keep a copy of"
                    f" the row with position {row.position} and delete it"
                ) from exc
            found.append(StoredItem(int(row.position), item))
        return found


class _Entry:
    """An item that is going to be stored."""

    __slots__ = ("data", "flags", "name", "ttl", "uuid")

    def __init__(self, queue_name: str, item: Message) -> None:
        self.name = checked(queue_name)
        self.uuid = item.uuid
        self.data = item.data
        self.flags = item.flags
        self.ttl = item.ttl


class _Statements:
    """All SQL of the queues; compiled once by SQLAlchemy."""

    def __init__(self, tables: Tables) -> None:
        import sqlalchemy as sa

        box, queues = tables.outbox, tables.queues
        of = box.c.queue_name == sa.bindparam("of")
        behind = box.c.position > sa.bindparam("after")
        limit: Any = sa.bindparam("limit", type_=sa.Integer)
        uuids = box.c.uuid.in_(sa.bindparam("uuids", expanding=True))
        an_item = box.c.position, box.c.uuid, box.c.data, box.c.flags, box.c.expires
        self.table: Final = box.name

        self.queues: Final = sa.select(queues)
        self.last: Final = sa.select(sa.func.max(box.c.position))

        def by(index: str, statement: Any) -> Any:
            # Otherwise MariaDB would go through all that is before the place.
            for dialect in ("mysql", "mariadb"):
                hint = f"FORCE INDEX (`{tables.prefix}outbox_{index}`)"
                statement = statement.with_hint(box, hint, dialect)
            return statement

        self.all: Final = by("order", sa.select(*an_item).where(of).order_by(box.c.position))
        self.page: Final = self.all.where(behind).limit(limit)
        self.sizes: Final = by(
            "order", sa.select(box.c.size).where(of, behind).order_by(box.c.position).limit(limit)
        )
        self.positions: Final = (
            sa.select(box.c.position).where(behind).order_by(box.c.position).limit(limit)
        )
        self.next_expiry: Final = by(
            "expiry",
            sa.select(box.c.expires)
            .where(of, behind, box.c.expires.is_not(None))
            .order_by(box.c.expires)
            .limit(1),
        )
        self.expired: Final = by(
            "expiry",
            sa.select(box)
            .where(of, behind, box.c.expires <= sa.bindparam("until"))
            .order_by(box.c.expires, box.c.position)
            .limit(limit),
        )
        self.oldest: Final = sa.select(box.c.stored_at).where(of).order_by(box.c.position).limit(1)
        self.count: Final = sa.select(sa.func.count(), sa.func.sum(box.c.size)).where(of)
        self.by_uuid: Final = sa.select(box.c.queue_name, box.c.position, box.c.size).where(uuids)
        self.by_uuid_of: Final = (
            sa.select(box.c.position, box.c.uuid, box.c.size)
            .where(of, uuids)
            .order_by(box.c.position)
        )
        self.queues_of: Final = sa.select(box.c.queue_name, box.c.uuid).where(uuids).distinct()

        self.insert: Final = sa.insert(box)
        self.delete: Final = sa.delete(box).where(
            of, box.c.position.in_(sa.bindparam("positions", expanding=True))
        )
        self.delete_range: Final = sa.delete(box).where(
            box.c.position.between(sa.bindparam("first"), sa.bindparam("last"))
        )
        self.set_expiry: Final = sa.update(box).where(of, box.c.uuid == sa.bindparam("item"))

        this = queues.c.name == sa.bindparam("of")
        self.remember: Final = sa.insert(queues)
        # What is set are the other parameters.
        self.set_count: Final = sa.update(queues).where(this)
        self.set_clock: Final = sa.update(queues).where(this)
        self.uncount: Final = (
            sa.update(queues)
            .where(this)
            .values(
                messages=queues.c.messages - sa.bindparam("less"),
                size=queues.c.size - sa.bindparam("less_size"),
            )
        )
        self.forget: Final = sa.delete(queues).where(this)
        self.forget_empty: Final = sa.delete(queues).where(queues.c.messages <= 0)
        self.forget_all: Final = sa.delete(queues)
