"""Two ways to build a peer, alike for the workers.

The layers are used as snakeMQ 1.6's manual shows it and no other way, so that
one runs under 1.6 as well as under this package.
"""

from __future__ import annotations

import contextlib
import sqlite3
import threading
from collections.abc import Callable
from typing import Any

from records import ANSWERS

__all__ = ["make_stack"]

LOCALHOST = "127.0.0.1"

#: How long to wait until the next attempt to dial, in seconds.
RECONNECT_INTERVAL = 0.02

#: Called with identifier, data, and whether the stack marked it as redelivered;
#: returns the number of the message.
Receive = Callable[[bytes, bytes, bool], int]

#: Does what there is to do and returns whether there is more: at once, later, or
#: never again.
Turn = Callable[[], "bool | None"]

#: How long nothing may happen until there is a turn all the same, in seconds.
PATIENCE = 0.02


def make_stack(
    options: dict[str, Any], changed: threading.Event, receive: Receive | None = None
) -> PeerStack | LayersStack:
    """Build what the options ask for.

    :param options: ``api`` (peer or layers), ``ident``; optional ``connect``
        (port), ``listen``, ``storage`` (path), ``keywords`` (more arguments of
        ``Peer`` or ``Messaging``), ``takeover_wait``; of a ``Peer``,
        ``receiving``: ``callback``, ``messages`` or ``transaction`` (in the
        callback; what comes is also written to a table ``effects`` with it, and
        answered)
    :param changed: is set when there is something to do, from any thread
    :param receive: is called in the loop's thread with each message that comes
    """
    kinds = {"peer": PeerStack, "layers": LayersStack}
    return kinds[options["api"]](options, changed, receive)


class PeerStack:
    """``snakemq.Peer``, whose loop runs in a thread of its own."""

    def __init__(
        self, options: dict[str, Any], changed: threading.Event, receive: Receive | None
    ) -> None:
        from snakemq import Peer

        self._changed = changed
        self._receive = receive
        self._storage = options.get("storage")
        self._receiving = options.get("receiving", "callback")
        self.peer = peer = Peer(
            options["ident"],
            listen=0 if options.get("listen") else None,
            reconnect_interval=RECONNECT_INTERVAL,
            storage=self._storage,
            **options.get("keywords", {}),
        )
        if self._receiving == "transaction":
            with contextlib.closing(self.connect_storage()) as connection:
                connection.execute("CREATE TABLE IF NOT EXISTS effects (number INTEGER)")
        callbacks = {"callback": self._on_message, "transaction": self._on_message_once}
        if receive is not None and self._receiving in callbacks:
            peer.on_message.add(callbacks[self._receiving])
        peer.on_message_sent.add(lambda ident, uuid: changed.set())
        peer.messaging.on_messages_acked.add(lambda conn_id, ident, messages: changed.set())
        if options.get("takeover_wait"):
            peer.messaging.takeover_wait = options["takeover_wait"]
        # Connections that are cut at once are no reason here to dial less often.
        peer.link.reconnect_interval_max = RECONNECT_INTERVAL
        if options.get("connect"):
            peer.add_connector(options["connect"])

    @property
    def port(self) -> int | None:
        return self.peer.addresses[0][1] if self.peer.addresses else None

    def connect_storage(self) -> sqlite3.Connection:
        """A connection of the application to the file of the storage."""
        assert self._storage is not None
        return sqlite3.connect(self._storage, timeout=20, isolation_level=None)

    def send(self, ident: str, data: bytes, uuid: bytes, persistent: bool) -> None:
        self.peer.send(ident, data, uuid=uuid, persistent=persistent)

    def queued(self, ident: str) -> int:
        return self.peer.queued(ident)

    def _on_message(self, received: Any) -> None:
        assert self._receive is not None
        self._receive(received.uuid, received.data, received.redelivered)

    def _on_message_once(self, received: Any) -> None:
        assert self._receive is not None
        with received.transaction() as transaction:
            number = self._receive(received.uuid, received.data, received.redelivered)
            transaction.db.execute("INSERT INTO effects VALUES (?)", (number,))
            transaction.send(received.ident, ANSWERS.data(number), uuid=ANSWERS.uuid(number))

    def run(self, turn: Turn) -> None:
        """Call ``turn`` until it returns ``None``: again at once if it returns true."""
        with self.peer:
            if self._receiving == "messages":
                reader = threading.Thread(target=self._read)
                reader.start()
            while (more := turn()) is not None:
                if not more:
                    self._changed.wait(PATIENCE)
                    self._changed.clear()
        if self._receiving == "messages":
            reader.join()

    def _read(self) -> None:
        for received in self.peer.messages():
            self._on_message(received)


class LayersStack:
    """Link, Packeter and Messaging; everything happens in the thread of the loop."""

    def __init__(
        self, options: dict[str, Any], changed: threading.Event, receive: Receive | None
    ) -> None:
        import snakemq.link
        import snakemq.messaging
        import snakemq.packeter

        storage = None
        if options.get("storage"):
            from snakemq.storage.sqlite import SqliteQueuesStorage

            storage = SqliteQueuesStorage(options["storage"])
        self.link = snakemq.link.Link()
        packeter = snakemq.packeter.Packeter(self.link)
        self.messaging = snakemq.messaging.Messaging(
            options["ident"], "", packeter, storage, **options.get("keywords", {})
        )
        if receive is not None:

            def on_message(conn_id: str, ident: str, message: Any) -> None:
                receive(message.uuid, message.data, getattr(message, "redelivered", False))

            self.messaging.on_message_recv.add(on_message)
        if options.get("takeover_wait") and hasattr(self.messaging, "takeover_wait"):
            self.messaging.takeover_wait = options["takeover_wait"]
        self.port: int | None = None
        if options.get("listen"):
            self.port = self.link.add_listener((LOCALHOST, 0))[1]
        if options.get("connect"):
            self.link.reconnect_interval_max = RECONNECT_INTERVAL
            self.link.add_connector((LOCALHOST, options["connect"]), RECONNECT_INTERVAL)

    def send(self, ident: str, data: bytes, uuid: bytes, persistent: bool) -> None:
        from snakemq.message import FLAG_PERSISTENT, Message

        flags = FLAG_PERSISTENT if persistent else 0
        self.messaging.send_message(ident, Message(data, ttl=None, flags=flags, uuid=uuid))

    def queued(self, ident: str) -> int:
        return len(self.messaging.queues_manager.get_queue(ident))

    def run(self, turn: Turn) -> None:
        """Call ``turn`` after each pass of the loop until it returns ``None``."""

        def after_pass() -> None:
            if turn() is None:
                self.link.stop()

        self.link.on_loop_pass.add(after_pass)
        self.link.loop(poll_timeout=0.005)
        # Messaging of this package has a close(), 1.6's has not.
        getattr(self.messaging, "close", lambda: None)()
        self.link.cleanup()
