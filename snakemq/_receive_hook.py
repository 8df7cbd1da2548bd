"""Sorting what is received: whose business is which message."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import TYPE_CHECKING

from snakemq.message import Message

if TYPE_CHECKING:
    from snakemq.messaging import Messaging

__all__ = ["ReceiveHook"]


class ReceiveHook:
    """Sorts received messages by regular expressions.

    It joins the callbacks of ``messaging.on_message_recv``; others stay. (1.6
    replaced them.)

    :param messaging: :class:`Messaging`
    """

    def __init__(self, messaging: Messaging) -> None:
        self.messaging = messaging
        self._hooks: dict[
            bytes, tuple[re.Pattern[bytes], Callable[[str, str, Message], object]]
        ] = {}
        messaging.on_message_recv.wire(self.pass_on)

    def register(self, regexp: bytes, callback: Callable[[str, str, Message], object]) -> None:
        """Have messages whose data begins with what ``regexp`` matches passed on.

        Every match is called, in the order of registration. Registering an
        expression again replaces its callback.

        :param regexp: as for :func:`re.match`
        :param callback: ``func(conn_id, ident, message)``, from the loop's thread
        """
        hooks = dict(self._hooks)
        hooks[regexp] = (re.compile(regexp), callback)
        self._hooks = hooks

    def unregister(self, regexp: bytes) -> None:
        """Undo :meth:`register`.

        :raises KeyError: not registered
        """
        hooks = dict(self._hooks)
        del hooks[regexp]
        self._hooks = hooks

    def clear(self) -> None:
        """Unregister all."""
        self._hooks = {}

    def pass_on(self, conn_id: str, ident: str, message: Message) -> None:
        """Call those who have registered for a message. Called by messaging; for layers."""
        for regexp, callback in self._hooks.values():
            if regexp.match(message.data):
                try:
                    callback(conn_id, ident, message)
                except Exception as exc:
                    self.messaging.callback_failed("ReceiveHook", callback, (conn_id,), exc)
