"""The tables in an SQL database.

Names of peers are stored as UTF-8 bytes: so they are exact everywhere, whatever
the database thinks about case, spaces at the end, and NUL characters. The names
of the tables begin with a prefix, ``snakemq_`` if none is given::

    outbox    position    BIGINT    rises with every message that is pushed
              queue_name  bytes
              uuid        bytes
              data        bytes
              size        BIGINT    of the data, in bytes
              flags       BIGINT
              expires     DOUBLE    reading of the queue's clock when the TTL has run
                                    out, NULL: never
              stored_at   DOUBLE    seconds since 1970, NULL: not known

    queues    name        bytes     of each queue that is not empty:
              messages    BIGINT    how many there are
              size        BIGINT    how many bytes of data they have
              seconds     DOUBLE    its clock: for how long TTLs ran

    received  ident       bytes     who sent them
              number      BIGINT    rises, within a peer and from peer to peer
              uuids       bytes     17 for each: the identifier, padded with NULs
                                    to 16, and its length

    inbox     id          BIGINT    rises, and is never used again
              ident       bytes     who sent it
              uuid        bytes
              data        bytes
              ttl         DOUBLE    seconds, NULL: infinite
              flags       BIGINT
              redelivered SMALLINT  1: may have been delivered before
              attempts    BIGINT    how often its callback was started

    dead      the same with the id that it had in the inbox, and
              reason      bytes     UTF-8
              died_at     DOUBLE    seconds since 1970

    meta      one row
              id          SMALLINT  1
              version     SMALLINT  of these tables
              holder_id   bytes     made up by the storage object that has it
              holder      VARCHAR   the same for people: process, program, host
              since       DOUBLE    seconds since 1970
              epoch       BIGINT    how often it was taken
              changes     BIGINT    how many changes were made
              last_id     BIGINT    the last one in the inbox
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from sqlalchemy import MetaData

__all__ = ["HOLDER_LENGTH", "NAME_BYTES", "VERSION", "Tables", "checked", "decoded", "encoded"]

#: Of these tables; one with a higher version was made by a later release.
VERSION: Final = 1

#: Room for the name of a peer: 50 characters of 4 bytes, and some to spare.
NAME_BYTES: Final = 255

HOLDER_LENGTH: Final = 255

_UUID_BYTES: Final = 16

_PREFIX: Final = re.compile(r"[A-Za-z0-9_]{0,40}")


def encoded(name: str) -> bytes:
    """A name as it is stored."""
    # Nothing that is text is refused, not even half a surrogate pair.
    return name.encode("utf-8", "surrogatepass")


def checked(name: str) -> bytes:
    """The same for a name that is going to be stored.

    :raises ValueError: it is too long
    """
    found = encoded(name)
    if len(found) > NAME_BYTES:
        raise ValueError(f"an identifier has at most 50 characters, not {len(name)}")
    return found


def decoded(stored: bytes) -> str:
    """What :func:`encoded` made of a name."""
    return bytes(stored).decode("utf-8", "surrogatepass")


class Tables:
    """The tables with one prefix.

    :param prefix: their names begin with it
    :raises ValueError: that can't be the beginning of a name
    """

    def __init__(self, prefix: str) -> None:
        import sqlalchemy as sa
        from sqlalchemy.dialects import mysql

        if not _PREFIX.fullmatch(prefix):
            raise ValueError(
                "the prefix of the tables is made of at most 40 letters, digits and underscores,"
                f" not {prefix!r}"
            )
        self.prefix: Final = prefix
        self.metadata: Final[MetaData] = sa.MetaData()
        options: dict[str, Any] = {
            f"{dialect}_engine": "InnoDB" for dialect in ("mysql", "mariadb")
        }
        options |= {f"{dialect}_charset": "utf8mb4" for dialect in ("mysql", "mariadb")}

        big = sa.BigInteger()
        double: Any = sa.Double()
        blob = sa.LargeBinary().with_variant(mysql.LONGBLOB(), "mysql", "mariadb")

        def short(length: int) -> Any:
            # That of LargeBinary can't be a key everywhere, and VARBINARY is
            # not known everywhere.
            return sa.LargeBinary().with_variant(sa.VARBINARY(length), "mysql", "mariadb", "mssql")

        def column(name: str, kind: Any, *, null: bool = False, key: bool = False) -> Any:
            return sa.Column(name, kind, nullable=null, primary_key=key, autoincrement=False)

        def table(name: str, *columns: Any) -> Any:
            return sa.Table(f"{prefix}{name}", self.metadata, *columns, **options)

        def received_message() -> list[Any]:
            return [
                column("id", big, key=True),
                column("ident", short(NAME_BYTES)),
                column("uuid", short(_UUID_BYTES)),
                column("data", blob),
                column("ttl", double, null=True),
                column("flags", big),
                column("redelivered", sa.SmallInteger()),
                column("attempts", big),
            ]

        self.outbox: Final = table(
            "outbox",
            column("position", big, key=True),
            column("queue_name", short(NAME_BYTES)),
            column("uuid", short(_UUID_BYTES)),
            column("data", blob),
            column("size", big),
            column("flags", big),
            column("expires", double, null=True),
            column("stored_at", double, null=True),
            sa.Index(f"{prefix}outbox_order", "queue_name", "position"),
            sa.Index(f"{prefix}outbox_expiry", "queue_name", "expires", "position"),
        )
        self.queues: Final = table(
            "queues",
            column("name", short(NAME_BYTES), key=True),
            column("messages", big),
            column("size", big),
            column("seconds", double),
        )
        self.received: Final = table(
            "received",
            column("ident", short(NAME_BYTES), key=True),
            column("number", big, key=True),
            column("uuids", blob),
        )
        self.inbox: Final = table("inbox", *received_message())
        self.dead: Final = table(
            "dead", *received_message(), column("reason", blob), column("died_at", double)
        )
        self.meta: Final = table(
            "meta",
            column("id", sa.SmallInteger(), key=True),
            column("version", sa.SmallInteger()),
            column("holder_id", short(_UUID_BYTES)),
            column("holder", sa.String(HOLDER_LENGTH)),
            column("since", double),
            column("epoch", big),
            column("changes", big),
            column("last_id", big),
        )
