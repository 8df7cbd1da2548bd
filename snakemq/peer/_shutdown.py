"""How a peer takes its leave: drain, hang up, end the loop."""

from __future__ import annotations

import threading
from typing import Final

from snakemq.contracts import LinkInterface
from snakemq.link import Link, LinkSocket
from snakemq.messaging import Messaging
from snakemq.packeter import Packeter
from snakemq.peer._calls import Calls

__all__ = ["Shutdown"]

#: How often to look whether what was sent is gone, in seconds.
_LOOK_INTERVAL: Final = 0.01

#: How long to wait for calls before looking whether there is still reason to,
#: in seconds.
_CALLS_WAIT: Final = 0.1


class Shutdown:
    """Ends the loop of a stack without losing what can be delivered.

    Draining: take no more calls, let those that were taken come to their end and
    their answers be acknowledged; then wait until the peers that are connected
    have acknowledged everything, and what this side owes them, which is
    acknowledgements above all, is with the system.
    Hanging up: close the connections, and wait until what was sent on them has
    arrived, because a process that simply ends may take it along. Then the
    loop is stopped; latest after the time that :meth:`begin` was given.

    Loop thread only, except for :meth:`join`.

    :param lowest: the link, or the throttle in front of it
    """

    def __init__(
        self,
        link: Link,
        lowest: LinkInterface,
        packeter: Packeter,
        messaging: Messaging,
        calls: Calls,
    ) -> None:
        self._link = link
        self._lowest = lowest
        self._packeter = packeter
        self._messaging = messaging
        self._calls = calls
        #: waits for the calls, which run in threads
        self._waiter: threading.Thread | None = None
        self._conn_ids: set[str] = set()
        self._over = False
        self._begun = False
        self._draining = False
        #: what each connection has sent when it has sent all that is owed, in bytes
        self._owed: dict[str, int] = {}
        self._closing: list[LinkSocket] = []
        lowest.on_connect.wire(self._conn_ids.add)
        lowest.on_disconnect.wire(self._conn_ids.discard)

    def begin(self, seconds: float) -> None:
        """Begin to drain. If that was done already, the earlier end counts.

        :param seconds: how long all of it may take; 0: no draining, no waiting
        """
        if seconds <= 0:
            self._link.stop()
            return
        self._link.call_later(seconds, self._link.stop)
        if self._begun:
            return
        self._begun = True
        if self._calls.serving:
            self._waiter = threading.Thread(
                target=self._finish_calls, args=(seconds,), name="snakemq shutdown", daemon=True
            )
            self._waiter.start()
        else:
            self._drain()

    def _finish_calls(self, seconds: float) -> None:
        end = self._link.time() + seconds
        # In short waits, because somebody in a hurry may end the loop before.
        while not self._over and self._link.time() < end:
            if self._calls.drain(min(_CALLS_WAIT, max(0.0, end - self._link.time()))):
                break
        if not self._over:
            self._calls.finish()
        self._link.call_soon(self._drain)

    def _drain(self) -> None:
        self._draining = True
        self.check()

    def join(self) -> None:
        """The loop has ended: leave no thread behind."""
        self._over = True
        if self._waiter is not None:
            self._waiter.join()

    def check(self, ident: str | None = None) -> None:
        """Fewer messages are queued, or fewer peers are connected.

        :param ident: whose messages, if that is known
        """
        # The peer that something happened to is looked at first, so that a
        # long queue does not cost a look at all peers for each of its messages.
        if not self._draining or (ident is not None and self._waits_for(ident)):
            return
        if not any(map(self._waits_for, self._messaging.connected_peers())):
            self._draining = False
            # Soon, not now: this may be a callback about one of the
            # connections that are to be closed.
            self._link.call_soon(self._pay)

    def _waits_for(self, ident: str) -> bool:
        return self._messaging.is_connected(ident) and self._messaging.queued_messages(ident) > 0

    def _pay(self) -> None:
        self._messaging.acknowledge()
        packeter = self._packeter
        self._owed = {
            conn_id: packeter.sent_bytes(conn_id) + packeter.unsent_bytes(conn_id)
            for conn_id in self._conn_ids
        }
        self._look_for_debts()

    def _look_for_debts(self) -> None:
        if any(
            conn_id in self._conn_ids and self._packeter.sent_bytes(conn_id) < owed
            for conn_id, owed in self._owed.items()
        ):
            self._link.call_later(_LOOK_INTERVAL, self._look_for_debts)
        else:
            self._hang_up()

    def _hang_up(self) -> None:
        link = self._link
        for address in link.listeners:
            link.del_listener(address)
        self._closing = [link.get_socket_by_conn(conn_id) for conn_id in self._conn_ids]
        for conn_id in list(self._conn_ids):
            self._lowest.close(conn_id)
        for address in link.connectors:
            link.del_connector(address)
        self._look()

    def _look(self) -> None:
        self._closing = [sock for sock in self._closing if sock.fileno() >= 0]
        if self._closing:
            self._link.call_later(_LOOK_INTERVAL, self._look)
        else:
            self._link.stop()
