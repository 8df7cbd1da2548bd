"""Sorting what is received: whose business is which message."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Final, TypeAlias

from snakemq.message import Message

if TYPE_CHECKING:
    from snakemq.messaging import Messaging

__all__ = ["ReceiveHook"]

_Callback: TypeAlias = Callable[[str, str, Message], object]
_Matches: TypeAlias = "Callable[[bytes], object] | None"

#: Expressions that match themselves and nothing else; most are.
_PLAIN: Final = re.compile(rb"[0-9A-Za-z_]*").fullmatch


class ReceiveHook:
    """Sorts received messages by regular expressions.

    It joins the callbacks of ``messaging.on_message_recv``; others stay. (1.6
    replaced them.)

    :param messaging: :class:`Messaging`
    """

    def __init__(self, messaging: Messaging) -> None:
        self.messaging = messaging
        # With what tells which messages are meant: a function, or their beginning.
        self._hooks: dict[bytes, tuple[_Matches, bytes, _Callback]] = {}
        self._is_wired = False

    def register(self, regexp: bytes, callback: _Callback, *, any_thread: bool = False) -> None:
        """Have messages whose data begins with what ``regexp`` matches passed on.

        Every match is called, in the order of registration. Registering an
        expression again replaces its callback.

        :param regexp: as for :func:`re.match`
        :param callback: ``func(conn_id, ident, message)``, from the loop's thread
        :param any_thread: for services: it may also come from a thread that waits for the
            message and has borrowed the stack, while the loop sleeps
        """
        hooks = dict(self._hooks)
        matches = None if _PLAIN(regexp) else re.compile(regexp).match
        hooks[regexp] = (matches, regexp, callback)
        self._hooks = hooks
        if not any_thread:
            self.messaging.shortcut.forbid()
        if not self._is_wired:  # as long as nobody registers, no message has to be looked at
            self._is_wired = True
            self.messaging.shortcut.hooks += 1
            self.messaging.on_message_recv.wire(self.pass_on)

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
        data = message.data
        for matches, prefix, callback in self._hooks.values():
            if data.startswith(prefix) if matches is None else matches(data):
                try:
                    callback(conn_id, ident, message)
                except Exception as exc:
                    self.messaging.callback_failed("ReceiveHook", callback, (conn_id,), exc)
