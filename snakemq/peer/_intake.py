"""What becomes of a message that has arrived."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from snakemq.callbacks import Callback
from snakemq.message import Message, MessageHandler
from snakemq.peer._calls import CALL_PREFIXES, COMMON_PREFIX, Calls
from snakemq.peer._durable import Durable
from snakemq.peer._inbox import Inbox, ReceivedMessage

__all__ = ["Intake"]

_LENGTH: Final = len(COMMON_PREFIX)

_new = ReceivedMessage.__new__


class Intake(MessageHandler):
    """Hands messages to calls, to the program's callbacks, or to the inbox. Loop thread only.

    :param calls: takes what belongs to calls
    :param on_message: the program's callbacks
    :param inbox: for what comes while there is none
    :param durable: keeps messages until they are handled; ``None``: nobody does
    :param failed: ``func(name, func, args, exception)``; a callback raised
    """

    def __init__(
        self,
        calls: Calls,
        on_message: Callback[[ReceivedMessage]],
        inbox: Inbox,
        durable: Durable | None,
        failed: Callable[[str, Callable[..., object], tuple[object, ...], Exception], object],
    ) -> None:
        self._calls = calls
        self._on_message = on_message
        self._inbox = inbox
        self._durable = durable
        self._failed = failed

    def __call__(self, conn_id: str, ident: str, message: Message) -> None:
        """A message has arrived."""
        data = message.data
        if data.startswith(CALL_PREFIXES):
            if data.startswith(self._calls.early_prefixes):
                self._calls.take(conn_id, ident, message)
            return
        received = ReceivedMessage(ident, message, conn_id, self._durable)
        on_message = self._on_message
        funcs = on_message.funcs
        if not funcs:
            self._inbox.put(received)
            return
        if self._inbox.items:
            while (earlier := self._inbox.take()) is not None:
                self._hand_over_earlier(earlier)
        if self._durable is not None:
            self._durable.call(on_message, received)
        elif len(funcs) > 1:
            on_message.call(received)
        else:
            # As on_message.call(), for less: this is done for each message.
            try:
                funcs[0](received)
            except Exception as exc:
                on_message.failed(funcs[0], (received,), exc)

    def take_data(self, conn_id: str, ident: str, uuid: bytes, data: bytes) -> None:
        """Likewise; of one without TTL and flags."""
        on_message = self._on_message
        funcs = on_message.funcs
        if (
            # One look at its beginning, instead of six, tells it from the messages of calls.
            data[:_LENGTH] == COMMON_PREFIX
            or self._durable is not None
            or len(funcs) > 1
            or (funcs and self._inbox.items)
        ):
            self(conn_id, ident, Message(data, None, 0, uuid))
            return
        # Made without __init__, which takes a message.
        received = _new(ReceivedMessage)
        received.ident = ident
        received.data = data
        received.conn_id = conn_id
        received._uuid = uuid
        received._durable = None
        if not funcs:
            self._inbox.put(received)
            return
        try:
            funcs[0](received)
        except Exception as exc:
            on_message.failed(funcs[0], (received,), exc)

    def _hand_over_earlier(self, received: ReceivedMessage) -> None:
        """It waited for a reader, and now there is a callback."""
        if self._durable is None:
            self._on_message(received)
            return
        try:
            self._durable.call(self._on_message, received)
        except Exception as exc:
            # It stays in the storage.
            self._failed("on_message", self._hand_over_earlier, (), exc)
        else:
            received.done()
