"""The storage in an SQL database, by means of SQLAlchemy 2.

It is tested on PostgreSQL, MariaDB and SQLite. What is stored where is told by
:mod:`snakemq.storage._sqla_tables`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, Final

from snakemq.exceptions import StorageError
from snakemq.message import Message
from snakemq.storage._identifiers import Addition
from snakemq.storage._sqla_change import Options
from snakemq.storage._sqla_holder import Holder
from snakemq.storage._sqla_inbox import SqlInbox
from snakemq.storage._sqla_legacy import TableOf16
from snakemq.storage._sqla_outbox import SqlOutbox
from snakemq.storage._sqla_received import SqlReceived
from snakemq.storage._sqla_servers import server_for
from snakemq.storage._sqla_session import SqlSession
from snakemq.storage._sqla_tables import Tables, checked
from snakemq.storage.base import (
    DeadLetter,
    InboxItem,
    QueuesStorageBase,
    QueueSummary,
    Removal,
    StoredItem,
)

if TYPE_CHECKING:
    from sqlalchemy import Connection, Engine

__all__ = ["SqlAlchemyQueuesStorage"]

_DEFAULT_PREFIX: Final = "snakemq_"

#: Who gives one of these to create_engine() wants a pool of their own.
_POOL_ARGUMENTS: Final = {
    "creator",
    "max_overflow",
    "pool",
    "pool_recycle",
    "pool_size",
    "pool_timeout",
    "pool_use_lifo",
    "poolclass",
}


class SqlAlchemyQueuesStorage(QueuesStorageBase):
    """Keeps items in an SQL database, such as PostgreSQL or MariaDB.

    ::

        storage = SqlAlchemyQueuesStorage("postgresql+psycopg://user:password@host/database")

    Needs SQLAlchemy 2 (``pip install snakemq[sqlalchemy]``) and a driver for
    the database. When a method returns, what it did was committed. A batch is
    one transaction. May be used from any thread; calls wait for each other.

    **One process at a time has the storage.** While it has, it holds a lock of
    the database (PostgreSQL, MySQL, MariaDB) that ends with its connection; a
    second one is refused, or waits as ``lock_timeout`` says. That makes a
    redundant pair: two processes with the same identifier and the same
    database, both with ``lock_timeout=None``. One of them works, the
    constructor of the other one waits, and returns when the first one has
    closed the storage, has died, or was not heard of by the server for a
    minute. (A Galera cluster has no such lock for all its nodes: let both use
    the same one.) Where a database has no locks of this kind, who comes later
    takes the storage from who has it.

    **A database that is away** (restarted, or out of reach) interrupts the
    work and ends nothing: the storage connects to it again by itself. Until
    then methods wait, :attr:`may_wait` permitting, for ``patience`` seconds,
    and then raise :exc:`~snakemq.exceptions.StorageUnavailable`. What is
    repeated is repeated only if it is certain that it was not done. If another
    process got the lock in the meantime, this storage has come to its end, and
    every method raises :exc:`~snakemq.exceptions.StorageInUse`.

    A process that forks keeps the storage for itself: in the child it refuses
    to work.

    The table of snakeMQ 1.6 is taken over: its items are moved when the
    storage is opened.

    :param args: for :func:`sqlalchemy.create_engine`, as in 1.6
    :param prefix: names of the tables begin with it; storages with different
        ones have nothing to do with each other
    :param lock_timeout: how long to wait for another process that has the
        storage, in seconds; ``None``: for ever. Ctrl-C ends it
    :param patience: how long a method waits for a database that is away, in
        seconds
    :param create: whether to make the tables if they are missing; else it is
        an error
    :param read_only: only look; this needs no lock, so it is possible while
        another process has the storage. Methods that change something raise
        :exc:`~snakemq.exceptions.StorageError`
    :param kwargs: for :func:`sqlalchemy.create_engine`; a network that is dead
        is noticed after some 15 seconds, unless ``connect_args`` say something
        else
    :raises ImportError: SQLAlchemy, or the driver for the database, is missing
    :raises ValueError: ``lock_timeout`` or ``patience`` is negative
    :raises snakemq.exceptions.StorageInUse: another process has the storage
    :raises snakemq.exceptions.StorageUnavailable: the database can't be reached
    :raises snakemq.exceptions.StorageError: it can't be used. The message says
        what to do. By every method, too
    """

    keeps_received = True
    has_pages = True

    def __init__(
        self,
        *args: Any,
        prefix: str = _DEFAULT_PREFIX,
        lock_timeout: float | None = 0.0,
        patience: float = 30.0,
        create: bool = True,
        read_only: bool = False,
        **kwargs: Any,
    ) -> None:
        options = Options(
            lock_timeout=lock_timeout, patience=patience, create=create, read_only=read_only
        )
        #: SQLAlchemy's engine. Its connection is the storage's own.
        self.engine: Final = _make_engine(args, kwargs, prefix)
        where = self.engine.url.render_as_string(hide_password=True)
        tables = Tables(prefix)
        server = server_for(self.engine.dialect.name, prefix)
        self._tables = tables
        self._holder = Holder(tables, where)
        self._session = SqlSession(
            self.engine, self._holder, server, options, lambda: self.may_wait()
        )
        self._outbox = SqlOutbox(self._session, tables, server)
        self._received = SqlReceived(self._session, tables)
        self._inbox = SqlInbox(self._session, tables, server, self._received)
        self._of_16 = TableOf16(self._session, self._outbox) if prefix == _DEFAULT_PREFIX else None
        self._session.open()
        try:
            if self._of_16 is not None and not read_only:
                self._of_16.take_over()
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Close the connection, and so give the lock back. Harmless when repeated."""
        self._session.close()

    def create_structures(self) -> None:
        """Make the tables, if they are missing.

        The constructor does so already; this is for programs that were written
        for 1.6, and for after :meth:`drop_structures`.
        """
        self._session.begin_anew()

    def drop_structures(self) -> None:
        """Drop the tables, **with everything that is in them**; also that of 1.6."""

        def drop(conn: Connection) -> None:
            self._tables.metadata.drop_all(conn)
            if self._of_16 is not None:
                self._of_16.drop(conn)

        self._session.define(drop)

    def get_queues(self) -> list[str]:
        return self._outbox.names()

    def get_items(self, queue_name: str) -> list[Message]:
        return self._outbox.items(queue_name)

    def push(self, queue_name: str, item: Message) -> None:
        self._outbox.change([(queue_name, item)], (), sync=True)

    def delete_items(self, items: Sequence[Message]) -> None:
        self._outbox.delete_items(items)

    def delete_all(self) -> None:
        self._outbox.delete_all()

    def update_items_ttl(self, items: Sequence[Message]) -> None:
        self._outbox.update_ttls(items)

    def push_many(self, entries: Iterable[tuple[str, Message]]) -> None:
        self._outbox.change(entries, (), sync=True)

    def remove_items(self, queue_name: str, items: Iterable[Message]) -> None:
        self._outbox.remove_items(queue_name, items)

    def advance_ttl(self, queue_name: str, seconds: float) -> None:
        self._outbox.advance_ttl(queue_name, seconds)

    def summarize(self) -> list[QueueSummary]:
        return self._outbox.summarize()

    def last_position(self) -> int:
        return self._outbox.last_position()

    def get_page(
        self, queue_name: str, after: int, *, max_messages: int, max_bytes: int
    ) -> list[StoredItem]:
        return self._outbox.page(queue_name, after, max_messages=max_messages, max_bytes=max_bytes)

    def change_items(
        self,
        push: Sequence[tuple[str, Message]],
        remove: Sequence[Removal] = (),
        *,
        sync: bool = True,
    ) -> list[int]:
        return self._outbox.change(push, remove, sync=sync)

    def next_expiry(self, queue_name: str, after: int = 0) -> float | None:
        return self._outbox.next_expiry(queue_name, after)

    def take_expired(
        self, queue_name: str, seconds: float, after: int, max_messages: int
    ) -> list[StoredItem]:
        return self._outbox.take_expired(queue_name, seconds, after, max_messages)

    def oldest(self, queue_name: str) -> float | None:
        return self._outbox.oldest(queue_name)

    def received_peers(self) -> list[str]:
        return self._received.peers()

    def load_received(self, ident: str) -> list[bytes]:
        return self._received.load(ident)

    def add_received(self, ident: str, uuids: Iterable[bytes], *, keep: int, sync: bool) -> None:
        self._received.add(Addition(checked(ident), uuids, keep), sync=sync)

    def sync(self) -> None:
        self._session.sync()

    def push_inbox(self, ident: str, messages: Iterable[Message], *, keep: int) -> list[int]:
        return self._inbox.push(ident, messages, keep=keep)

    def get_inbox(self, after: int = 0, limit: int | None = None) -> list[InboxItem]:
        return self._inbox.items(after, limit)

    def advance_inbox(self, done: int | None, starting: int | None) -> None:
        self._inbox.advance(done, starting)

    def uncount_attempt(self, item_id: int) -> None:
        self._inbox.uncount(item_id)

    def bury(self, item_id: int, reason: str) -> None:
        self._inbox.bury(item_id, reason)

    def get_dead(self, after: int = 0, limit: int | None = None) -> list[DeadLetter]:
        return self._inbox.dead(after, limit)

    def count_dead(self) -> int:
        return self._inbox.count_dead()

    def add_dead(self, letters: Iterable[DeadLetter]) -> None:
        self._inbox.add_dead(letters)

    def retry_dead(self, ids: Sequence[int] | None) -> list[InboxItem]:
        return self._inbox.retry(ids)

    def drop_dead(self, ids: Sequence[int] | None) -> int:
        return self._inbox.drop(ids)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self._session.where} {self._session.state}>"


