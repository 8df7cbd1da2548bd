"""Sorting what is received: whose business is which message."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Final, TypeAlias

from snakemq.message import Message, MessageHandler

if TYPE_CHECKING:
    from snakemq.messaging import Messaging

__all__ = ["NO_SERVICES", "SERVICE_SIZE", "ReceiveHook", "Services", "TakeData"]

_Callback: TypeAlias = Callable[[str, str, Message], object]
_Matches: TypeAlias = "Callable[[bytes], object] | None"

#: So many bytes at the beginning tell the messages of services from one another.
SERVICE_SIZE: Final = 6

#: ``func(conn_id, ident, uuid, data)``
TakeData: TypeAlias = Callable[[str, str, bytes, bytes], object]

#: Services by the beginning of their messages; ``None``: they want objects.
_Table: TypeAlias = "dict[bytes, TakeData | None]"

NO_SERVICES: Final[_Table] = {}

#: Expressions that match themselves and nothing else; most are.
_PLAIN: Final = re.compile(rb"[0-9A-Za-z_]*").fullmatch


class Services:
    """Tells with one look for which service a message is.

    A message of a remote call becomes an object otherwise, and goes through all callbacks
    and expressions: a microsecond for each, on either side.
    """

    def __init__(self) -> None:
        #: those in use
        self.hooks: list[ReceiveHook] = []
        self._funcs: tuple[object, ...] = ()
        self._services = NO_SERVICES
        self._table: _Table = {}

    def among(self, funcs: tuple[Callable[[str, str, Message], object], ...]) -> _Table:
        """Whom to call, by the beginning of a message. Loop thread only.

        :param funcs: the callbacks of received messages. There may be one that wants to
            see those of services, too.
        :return: what takes the message, if nobody else would do anything with it; empty:
            that is not known
        """
        if len(self.hooks) != 1:
            return NO_SERVICES
        hook = self.hooks[0]
        services = hook.services
        if funcs is not self._funcs or services is not self._services:
            others = [func for func in funcs if func != hook.pass_on]
            is_known = len(others) < len(funcs) and all(
                isinstance(func, MessageHandler) for func in others
            )
            self._funcs, self._services = funcs, services
            self._table = dict(services) if is_known else {}
            if hook.services is not services:  # whoever has changed them may have missed that
                return {}
        return self._table

    def changed(self) -> None:
        """The hooks have other services now. Any thread.

        Also for messages that have arrived with the one that is being handled: one server
        may have taken the place of another.
        """
        self._services = NO_SERVICES
        self._table.clear()


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
        #: those of services
        self._services: _Table = {}
        self._is_wired = False

    def register(
        self,
        regexp: bytes,
        callback: _Callback,
        *,
        any_thread: bool = False,
        take: TakeData | None = None,
    ) -> None:
        """Have messages whose data begins with what ``regexp`` matches passed on.

        Every match is called, in the order of registration. Registering an
        expression again replaces its callback.

        :param regexp: as for :func:`re.match`
        :param callback: ``func(conn_id, ident, message)``, from the loop's thread
        :param any_thread: for services: it may also come from a thread that waits for the
            message and has borrowed the stack, while the loop sleeps
        :param take: ``func(conn_id, ident, uuid, data)``; for services, may be called
            instead for a message with TTL 0 and without flags
        """
        hooks, services = dict(self._hooks), dict(self._services)
        matches = None if _PLAIN(regexp) else re.compile(regexp).match
        hooks[regexp] = (matches, regexp, callback)
        if any_thread and matches is None and len(regexp) == SERVICE_SIZE:
            services[regexp] = take
        else:
            services.pop(regexp, None)
        self._replace(hooks, services)
        if not any_thread:
            self.messaging.shortcut.forbid()
        if not self._is_wired:  # as long as nobody registers, no message has to be looked at
            self._is_wired = True
            self.messaging.services.hooks.append(self)
            self.messaging.on_message_recv.wire(self.pass_on)

    def unregister(self, regexp: bytes) -> None:
        """Undo :meth:`register`.

        :raises KeyError: not registered
        """
        hooks, services = dict(self._hooks), dict(self._services)
        del hooks[regexp]
        services.pop(regexp, None)
        self._replace(hooks, services)

    def clear(self) -> None:
        """Unregister all."""
        self._replace({}, {})

    def _replace(
        self, hooks: dict[bytes, tuple[_Matches, bytes, _Callback]], services: _Table
    ) -> None:
        self._hooks, self._services = hooks, services
        self.messaging.services.changed()

    @property
    def services(self) -> _Table:
        """What is registered, if all of it is for services; a new dictionary for each change."""
        services = self._services
        return services if len(services) == len(self._hooks) else NO_SERVICES

    def pass_on(self, conn_id: str, ident: str, message: Message) -> None:
        """Call those who have registered for a message. Called by messaging; for layers."""
        data = message.data
        for matches, prefix, callback in self._hooks.values():
            if data.startswith(prefix) if matches is None else matches(data):
                try:
                    callback(conn_id, ident, message)
                except Exception as exc:
                    self.messaging.callback_failed("ReceiveHook", callback, (conn_id,), exc)
