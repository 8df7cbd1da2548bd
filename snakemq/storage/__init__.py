"""Storages: where persistent messages wait until they are delivered.

:class:`~snakemq.storage.sqlite.SqliteQueuesStorage` (in
:mod:`snakemq.storage.sqlite`) keeps them in a file,
:class:`MemoryQueuesStorage` in memory, and :class:`QueuesStorageBase` is for
those who write a storage of their own.
"""

from __future__ import annotations

from snakemq.storage._open import open_storage
from snakemq.storage.base import (
    DeadLetter,
    InboxItem,
    QueuesStorageBase,
    QueueSummary,
    Removal,
    StoredItem,
)
from snakemq.storage.memory import MemoryQueuesStorage

__all__ = [
    "DeadLetter",
    "InboxItem",
    "MemoryQueuesStorage",
    "QueueSummary",
    "QueuesStorageBase",
    "Removal",
    "StoredItem",
    "open_storage",
]
