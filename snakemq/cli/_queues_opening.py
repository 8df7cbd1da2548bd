"""Opens the storages that a command line names."""

from __future__ import annotations

import re
from typing import Any, Final

from snakemq.cli._exit import UsageError
from snakemq.storage import QueuesStorageBase, open_storage
from snakemq.storage._open import hide_password

__all__ = ["open_for_changes", "open_for_reading", "open_or_make"]


#: A database that ends with this process, and what is moved there with it.
_IN_MEMORY: Final = re.compile(r"(sqlite(\+\w+)?:/*)?(:memory:)?|.*\b(mode=memory)\b.*")


def open_for_reading(target: str) -> QueuesStorageBase:
    """Open it beside a program that may have it open, and change nothing."""
    return _open(target, create=False, read_only=True)


def open_for_changes(target: str) -> QueuesStorageBase:
    """Open it, if it is there and nobody else has it open."""
    return _open(target, create=False)


def open_or_make(target: str) -> QueuesStorageBase:
    """Open it, or make a new one."""
    return _open(target)


def _open(target: str, **options: Any) -> QueuesStorageBase:
    if _IN_MEMORY.fullmatch(target):
        raise UsageError(f"{target!r} is not a file, nor the URL of a database that stays")
    try:
        return open_storage(target, **options)
    except ValueError as exc:
        raise UsageError(f"{hide_password(target)!r}: {exc}") from exc