def _make_engine(args: tuple[Any, ...], kwargs: dict[str, Any], prefix: str) -> Engine:
    """An engine that makes one connection, and whose messages tell no secrets."""
    try:
        import sqlalchemy as sa
    except ImportError as exc:
        raise ImportError(
            "SqlAlchemyQueuesStorage needs SQLAlchemy 2: pip install snakemq[sqlalchemy]"
        ) from exc
    arguments = {"hide_parameters": True, **kwargs}
    if not _POOL_ARGUMENTS & kwargs.keys():
        arguments["poolclass"] = sa.pool.NullPool
    try:
        url = sa.make_url(args[0] if args else kwargs["url"])
        server = server_for(url.get_backend_name(), prefix)
        defaults = server.connect_args(url)
        given = kwargs.get("connect_args", {})
        arguments["connect_args"] = {
            **{name: value for name, value in defaults.items() if name not in url.query},
            **given,
        }
        engine: Engine = sa.create_engine(*args, **arguments)
    except sa.exc.SQLAlchemyError as exc:
        raise StorageError(f"this is no URL of a database that can be used: {exc}") from exc
    except ModuleNotFoundError as exc:
        raise ImportError(
            f"the driver for {url.render_as_string(hide_password=True)} is not installed (there is"
            f" no module {exc.name!r}); install it, or name another one in the URL, such as"
            " postgresql+psycopg:// or mysql+pymysql://"
        ) from exc
    if engine.dialect.is_async:
        raise StorageError(
            f"the driver of {url.render_as_string(hide_password=True)} is made for asyncio and"
            " can't be used here; name another one in the URL, such as postgresql+psycopg://"
        )
    return engine
