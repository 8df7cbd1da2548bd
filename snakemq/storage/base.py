"""The contract of a queue storage: what keeps persistent messages on disk."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from types import TracebackType
from typing import TYPE_CHECKING

from snakemq.message import Message

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["QueuesStorageBase"]


class QueuesStorageBase:
    """Base of all storages; derive from it to write one of your own.

    A storage holds *items* (:class:`~snakemq.message.Message`) in *queues*. A
    queue has a name, which is the identifier of the peer that the items are
    for: text, at most 50 characters. A queue exists as long as it holds items.

    The methods that raise :exc:`NotImplementedError` here are those of
    snakeMQ 1.6, and a storage has to have all of them; one that was written
    for 1.6 works as it is. The others do their work by means of these, and a
    storage overrides them to do it better.

    What every method has to keep to:

    * When it returns, what it did has reached the disk.
    * When it raises, nothing has changed. Something that the user has to know
      or can do something about (disk full, file locked) is raised as
      :exc:`~snakemq.exceptions.StorageError`.
    * An item is what it was: ``data``, ``flags`` (32 bits), ``uuid`` (1 to 16
      bytes, not padded) and ``ttl`` (seconds, float, or ``None``).
    * Items are told apart by ``uuid``, not by the identity of the object. An
      application may send the same message twice, or to several peers, so a
      ``uuid`` can be stored more than once.
    * Methods are called from the loop's thread and from every thread that
      sends messages.

    There is no constructor here, so none has to be called. A storage is a
    context manager that closes itself at the end.

    :class:`snakemq.testing.storage_contract.StorageContract` is a test suite
    that checks all this.
    """

    def close(self) -> None:
        """Release files and connections. What is stored stays stored.

        Called once, when the stack is closed; a second call should be harmless.
        """
        raise NotImplementedError

    def get_queues(self) -> list[str]:
        """The names of all queues, each once, in any order."""
        raise NotImplementedError

    def get_items(self, queue_name: str) -> list[Message]:
        """The items of a queue, in the order in which they were pushed.

        :param queue_name: any name; a queue that does not exist has no items
        :returns: a list that the caller may change
        """
        raise NotImplementedError

    def push(self, queue_name: str, item: Message) -> None:
        """Append an item to a queue, which comes into being if need be.

        :param queue_name: at most 50 characters
        :param item: the item; ``ttl`` is not 0
        """
        raise NotImplementedError

    def delete_items(self, items: Sequence[Message]) -> None:
        """Delete every stored item that has the ``uuid`` of one of these, in all queues.

        :param items: may hold some that are not stored; these are passed over
        """
        raise NotImplementedError

    def delete_all(self) -> None:
        """Delete all items, and with them all queues."""
        raise NotImplementedError

    def update_items_ttl(self, items: Sequence[Message]) -> None:
        """Store the ``ttl`` that these items have now; nothing else of them.

        Applies to every stored item with the same ``uuid``.

        :param items: may hold some that are not stored; these are passed over
        """
        raise NotImplementedError

    def push_many(self, entries: Iterable[tuple[str, Message]]) -> None:
        """Append many items at once, each to its queue, in this order.

        Override it if the storage has transactions: then all of the items are
        stored or none. The base class calls :meth:`push` for each; when one
        fails, those before it are stored.

        :param entries: pairs of queue name and item
        """
        for queue_name, item in entries:
            self.push(queue_name, item)

    def remove_items(self, queue_name: str, items: Iterable[Message]) -> None:
        """Remove delivered items from a queue, all of them at once.

        For each given item, the first stored item *of this queue* with the
        same ``uuid`` goes. A ``uuid`` that is stored twice needs to be given
        twice.

        Override it. The base class can only call :meth:`delete_items`, which
        also deletes the copies that are yet to be delivered, to this peer and
        to others. (1.6 never did anything else.)

        :param queue_name: any name
        :param items: may hold some that are not stored; these are passed over
        """
        self.delete_items(list(items))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()
