"""The calls and streams of a client that have not ended, and the peers that owe them."""

from __future__ import annotations

import logging
import threading
from typing import TYPE_CHECKING

from snakemq.message import fleeting
from snakemq.rpc._outgoing_call import OutgoingCall, Pending, not_connected
from snakemq.rpc._pause import Pause
from snakemq.rpc.errors import ClientClosed

if TYPE_CHECKING:
    from snakemq.messaging import Messaging
    from snakemq.rpc._parts import PartSender

__all__ = ["Outstanding", "Remote"]


class Remote:
    """A peer that is connected or owes something."""

    __slots__ = ("conn_id", "connected", "had_company", "pending")

    def __init__(self) -> None:
        self.connected = False
        #: ``None`` while it is not known
        self.conn_id: str | None = None
        #: calls without a reply yet, and streams, by ``req_id``
        self.pending: dict[bytes, Pending] = {}
        #: whether others were pending when the last call was begun
        self.had_company = False


class Outstanding:
    """Sends what was begun, and again after a reconnect, until it has ended.

    Whoever takes something out ends it. Thread-safe.

    :param messaging: knows who is connected
    :param sender: sends requests
    """

    def __init__(self, messaging: Messaging, sender: PartSender, log: logging.Logger) -> None:
        self._messaging = messaging
        self._sender = sender
        self._log = log
        # Reentrant: a finalizer may make a call, and it may run anywhere.
        self.lock = threading.RLock()
        self.remotes: dict[str, Remote] = {}
        self.closed = False
        #: until those who have their answers have made the next calls
        self.pause = Pause(messaging, lambda ident: -self.count(ident), self.count)

    def begin(self, ident: str, call: OutgoingCall) -> bool:
        """Send it, now or when the peer is connected.

        :return: whether it was sent, and is the only one for which that peer owes anything,
            as was the one before
        :raises NotConnected: it does not wait for that
        :raises ClientClosed: the client was closed
        :raises Exception: it can't be sent
        """
        held = is_alone = False
        message = fleeting(call.payload)
        with self.lock:
            if self.closed:
                raise ClientClosed("the client was closed")
            remote = self.remotes.get(ident)
            if remote is None or not remote.connected:
                # Messaging may know of it already, and tell this client soon.
                if not call.wait_for_peer and not self._messaging.is_connected(ident):
                    raise not_connected(ident, 0)
                if remote is None:
                    remote = self.remotes[ident] = Remote()
            remote.pending[call.req_id] = call
            if remote.connected:
                # Under the lock: on_connect, if it comes now, must find it
                # either not sent or sent on the old connection. It travels
                # with TTL 0, as in 1.6: what is not delivered now is repeated
                # by connected(), and would else arrive twice.
                has_company = len(remote.pending) > 1
                # Twice in a row: of many threads that were woken together the first is
                # alone, too, and the others would wait for the lock during its system call.
                is_alone = not has_company and not remote.had_company
                remote.had_company = has_company
                if len(call.payload) > self._sender.part_size:
                    self._sender.send(ident, call.payload, key=call.req_id)
                elif not (is_alone and self._messaging.shortcut.send(ident, message)):
                    held = self._messaging.send_message(ident, message, hold=True)
                call.sent += 1
        # Not under the lock: it may be a system call, and others want to call, too.
        if held:
            self._messaging.release(ident)
        if self.pause.is_on:
            self.pause.look(ident, -len(remote.pending))
        return is_alone

    def end(self, ident: str, req_id: bytes) -> Pending | None:
        """Take out what has this identifier; ``None``: nobody waits for that."""
        remote = self.remotes.get(ident)
        # One step, so that of two threads one gets it.
        return remote.pending.pop(req_id, None) if remote is not None else None

    def find(self, ident: str, req_id: bytes) -> Pending | None:
        """What has this identifier. It stays."""
        remote = self.remotes.get(ident)
        return remote.pending.get(req_id) if remote is not None else None

    def replace(self, ident: str, old: Pending, new: Pending) -> bool:
        """Put one in the place of another, if that is still there."""
        with self.lock:
            remote = self.remotes.get(ident)
            if remote is None or remote.pending.get(old.req_id) is not old:
                return False
            remote.pending[old.req_id] = new
            return True

    def give_up(self, ident: str, pending: Pending, cancel: bytes | None = None) -> Remote | None:
        """Take out what nobody waits for any more.

        :param cancel: what to tell the peer, if it is connected and was sent anything
        :return: ``None``: too late, it has ended
        """
        with self.lock:
            remote = self.remotes.get(ident)
            if remote is None or remote.pending.get(pending.req_id) is not pending:
                return None
            # Another thread may have got it by end() meanwhile.
            if remote.pending.pop(pending.req_id, None) is None:
                return None
            if pending.sent and remote.connected:
                self._withdraw(ident, pending.req_id, cancel)
            self._tidy(ident, remote)
            return remote

    def tell(self, ident: str, data: bytes) -> None:
        """Send something about a call, if the peer is connected.

        :raises Exception: it can't be sent
        """
        with self.lock:
            remote = self.remotes.get(ident)
            if remote is not None and remote.connected:
                self._sender.send(ident, data)

    def mentioned(self, ident: str, data: bytes) -> list[bytes]:
        """The identifiers that are in ``data``, of those that this peer owes something."""
        remote = self.remotes.get(ident)
        return [req_id for req_id in list(remote.pending) if req_id in data] if remote else []

    def count(self, ident: str | None = None) -> int:
        """How many there are, of one peer or all."""
        if ident is not None:
            remote = self.remotes.get(ident)
            return len(remote.pending) if remote is not None else 0
        return sum(len(remote.pending) for remote in list(self.remotes.values()))

    def count_connected(self) -> int:
        """How many peers are connected, as far as that is known here."""
        return sum(remote.connected for remote in list(self.remotes.values()))

    def close(self) -> list[tuple[str, Pending]] | None:
        """Take out all. ``None``: it was closed before."""
        with self.lock:
            if self.closed:
                return None
            self.closed = True
            remotes = dict(self.remotes)
            self.remotes.clear()
        taken = []
        for ident, remote in remotes.items():
            while remote.pending:
                taken.append((ident, remote.pending.popitem()[1]))
        return taken

    # In the thread of the loop.

    def look_around(self) -> None:
        """Who is connected already does not connect again."""
        for ident in self._messaging.connected_peers():
            self.connected(ident, None)

    def connected(self, ident: str, conn_id: str | None) -> None:
        """A peer is connected: send it what waits for it.

        :param conn_id: ``None``: it is not known
        """
        failed = []
        with self.lock:
            if self.closed:
                return
            remote = self.remotes.get(ident)
            if remote is None:
                remote = self.remotes[ident] = Remote()
            if conn_id is None and remote.connected:
                return
            remote.connected = True
            remote.conn_id = conn_id
            for pending in list(remote.pending.values()):
                try:
                    self._sender.send(ident, pending.message(), key=pending.req_id)
                    pending.sent += 1
                except Exception as exc:
                    self._log.exception("ident=%r can't repeat a request", ident)
                    if remote.pending.pop(pending.req_id, None) is not None:
                        failed.append((pending, exc))
        for pending, error in failed:
            pending.end(None, error)

    def disconnected(self, conn_id: str, ident: str) -> None:
        """A peer is gone."""
        with self.lock:
            remote = self.remotes.get(ident)
            # A newer connection may have taken the place of this one.
            if remote is None or remote.conn_id not in (None, conn_id):
                return
            remote.connected = False
            remote.conn_id = None
            impatient = [
                pending for pending in remote.pending.values() if not pending.wait_for_peer
            ]
            for pending in impatient:
                del remote.pending[pending.req_id]
            self._tidy(ident, remote)
        for pending in impatient:
            pending.end(None, not_connected(ident, pending.sent))

    def _tidy(self, ident: str, remote: Remote) -> None:
        if not remote.connected and not remote.pending:
            self.remotes.pop(ident, None)

    def _withdraw(self, ident: str, req_id: bytes, cancel: bytes | None) -> None:
        self._sender.cancel(ident, req_id)
        if cancel is None:
            return
        try:
            self._sender.send(ident, cancel)
        except Exception as exc:
            # It only spares the other side some work.
            self._log.debug("ident=%r can't be told about a call: %r", ident, exc)
