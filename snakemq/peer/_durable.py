"""Messages of a peer that stay in the storage until they are handled."""

from __future__ import annotations

from contextlib import AbstractContextManager

from snakemq.callbacks import Callback
from snakemq.message import Message
from snakemq.messaging import Messaging
from snakemq.peer._batch import PeerTransaction, begin
from snakemq.peer._inbox import ReceivedMessage
from snakemq.peer._sending import Sender

__all__ = ["Durable"]


class Durable:
    """What a :class:`~snakemq.Peer` does with ``durable_receive`` beyond messaging.

    :param messaging: with an inbox
    :param sender: for what is sent inside a transaction
    """

    def __init__(self, messaging: Messaging, sender: Sender) -> None:
        self._inbox = messaging.inbox
        self._sender = sender

    def defer(self, message: Message) -> bool:
        """In the callback of messaging: it waits for a reader.

        :return: whether it is in the storage until then
        """
        return self._inbox.defer(message)

    def begin(self, message: Message) -> None:
        """It is handed out. Any thread."""
        self._inbox.begin(message)

    def done(self, message: Message) -> None:
        """It is handled. Any thread."""
        self._inbox.done(message)

    def transaction(self, message: Message) -> AbstractContextManager[PeerTransaction]:
        """See :meth:`ReceivedMessage.transaction`."""
        return begin(self._sender, self._inbox.transaction(message))

    @staticmethod
    def call(callback: Callback[[ReceivedMessage]], received: ReceivedMessage) -> None:
        """Call the callbacks, all of them, and raise what one of them raised.

        It is reported by messaging then, which has to know of it: the message
        comes again.
        """
        failure: Exception | None = None
        funcs = iter(callback.funcs)
        for func in funcs:
            try:
                func(received)
            except Exception as exc:
                if failure is not None:
                    callback.failed(func, (received,), exc)
                else:
                    failure = exc
            except (KeyboardInterrupt, SystemExit):
                callback.call_rest(funcs, received)
                raise
        if failure is not None:
            raise failure
