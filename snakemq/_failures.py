"""What a storage raises where nobody waits for it."""

from __future__ import annotations

import logging
from collections.abc import Callable

from snakemq.exceptions import StorageError

__all__ = ["StorageFailures"]


class StorageFailures:
    """Logs failures of the storage, and tells of them.

    :param log: where
    :param tell: ``func(exc)``; called in the thread in which it failed
    """

    def __init__(self, log: logging.Logger, tell: Callable[[Exception], object]) -> None:
        self._log = log
        self._tell = tell

    def report(self, exc: Exception, what: str, *args: object) -> None:
        """In an ``except`` block: something could not be done.

        :param what: a message for the log, and its arguments
        """
        if isinstance(exc, StorageError):
            # Says what is wrong and what to do.
            self._log.error(f"{what}: %s", *args, exc)
        else:
            # A storage may be the user's and raise anything.
            self._log.exception(what, *args)
        self._tell(exc)
