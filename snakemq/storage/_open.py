"""Opens a storage by what a user calls it: the path of a file, or a URL."""

from __future__ import annotations

import inspect
import os
import re
from typing import Any, Final

from snakemq.exceptions import StorageError
from snakemq.storage.base import QueuesStorageBase

__all__ = ["hide_password", "is_url", "open_storage"]

#: A single letter in front of a colon is a drive on Windows, and no scheme.
_URL: Final = re.compile(r"([A-Za-z][A-Za-z0-9+._-]+)://")

#: Options that may be given whatever the target is.
_ANYWHERE: Final = {"create", "read_only"}

_MONGODB: Final = {"mongodb", "mongodb+srv"}

#: As much as possible, because a password may have any of these characters
#: where somebody forgot to encode it.
_PASSWORD: Final = re.compile(r"(?<=://)([^:/@]*):.*@", re.DOTALL)
_SECRET: Final = re.compile(r"([?&][^=&]*(?:pass|secret|token)[^=&]*=)[^&]*", re.IGNORECASE)


def open_storage(target: str | os.PathLike[str], **options: Any) -> QueuesStorageBase:
    """Open a storage by the path of its file, or by its URL.

    * ``mongodb://...`` or ``mongodb+srv://...``: a
      :class:`~snakemq.storage.mongodb.MongoDbQueuesStorage`
    * another URL, such as ``postgresql+psycopg://user@host/database``: a
      :class:`~snakemq.storage.sqla.SqlAlchemyQueuesStorage`
    * anything else, and every path that is not a string: a
      :class:`~snakemq.storage.sqlite.SqliteQueuesStorage` in this file

    :param target: path or URL
    :param options: more arguments for the storage. ``create=False``, which
        refuses to make a storage that is not there, and ``read_only=True``,
        which needs no lock, may always be given; a storage that does not know
        them is opened without.
    :raises TypeError: ``target`` is neither text nor a path; an option that
        this storage does not have
    :raises ValueError: an option can't be what it is
    :raises snakemq.exceptions.StorageError: it can't be opened, the module for
        it is not installed, or the URL is wrong. A password is not shown.
    """
    if isinstance(target, (str, os.PathLike)):
        path = os.fspath(target)
        if not isinstance(path, str):
            raise TypeError(f"the path of a storage must be text, not {type(path).__name__}")
    else:
        raise TypeError(f"a storage has a path or a URL, not {type(target).__name__}")
    # Each where it is needed: a program without a storage needs no sqlite3
    # module, and one with a file no driver.
    if not (isinstance(target, str) and is_url(target)):
        from snakemq.storage.sqlite import SqliteQueuesStorage

        return SqliteQueuesStorage(path, **options)
    try:
        return _open_url(path, options)
    except ImportError as exc:
        raise StorageError(
            f"can't open {hide_password(path)}: {str(exc).replace(path, hide_password(path))}"
        ) from exc


def _open_url(url: str, options: dict[str, Any]) -> QueuesStorageBase:
    if url.split("://", 1)[0].lower() in _MONGODB:
        from snakemq.storage.mongodb import MongoDbQueuesStorage

        return MongoDbQueuesStorage(url, **_known(MongoDbQueuesStorage, options))
    from snakemq.storage.sqla import SqlAlchemyQueuesStorage

    return SqlAlchemyQueuesStorage(url, **_known(SqlAlchemyQueuesStorage, options))


def _known(storage: type[QueuesStorageBase], options: dict[str, Any]) -> dict[str, Any]:
    """The options without those that any storage may have and this one has not."""
    parameters = inspect.signature(storage).parameters
    return {
        name: value
        for name, value in options.items()
        if name in parameters or name not in _ANYWHERE
    }


def is_url(target: str) -> bool:
    """Whether this is a URL; else it is the path of a file."""
    return _URL.match(target) is not None


def hide_password(target: str) -> str:
    """A URL (or a path) as it can be shown to anybody."""
    if not is_url(target):
        return target
    return _SECRET.sub(r"\1***", _PASSWORD.sub(r"\1:***@", target))
