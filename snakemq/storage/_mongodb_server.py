"""The connection to a MongoDB server: collections, time limits, errors in our words."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import quote, quote_plus

from snakemq.exceptions import StorageDamaged, StorageError, StorageUnavailable

if TYPE_CHECKING:
    from pymongo import MongoClient
    from pymongo.collection import Collection
    from pymongo.write_concern import WriteConcern

__all__ = ["DEFAULT_DATABASE", "MAX_DATA", "DataTooLarge", "Document", "MongoServer", "Unreachable"]

Document = dict[str, Any]

#: The name of 1.6.
DEFAULT_DATABASE: Final = "snakemq"

#: How much data an item can have, in bytes. MongoDB refuses documents over
#: 16 MiB; the rest is for what else is in ours.
MAX_DATA: Final = 16 * 1024 * 1024 - 16 * 1024

#: Error codes that mean "not now": it stops, starts, elects, or was too slow.
_PASSING: Final = frozenset(
    {6, 7, 50, 64, 89, 91, 133, 189, 202, 262, 9001, 10058, 10107, 11600, 11602, 13435, 13436}
)

_NO_SUCH_COMMAND: Final = 59

_SETTINGS: Final = {"appname": "snakemq", "retryReads": False, "serverSelectionTimeoutMS": 5000}

_PYMONGO_MISSING: Final = (
    "MongoDbQueuesStorage needs pymongo, which is not installed: pip install snakemq[mongodb]"
)


class Unreachable(StorageUnavailable):
    """The server did not answer, or not in time; whether it did what was asked is not known."""


class DataTooLarge(StorageError):
    """A message does not fit into a document."""

    def __init__(self, size: int) -> None:
        super().__init__(
            f"a message with {size} bytes of data does not fit into a document of MongoDB; at"
            f" most {MAX_DATA} bytes do. Nothing was stored. Send it in parts, or use another"
            " storage (SqliteQueuesStorage)"
        )


class MongoServer:
    """A client, and the collections of one storage.

    :param client: a client of the caller's, which stays open at the end; or
        ``None``, and one is made of ``host``, ``port`` and ``options``
    :param host: name of the server, or a mongodb:// URI
    :param port: its port, if ``host`` is no URI
    :param database: name of the database; :data:`DEFAULT_DATABASE`: that of the
        URI, if it has one
    :param collection: the names of all collections begin with it and a dot
    :param write_concern: what has to be done before something counts as stored
    :param options: for :class:`pymongo.MongoClient`
    :raises ImportError: pymongo is not installed
    :raises snakemq.exceptions.StorageError: host or options are not valid
    """

    def __init__(
        self,
        client: MongoClient[Document] | None,
        host: str,
        port: int,
        database: str,
        collection: str,
        write_concern: WriteConcern | None,
        options: Mapping[str, Any],
    ) -> None:
        try:
            import pymongo
        except ImportError as exc:
            raise ImportError(_PYMONGO_MISSING, name="pymongo") from exc
        from bson.codec_options import CodecOptions

        self._pymongo = pymongo
        self._secrets = _secrets(host, options)
        self._own = client is None
        if write_concern is None:
            write_concern = pymongo.WriteConcern("majority", j=True)
        if not write_concern.acknowledged:
            raise ValueError("with this write_concern nothing would ever count as stored")
        if client is None:
            # What fails is repeated above, where it is known what that means.
            settings = {**_SETTINGS, **options}
            try:
                client = pymongo.MongoClient(host, port, **settings)
            except (pymongo.errors.PyMongoError, TypeError, ValueError) as exc:
                raise StorageError(
                    f"these are no valid settings for a MongoDB client: {self._told(exc)}"
                ) from None
        self._client = client
        if database == DEFAULT_DATABASE and self._own:
            database = client.get_default_database(database).name
        where = _place(host, port) if self._own else _hosts(client)
        self.place: Final = f"{where} {database}.{collection}"
        self._database = client.get_database(
            database,
            codec_options=CodecOptions(),
            read_preference=pymongo.ReadPreference.PRIMARY,
            write_concern=write_concern,
        )
        self._prefix = collection
        self._late = pymongo.WriteConcern(w=1, j=False)

    def collection(self, name: str) -> Collection[Document]:
        """One of the storage's collections; what is written to it counts when it is durable."""
        return self._database[f"{self._prefix}.{name}"]

    def late(self, name: str) -> Collection[Document]:
        """The same; what is written may be undone by a power failure."""
        return self.collection(name).with_options(write_concern=self._late)

    def time(self) -> float:
        """The server's clock, in seconds since 1970."""
        try:
            answer = self._database.command("hello")
        except self._pymongo.errors.OperationFailure as exc:
            if exc.code != _NO_SUCH_COMMAND:
                raise
            answer = self._database.command("isMaster")  # before MongoDB 4.4.2
        local: datetime = answer["localTime"]
        return local.replace(tzinfo=timezone.utc).timestamp()

    def index(self, name: str, indexes: Mapping[str, Sequence[str]]) -> None:
        """See to it that a collection has these indexes.

        :param indexes: by name, the fields of each
        """
        # One by one: FerretDB 1 breaks off when some of several exist.
        for index, fields in indexes.items():
            self.collection(name).create_index([(field, 1) for field in fields], name=index)

    def delete(self, name: str, filters: Sequence[Document], *, late: bool = False) -> int:
        """Delete what one of the filters finds, at the cost of one round trip.

        :returns: how many that were
        """
        if not filters:
            return 0
        collection = self.late(name) if late else self.collection(name)
        requests = [self._pymongo.DeleteMany(each) for each in filters]
        return int(collection.bulk_write(requests).deleted_count)

    def update(self, name: str, updates: Sequence[tuple[Document, Document]]) -> None:
        """Update what a filter finds; pairs of filter and update, in one round trip."""
        if updates:
            requests = [self._pymongo.UpdateMany(*each) for each in updates]
            self.collection(name).bulk_write(requests)

    def limited(self, seconds: float | None) -> AbstractContextManager[object]:
        """Within it, the calls have so much time together.

        :param seconds: ``None``: as long as it takes, once a server is found
        """
        return nullcontext() if seconds is None else self._pymongo.timeout(seconds)

    @contextmanager
    def errors(self) -> Iterator[None]:
        """What pymongo raises within it comes out as one of our exceptions.

        :raises Unreachable: the server is away, or does not answer in time
        :raises snakemq.exceptions.StorageError: anything else
        """
        from bson.errors import BSONError, InvalidDocument

        try:
            yield
        except self._pymongo.errors.PyMongoError as exc:
            if self._is_passing(exc):
                raise Unreachable(
                    f"the MongoDB server {self.place} can't be reached: {self._told(exc)}"
                ) from exc
            if isinstance(exc, self._pymongo.errors.DocumentTooLarge):
                raise StorageError(
                    f"too large for a document of MongoDB: {self._told(exc)}"
                ) from exc
            raise StorageError(f"the MongoDB server {self.place} refuses: {self._told(exc)}") from (
                exc
            )
        except InvalidDocument as exc:
            raise StorageError(f"MongoDB can't store this: {self._told(exc)}") from exc
        except BSONError as exc:
            raise StorageDamaged(
                f"what {self.place} holds can't be read: {self._told(exc)}; it was left as it is"
            ) from exc

    def is_duplicate(self, exc: BaseException) -> bool:
        """Whether this says that there is a document with this ``_id``."""
        return isinstance(exc, self._pymongo.errors.DuplicateKeyError)

    def close(self) -> None:
        """Close the client, if it is not the caller's."""
        if self._own:
            self._client.close()

    def _is_passing(self, exc: Exception) -> bool:
        errors = self._pymongo.errors
        if isinstance(exc, errors.ConnectionFailure | errors.WaitQueueTimeoutError):
            return True
        if getattr(exc, "timeout", False) or isinstance(exc, errors.WriteConcernError):
            return True
        if isinstance(exc, errors.BulkWriteError):
            # Those of the documents say more than those of the write concern.
            found = exc.details.get("writeErrors") or exc.details.get("writeConcernErrors") or []
            concern = not exc.details.get("writeErrors")
            return concern or any(each.get("code") in _PASSING for each in found)
        return isinstance(exc, errors.OperationFailure) and exc.code in _PASSING

    def _told(self, exc: Exception) -> str:
        """What an exception says, without any password."""
        text = str(exc)
        # Behind this is the server's whole answer, and a description of all servers.
        text = re.split(r", full error: |, Topology Description: |\(configured timeouts", text)[0]
        for secret in self._secrets:
            text = text.replace(secret, "***")
        return text.strip() or type(exc).__name__


def _secrets(host: str, options: Mapping[str, Any]) -> list[str]:
    """What must not be in a message, the longest first."""
    secrets = set()
    for part in re.split(r"[\s,]+", str(host)):
        found = re.match(r"mongodb(?:\+srv)?://[^:@/]*:(.*)@", part)
        if found:
            secrets.add(found[1])
    for name in ("password", "tlsCertificateKeyFilePassword"):
        if options.get(name):
            word = str(options[name])
            secrets |= {word, quote(word), quote_plus(word)}
    return sorted((secret for secret in secrets if secret), key=len, reverse=True)


def _place(host: str, port: int) -> str:
    """Where it is, for messages, without names of users and passwords."""
    if "://" in str(host):
        hosts = re.sub(r"^.*?://(?:.*@)?", "", host)
        return re.split(r"[/?]", hosts)[0]
    return f"{host}:{port}"


def _hosts(client: MongoClient[Document]) -> str:
    addresses = client.topology_description.server_descriptions()
    return ",".join(f"{host}:{port}" for host, port in sorted(addresses)) or "a client's"
