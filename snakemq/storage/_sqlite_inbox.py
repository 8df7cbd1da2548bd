"""The inbox and the dead letters, in the SQLite file.

::

    snakemq_inbox   id           INTEGER   rises, and is never used again
                    ident        TEXT      who sent it
                    uuid         BLOB
                    ttl          REAL      seconds, NULL: infinite
                    flags        INTEGER
                    redelivered  INTEGER   1: may have been delivered before
                    attempts     INTEGER   how often its callback was started
                    data         BLOB

    snakemq_dead    the same with the id that it had in the inbox, and
                    reason       TEXT
                    died_at      REAL      seconds since 1970
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Sequence
from typing import Any, Final

from snakemq.message import Message
from snakemq.storage._common import make_message, wall_clock
from snakemq.storage._identifiers import Addition
from snakemq.storage._sqlite_batches import insert_rows
from snakemq.storage._sqlite_file import SqliteFile, Statement
from snakemq.storage._sqlite_received import SqliteReceived
from snakemq.storage.base import DeadLetter, InboxItem

__all__ = ["SqliteInbox"]

_LAST_ID: Final = "SELECT seq FROM sqlite_sequence WHERE name = 'snakemq_inbox'"

_PUSH: Final = """INSERT INTO snakemq_inbox
    (id, ident, uuid, ttl, flags, redelivered, attempts, data)"""

_GET: Final = """SELECT id, data, ttl, flags, uuid, redelivered, ident, attempts
    FROM snakemq_inbox WHERE id > ? ORDER BY id LIMIT ?"""

_REMOVE: Final = "DELETE FROM snakemq_inbox WHERE id = ?"

_UNCOUNT_ATTEMPT: Final = "UPDATE snakemq_inbox SET attempts = max(0, attempts - 1) WHERE id = ?"

_COUNT_ATTEMPT: Final = "UPDATE snakemq_inbox SET attempts = attempts + 1 WHERE id = ?"

_BURY: Final = """INSERT INTO snakemq_dead
    (id, ident, uuid, ttl, flags, redelivered, attempts, reason, died_at, data)
    SELECT id, ident, uuid, ttl, flags, redelivered, attempts, ?, ?, data
    FROM snakemq_inbox WHERE id = ?"""

_GET_DEAD: Final = """SELECT id, data, ttl, flags, uuid, redelivered,
    ident, attempts, reason, died_at FROM snakemq_dead WHERE id > ? ORDER BY id LIMIT ?"""

_ADD_DEAD: Final = """INSERT INTO snakemq_dead
    (id, ident, uuid, ttl, flags, redelivered, attempts, reason, died_at, data)"""

_USE_ID: Final = "INSERT INTO snakemq_inbox (id) VALUES (?)"

_RETRY: Final = """INSERT INTO snakemq_inbox
    (id, ident, uuid, ttl, flags, redelivered, attempts, data)
    SELECT ?, ident, uuid, ttl, flags, redelivered OR attempts > 0, 0, data
    FROM snakemq_dead WHERE id = ?"""

_DROP: Final = "DELETE FROM snakemq_dead WHERE id = ?"


class SqliteInbox:
    """Received messages whose callback has not returned, and those given up.

    Its methods are those of :class:`~snakemq.storage.base.QueuesStorageBase`.

    :param file: the file
    :param received: the memory that goes with it
    """

    def __init__(self, file: SqliteFile, received: SqliteReceived) -> None:
        self._file = file
        self._received = received

    def push(self, ident: str, messages: Iterable[Message], *, keep: int) -> list[int]:
        found = list(messages)
        repeated = [message.uuid for message in found if message.ttl != 0]
        addition = Addition(ident, repeated, keep)
        with self._file.exclusive():
            if not found:
                return []
            plan = self._received.plan(addition) if addition.uuids else None
            with self._file.change(inserts=True) as conn:
                for statement, parameters in plan.statements if plan else ():
                    conn.execute(statement, parameters)
                first = _next_id(conn)
                insert_rows(
                    conn,
                    _PUSH,
                    [
                        (
                            number,
                            ident,
                            message.uuid,
                            message.ttl,
                            message.flags,
                            message.redelivered,
                            0,
                            message.data,
                        )
                        for number, message in enumerate(found, first)
                    ],
                )
            if plan is not None:
                self._received.carried_out(plan)
        return list(range(first, first + len(found)))

    def items(self, after: int, limit: int | None) -> list[InboxItem]:
        rows = self._file.read(_GET, after, _all_if_none(limit))
        return [self._item(row) for row in rows]

    def advance(self, done: int | None, starting: int | None) -> None:
        statements: list[Statement] = []
        if done is not None:
            statements.append((_REMOVE, (done,)))
        if starting is not None:
            statements.append((_COUNT_ATTEMPT, (starting,)))
        if statements:
            with self._file.exclusive():
                self._file.run(statements, late=True, joins=True)
        else:
            self._file.check_usable()

    def uncount(self, item_id: int) -> None:
        with self._file.exclusive():
            self._file.run([(_UNCOUNT_ATTEMPT, (item_id,))], late=True)

    def bury(self, item_id: int, reason: str) -> None:
        with self._file.exclusive():
            self._file.run([(_BURY, (reason, wall_clock(), item_id)), (_REMOVE, (item_id,))])

    def dead(self, after: int, limit: int | None) -> list[DeadLetter]:
        return [
            DeadLetter(row[0], row[6], self._message("snakemq_dead", row), *row[7:])
            for row in self._file.read(_GET_DEAD, after, _all_if_none(limit))
        ]

    def count_dead(self) -> int:
        ((count,),) = self._file.read("SELECT count(*) FROM snakemq_dead")
        return int(count)

    def add_dead(self, letters: Iterable[DeadLetter]) -> None:
        found = list(letters)
        if not found:
            self._file.check_usable()
            return
        with self._file.change() as conn:
            first = _next_id(conn)
            rows = [
                (
                    number,
                    letter.ident,
                    letter.message.uuid,
                    letter.message.ttl,
                    letter.message.flags,
                    letter.message.redelivered,
                    letter.attempts,
                    letter.reason,
                    letter.died_at,
                    letter.message.data,
                )
                for number, letter in enumerate(found, first)
            ]
            insert_rows(conn, _ADD_DEAD, rows)
            # As if they had been in the inbox, so that no number comes twice.
            conn.execute(_USE_ID, (first + len(found) - 1,))
            conn.execute(_REMOVE, (first + len(found) - 1,))

    def retry(self, ids: Sequence[int] | None) -> list[InboxItem]:
        with self._file.exclusive():
            found = self._existing(ids)
            if not found:
                return []
            with self._file.change() as conn:
                first = _next_id(conn)
                conn.executemany(_RETRY, list(enumerate(found, first)))
                conn.executemany(_DROP, [(letter_id,) for letter_id in found])
                rows = conn.execute(_GET, (first - 1, -1)).fetchall()
            return [self._item(row) for row in rows]

    def drop(self, ids: Sequence[int] | None) -> int:
        with self._file.exclusive():
            found = self._existing(ids)
            self._file.write(_DROP, [(letter_id,) for letter_id in found])
            return len(found)

    def _existing(self, ids: Sequence[int] | None) -> list[int]:
        """Those of the dead letters that are there, in their order."""
        there = [row[0] for row in self._file.read("SELECT id FROM snakemq_dead ORDER BY id")]
        if ids is None:
            return there
        wanted = set(ids)
        return [letter_id for letter_id in there if letter_id in wanted]

    def _item(self, row: tuple[Any, ...]) -> InboxItem:
        return InboxItem(row[0], row[6], self._message("snakemq_inbox", row), row[7])

    def _message(self, table: str, row: tuple[Any, ...]) -> Message:
        row_id, data, ttl, flags, uuid, redelivered = row[:6]
        try:
            return make_message(data, ttl, flags, uuid, redelivered)
        except (TypeError, ValueError) as exc:
            raise self._file.damaged(table, row_id, exc) from exc


def _all_if_none(limit: int | None) -> int:
    return -1 if limit is None else limit


def _next_id(conn: sqlite3.Connection) -> int:
    """The first number that was never used. Inside a transaction, in which it stays so."""
    row = conn.execute(_LAST_ID).fetchone()
    return 1 if row is None else int(row[0]) + 1
