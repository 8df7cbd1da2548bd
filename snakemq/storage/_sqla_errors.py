"""What went wrong in an SQL database, and what to do about it."""

from __future__ import annotations

from typing import Final

from snakemq.exceptions import StorageError

__all__ = ["is_lost", "is_out_of_reach", "reason", "refused"]

#: SQLSTATEs after which the server is not there for this connection: it goes
#: down or starts up, is a copy that can only be read, ended the session ...
_LOST_STATES: Final = ("08", "57P", "25006", "25P03", "25P04", "53300")

#: The same as error numbers of MySQL and MariaDB: too many connections, server
#: shutdown, read-only copy, connection killed, and those of the client library.
_LOST_NUMBERS: Final = {1040, 1053, 1184, 1290, 1836, 1927, 2002, 2003, 2006, 2013, 2055, 4031}

#: What is said by a server that is there. When it refuses a connection, some
#: drivers have no code for it.
_NOT_LET_IN: Final = (
    "authentication failed",
    "no password supplied",
    "no pg_hba.conf entry",
    'fatal:  role "',
)
_NO_DATABASE: Final = 'fatal:  database "'

_ADVICE: Final = (
    (
        ("53100", 1021, 1114, "disk is full"),
        "has no room; make room on the server and try again, nothing was changed",
    ),
    (
        ("42501", 1044, 1142, 1227),
        "does not allow this user to do that; grant CREATE, SELECT, INSERT, UPDATE and DELETE",
    ),
    (
        ("42P01", 1146, "no such table", "no such column"),
        "lacks a table; if somebody dropped it, create_structures() makes a new one",
    ),
    (
        ("55P03", "57014", 1205, 3024, "locked"),
        "is locked by another program; end its transaction and try again",
    ),
    (
        ("40001", "40P01", 1213),
        "has another program that writes to the storage's tables; keep it away from them",
    ),
    (
        ("54000", "22001", 1153, 1406, "too big", "too large"),
        "can't hold a value of this size; send it in parts",
    ),
    (("readonly",), "is read-only; make it writable for this user"),
    (
        ("28P01", "28000", 1045, 1698, *_NOT_LET_IN),
        "does not let this user in; check name and password",
    ),
    (("3D000", 1049, _NO_DATABASE), "does not exist; create it, or check its name"),
    (
        ("malformed", "not a database"),
        "is damaged or no database; it was left as it is, choose another name",
    ),
    (("unable to open",), "can't be opened; check the path and its permissions"),
)


def _codes(exc: BaseException) -> tuple[str, int]:
    """The SQLSTATE and the error number of the driver; empty and 0 if it has none."""
    original = getattr(exc, "orig", None) or exc
    state = getattr(original, "sqlstate", None) or getattr(original, "pgcode", None) or ""
    number = original.args[0] if original.args else 0
    return str(state), number if isinstance(number, int) else 0


def is_lost(exc: BaseException) -> bool:
    """Whether there is no use in this connection any more, but maybe in another one."""
    if getattr(exc, "connection_invalidated", False) or isinstance(exc, OSError):
        return True
    state, number = _codes(exc)
    return state.startswith(_LOST_STATES) or number in _LOST_NUMBERS


def is_out_of_reach(exc: BaseException) -> bool:
    """Whether it may be another time what it is not now: of an error while connecting."""
    if is_lost(exc):
        return True
    state, number = _codes(exc)
    text = str(getattr(exc, "orig", None) or exc).lower()
    if state or number or any(sign in text for sign in (*_NOT_LET_IN, _NO_DATABASE)):
        return False
    return type(exc).__name__ in ("OperationalError", "InterfaceError")


def reason(exc: BaseException) -> str:
    """What the driver says, in one line, without the statement and its parameters."""
    original = getattr(exc, "orig", None) or exc
    args = original.args
    # PyMySQL's have a number and a text.
    text = str(args[1]) if len(args) == 2 and isinstance(args[0], int) else str(original)
    return " ".join(text.split()) or type(original).__name__


def refused(where: str, exc: BaseException) -> StorageError:
    """What to raise when the database can't do what was asked.

    :param where: its URL, without the password
    """
    state, number = _codes(exc)
    text = str(getattr(exc, "orig", None) or exc).lower()
    for signs, advice in _ADVICE:
        for sign in signs:
            if sign in (state, number) or (
                isinstance(sign, str) and sign.islower() and sign in text
            ):
                return StorageError(f"queue storage {where} {advice} ({reason(exc)})")
    return StorageError(
        f"queue storage {where} could not do that; the database says why: {reason(exc)}"
    )
