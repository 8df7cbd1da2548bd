"""The link: TCP and TLS connections, timers, and the loop that drives the stack.

A connection is made by a connector, which dials and dials again, or comes in
through a listener. After that there is no difference.
"""

from __future__ import annotations

import errno
import logging
import random
import selectors
import ssl
from collections.abc import Callable
from typing import Any, Final, cast

from snakemq._core.admission import Admission
from snakemq._core.backoff import DEFAULT_CAP
from snakemq._io.busy_poller import BusyPoller
from snakemq._io.capacity import fitting
from snakemq._io.clock import monotonic
from snakemq._io.connector import Connector
from snakemq._io.handshakes import TLS_COUNTERS, Handshakes
from snakemq._io.link_socket import MOST_AT_ONCE, LinkSocket, SocketState, TcpOptions
from snakemq._io.listener import ACCEPT_COUNTERS, Listener
from snakemq._io.loop import POLL_TIMEOUT, Loop
from snakemq._io.tls import SSLConfig, TlsSide
from snakemq._peer_log import PeerLog
from snakemq.callbacks import CallbackSlot
from snakemq.contracts import Buffer, TlsInfo
from snakemq.counters import Counters
from snakemq.exceptions import SendNotFinished
from snakemq.limits import ConnectionLimits

__all__ = ["POLL_TIMEOUT", "Link", "LinkSocket", "SSLConfig", "TcpOptions"]

#: The first delay before connecting again, in seconds.
RECONNECT_INTERVAL: Final = 3.0

#: How much is read from a connection at once, in bytes: by one that has much to
#: say, and by others. To make room for more than 128 KiB most systems are asked for
#: memory and given it back each time, which takes longer than a small message does.
RECV_BLOCK_SIZE: Final = 256 * 1024
SMALL_RECV_SIZE: Final = 120 * 1024

#: How long a closed connection may take to deliver what was sent, in seconds.
LINGER_TIMEOUT: Final = 2.0

_READ: Final = selectors.EVENT_READ
_WRITE: Final = selectors.EVENT_WRITE

# Looking for it in its class takes longer, and is done several times for each pass.
_OPEN: Final = SocketState.OPEN

_DISCARD_BLOCK: Final = 64 * 1024

Address = tuple[str, int]


class Link(Loop):
    """Keeper of connections. See :class:`snakemq.contracts.LinkInterface`.

    Not thread-safe, except for :meth:`wakeup_poll`, :meth:`call_soon` and
    :meth:`stop`. Callbacks come from the thread that runs :meth:`loop`.

    :param tcp_options: options of every TCP connection
    :param limits: how many connections, and how fast; ``None``: the default
    :param verify_tls: connectors check certificates and host names unless their
        ``ssl_config`` says otherwise, and listeners that know authorities ask for
        certificates. 1.6, and so the default, checks what ``ssl_config`` says
        and nothing else.
    """

    #: ``func(conn_id)``
    on_connect = CallbackSlot[[str]]()
    #: ``func(conn_id)``; :meth:`get_socket_by_conn` still works
    on_disconnect = CallbackSlot[[str]]()
    #: ``func(conn_id, data)``
    on_recv = CallbackSlot[[str, bytes]]()
    #: ``func(conn_id, last_send_size)``; the last send is finished
    on_ready_to_send = CallbackSlot[[str, int]]()
    #: ``func()`` after each pass of the loop. As long as somebody listens here
    #: the loop makes a pass each ``poll_timeout`` even if nothing happens.
    on_loop_pass = CallbackSlot[[]]()
    #: ``func(conn_id, exception)``; a callback raised, or TLS failed
    #: (:exc:`snakemq.exceptions.TlsError`). ``conn_id`` may be ``None``.
    on_error = CallbackSlot[[str | None, Exception]]()

    def __init__(
        self,
        *,
        tcp_options: TcpOptions | None = None,
        limits: ConnectionLimits | None = None,
        verify_tls: bool = False,
    ) -> None:
        super().__init__()
        self.log = logging.getLogger("snakemq.link")
        #: the first delay before connecting again, in seconds, of connectors
        #: added from now on
        self.reconnect_interval = RECONNECT_INTERVAL
        #: the longest delay before connecting again, in seconds, likewise
        self.reconnect_interval_max = DEFAULT_CAP
        self.recv_block_size = RECV_BLOCK_SIZE
        self.tcp_options = tcp_options or TcpOptions()
        self.verify_tls = verify_tls
        #: as it was told, with fewer strangers where there is no room for so many
        self.limits = fitting(limits or ConnectionLimits(), self.selector)
        #: how often its limits were reached, and handshakes failed
        self.counters = Counters(*ACCEPT_COUNTERS, *TLS_COUNTERS)
        #: for what others can cause, by their addresses
        self.peer_log = PeerLog(self.log, monotonic)
        #: accepted connections that are not closed yet
        self.admission: Admission[LinkSocket] = Admission(self.limits.accept_rate, monotonic())

        # Looked up once, for the sake of the hot paths.
        self._recv_slot = self.on_recv
        self._ready_slot = self.on_ready_to_send
        self._pass_slot = self.on_loop_pass

        self._sockets: dict[str, LinkSocket] = {}
        self._anonymous: set[LinkSocket] = set()  # in handshake or lingering
        self._handshakes = Handshakes(self)
        self._poller = BusyPoller(self)
        self._listeners: dict[Address, Listener] = {}
        self._connectors: dict[Address, Connector] = {}
        self._last_conn_id = 0
        self.rng = random.Random()

    # Connectors and listeners.

    def add_connector(
        self,
        address: Address,
        reconnect_interval: float | None = None,
        ssl_config: SSLConfig | ssl.SSLContext | None = None,
    ) -> Address:
        """Keep connecting to ``address``. The first attempt is made by the loop.

        A name is looked up at each attempt, in another thread, and all its
        addresses are tried.

        :param address: host and port; a name, an IPv4 or an IPv6 address
        :param reconnect_interval: the first delay before connecting again, in
            seconds; :attr:`reconnect_interval` if not given. Delays grow up to
            :attr:`reconnect_interval_max` and are drawn from the upper half.
        :return: address of the connector (use it for deletion)
        :raises ValueError: there is one for this address already, or the
            address or interval makes no sense
        :raises OSError: a file named in ``ssl_config`` can't be used
        """
        self._check_open()
        address = _checked_address(address)
        if address[1] == 0:
            raise ValueError(f"can't connect to port 0: {address!r}")
        if address in self._connectors:
            raise ValueError(f"connector {address!r} already set")
        interval = reconnect_interval or self.reconnect_interval
        if interval < 0:
            raise ValueError(f"reconnect_interval must be more than 0 seconds, not {interval!r}")
        tls = None
        if ssl_config is not None:
            tls = TlsSide(ssl_config, address[0], verify=self.verify_tls)
        connector = Connector(self, address, interval, tls)
        self._connectors[address] = connector
        self.call_soon(connector.start)
        return address

    def del_connector(self, address: Address) -> None:
        """Delete a connector and close its connection.

        :raises KeyError: no such connector
        """
        connector = self._connectors.pop((address[0], address[1]))
        sock = connector.stop()
        if sock is not None:
            self._close_socket(sock)

    def add_listener(
        self, address: Address, ssl_config: SSLConfig | ssl.SSLContext | None = None
    ) -> Address:
        """Accept connections on ``address``.

        :param address: host and port. ``""`` is every IPv4 address, ``"::"``
            every IPv6 and, where the system can, every IPv4 address. Port 0
            is any free one.
        :return: address of the listener (use it for deletion): with the real port
        :raises ValueError: there is one for this address already, or the
            address makes no sense, or ``ssl_config`` has no certificate
        :raises OSError: the port is in use, or the host is not this one's, or
            a file named in ``ssl_config`` can't be used
        """
        self._check_open()
        address = _checked_address(address)
        tls = None
        if ssl_config is not None:
            tls = TlsSide(ssl_config, verify=self.verify_tls)
        listener = Listener(self, address, tls, taken=self._listeners)
        self._listeners[listener.address] = listener
        self.log.debug("listen on %r", listener.address)
        return listener.address

    def del_listener(self, address: Address) -> None:
        """Delete a listener. Connections that came through it stay.

        :raises KeyError: no such listener
        """
        self._listeners.pop((address[0], address[1])).close()

    @property
    def connectors(self) -> list[Address]:
        """The addresses of the connectors."""
        return list(self._connectors)

    @property
    def listeners(self) -> list[Address]:
        """The addresses of the listeners."""
        return list(self._listeners)

    # Connections.

    def get_socket_by_conn(self, conn_id: str) -> LinkSocket:
        """The socket of a connection.

        :raises KeyError: no such connection
        """
        return self._sockets[conn_id]

    def is_connector(self, conn_id: str) -> bool:
        """Whether this side dialled.

        :raises KeyError: no such connection
        """
        return self._sockets[conn_id].is_connector

    def get_certificate(self, conn_id: str) -> dict[str, Any] | None:
        """The other side's certificate. From any thread.

        :return: as :meth:`ssl.SSLSocket.getpeercert` has it; ``None``: the
            connection has no TLS, or no certificate that was verified, or is
            not there any more
        """
        sock = self._sockets.get(conn_id)
        return sock.certificate if sock is not None else None

    def get_tls(self, conn_id: str) -> TlsInfo | None:
        """What TLS knows of the connection.

        :return: ``None``: it has no TLS
        :raises KeyError: no such connection
        """
        return self._sockets[conn_id].tls_info()

    def get_remote_host(self, conn_id: str) -> str:
        """The address of the other side, without its port.

        :raises KeyError: no such connection
        """
        return str(self._sockets[conn_id].remote_peer[0])

    def send(self, conn_id: str, *data: Buffer) -> None:
        """Send what can be sent of ``data`` now; ``on_ready_to_send`` tells how much.

        Several pieces are sent as one.
        Wait for ``on_ready_to_send`` before the next send, and before
        :meth:`close` if the data matters. The best size is 64 to 256 KiB.

        :raises KeyError: no such connection
        :raises SendNotFinished: the last send is not finished yet
        """
        sock = self._sockets[conn_id]
        if sock.state is not _OPEN:
            raise KeyError(conn_id)
        if not sock.send_finished:
            raise SendNotFinished(
                f"the last send on {conn_id} is not finished, wait for on_ready_to_send"
            )
        try:
            done = sock.send(*data)
        except OSError as exc:
            # Not reported from inside this call: the caller is not prepared.
            self.failed_here(sock, exc)
            return
        if done:
            self._ready.append(sock)
            if sock.interest & _WRITE:
                self._set_interest(sock, sock.interest & ~_WRITE)
        else:
            self._set_interest(sock, sock.interest | _WRITE)
            if self._sleeping:
                # In another thread. Not every selector hears of it while it waits.
                self.wakeup_poll()

    def poll_here(
        self,
        conn_id: str,
        take: Callable[[bytes], bool],
        wanted: Callable[[], bool],
        deadline: float,
    ) -> bool:
        """See :meth:`snakemq.contracts.LinkInterface.poll_here`.

        Not if anybody listens to ``on_recv`` or ``on_ready_to_send`` but the stack
        itself: the callbacks of a program come from the loop's thread.
        """
        sock = self._sockets.get(conn_id)
        if (
            sock is None
            or not self._poller.is_possible
            or self._recv_slot.users
            or self._ready_slot.users
        ):
            return False
        return self.run_here(self._poller.poll, sock, take, wanted, deadline)

    def is_mesh(self) -> bool:
        """Whether there are both connectors and listeners."""
        return bool(self._connectors and self._listeners)

    def unreported(self, conn_id: str) -> int:
        """How much of the last send was taken and not reported yet, in bytes.

        :raises KeyError: no such connection
        """
        sock = self._sockets[conn_id]
        return 0 if sock.send_finished else sock.last_send_size

    def close(self, conn_id: str) -> None:
        """Close the connection; ``on_disconnect`` runs inside this call.

        :raises KeyError: no such connection
        """
        self._close_socket(self._sockets[conn_id])

    def expect(self, conn_id: str, size: int) -> None:
        """The next ``size`` bytes belong together: read them so, and no more.

        :param size: counted from the last ``on_recv``; 0: nothing is known of what comes
        :raises KeyError: no such connection
        """
        self._sockets[conn_id].expect(size)

    def pause_recv(self, conn_id: str) -> None:
        """No ``on_recv`` for this connection until :meth:`resume_recv`.

        :raises KeyError: no such connection
        """
        sock = self._sockets[conn_id]
        sock.paused = True
        self._set_interest(sock, sock.interest & ~_READ)

    def resume_recv(self, conn_id: str) -> None:
        """Undo :meth:`pause_recv`.

        :raises KeyError: no such connection
        """
        sock = self._sockets[conn_id]
        if sock.paused and sock.state is _OPEN:
            sock.paused = False
            self._set_interest(sock, sock.interest | _READ)
            if sock.has_buffered():
                self.call_soon(self._handle_readable, sock)

    def cleanup(self) -> None:
        """Close all sockets and remove all connectors and listeners, for good.

        A second time is harmless.

        :raises RuntimeError: the loop is running
        """
        if self._running:
            raise RuntimeError("the loop is running: stop() it and wait until it has returned")
        if self._closed:
            return
        with self._turn:  # nobody sends in the middle of it
            for address in list(self._connectors):
                self.del_connector(address)
            for address in list(self._listeners):
                self.del_listener(address)
            for sock in list(self._sockets.values()):
                self._close_socket(sock)
            for sock in list(self._anonymous):
                self._finish(sock)
            self._ready.clear()
            self._poller.close()
            self._close_loop()

    # Life of a connection. Connectors and listeners bring connected sockets.

    def watch(self, sock: LinkSocket, interest: int) -> None:
        """For connectors and handshakes: wait for these events of the selector."""
        self._set_interest(sock, interest)

    def adopt(self, sock: LinkSocket, tls: TlsSide | None) -> None:
        """For connectors and listeners: here is a connected socket."""
        self.tcp_options.apply(sock.sock)
        if tls is None:
            self._open(sock)
        else:
            self._anonymous.add(sock)
            self._handshakes.start(sock, tls)

    def opened(self, sock: LinkSocket) -> None:
        """For handshakes: this one is done."""
        self._anonymous.discard(sock)
        self._open(sock)

    def give_up(self, sock: LinkSocket, *, linger: bool) -> float | None:
        """For handshakes and listeners: close a socket that is not open.

        :return: seconds until its connector tries again, if it has one
        """
        if linger:
            self._linger(sock)
        else:
            self._finish(sock)
        return self._tell_connector(sock)

    def _open(self, sock: LinkSocket) -> None:
        self._last_conn_id += 1
        conn_id = f"{self._last_conn_id}fd{sock.fileno()}"
        sock.conn_id = conn_id
        sock.state = _OPEN
        sock.opened_at = monotonic()
        self._set_interest(sock, _READ)
        self._sockets[conn_id] = sock
        self.peer_log.info(
            sock.place,
            "%s %s %r",
            "connect" if sock.is_connector else "accept",
            conn_id,
            sock.remote_peer,
        )
        if sock.has_buffered():
            self.call_soon(self._handle_readable, sock)
        self.on_connect(conn_id)

    def _close_socket(self, sock: LinkSocket) -> float | None:
        if sock.state is not _OPEN:
            if sock.state in (SocketState.CONNECTING, SocketState.HANDSHAKE):
                self._finish(sock)
            return None
        sock.state = SocketState.CLOSING
        conn_id = cast(str, sock.conn_id)
        self.peer_log.info(sock.place, "disconnect %s", conn_id)
        try:
            self.on_disconnect(conn_id)
        finally:  # also when a callback raised KeyboardInterrupt
            del self._sockets[conn_id]
            sock.conn_id = None
            self._linger(sock)
            delay = self._tell_connector(sock)
        return delay

    def _linger(self, sock: LinkSocket) -> None:
        """Close without losing what was sent.

        Closing a socket on which something unread arrives resets the
        connection, and the other side then loses what it has not read yet. So
        say that this is all, and read until the other side says the same.
        """
        if sock.eof or sock.failure is not None:
            self._finish(sock)
            return
        try:
            sock.shutdown_send()
        except OSError:
            self._finish(sock)
            return
        sock.state = SocketState.LINGERING
        self._anonymous.add(sock)
        self.admission.is_leaving(sock)
        self._set_interest(sock, _READ)
        sock.timer = self.call_later(LINGER_TIMEOUT, self._finish, sock)

    def _finish(self, sock: LinkSocket) -> None:
        sock.cancel_timer()
        self._anonymous.discard(sock)
        self._handshakes.forget(sock)
        self._set_interest(sock, 0)
        sock.close()
        self.admission.leave(sock)

    def _tell_connector(self, sock: LinkSocket) -> float | None:
        if sock.owner is None:
            return None
        lived = monotonic() - sock.opened_at if sock.opened_at else 0.0
        return cast("Connector", sock.owner).lost(sock, lived)

    def _report_failure(self, sock: LinkSocket) -> None:
        if sock.state is _OPEN:
            self._broken(sock, cast(OSError, sock.failure))

    def _broken(self, sock: LinkSocket, exc: OSError) -> None:
        if sock.is_tls and not sock.was_heard:
            exc = sock.alert_before(exc)
        sock.failure = exc
        if isinstance(exc, ssl.SSLError) and not isinstance(exc, _TLS_ENDS):
            self._handshakes.report_broken(sock, exc, self._close_socket(sock))
            return
        if exc.errno not in _ORDINARY_ENDS and not isinstance(exc, _TLS_ENDS):
            self.peer_log.error(sock.place, "%s: %s", sock.conn_id, exc)
        else:
            self.log.debug("%s: %s", sock.conn_id, exc)
        self._close_socket(sock)

    # For the busy poller, in a thread that has borrowed the stack.

    def report_here(self, sock: LinkSocket) -> bool:
        """Tell that its last send is finished; false if there is nothing to tell."""
        # If others have finished, too, the loop tells of all of them when it wakes.
        if len(self._ready) != 1 or self._ready[0] is not sock:
            return False
        self._ready.clear()
        self._report_ready(sock)
        return True

    def failed_here(self, sock: LinkSocket, exc: OSError) -> None:
        """It is broken: callbacks are told of that by the loop."""
        sock.failure = exc
        self.call_soon(self._report_failure, sock)

    def give_up_here(self, sock: LinkSocket) -> None:
        """Ctrl-C came in the middle of something: what was lost comes again on the next one."""
        self.call_soon(self._give_up_polled, sock)

    def _give_up_polled(self, sock: LinkSocket) -> None:
        if sock.state is _OPEN:
            key = self.selector.get_map().get(sock)
            sock.interest = 0 if key is None else key.events
            if key is not None:
                self._poller.restore(sock)
            self._close_socket(sock)

    def read(self, sock: LinkSocket) -> None:
        """There is something to read, whatever the selector says. In the loop."""
        self._handle_readable(sock)

    # What the loop calls.

    def _end_pass(self) -> int:
        count = 0
        # Twice: what is sent because of that needs no pass of its own to be told of.
        for _ in range(2):
            finished = len(self._ready)
            count += finished
            for _ in range(finished):
                if not self._ready:
                    break  # a callback has driven the loop, or closed it
                self._report_ready(self._ready.popleft())
        if self._pass_slot.funcs:
            self._pass_slot()
        return count

    def _has_ticks(self) -> bool:
        return bool(self._pass_slot.funcs) and self._pass_slot.has_user_callbacks

    def _set_interest(self, sock: LinkSocket, interest: int) -> None:
        if interest == sock.interest:
            return
        # Selectors refuse to watch for nothing.
        if not interest:
            self.selector.unregister(sock)
        elif sock.interest:
            self.selector.modify(sock, interest, sock)
        else:
            self.selector.register(sock, interest, sock)
        sock.interest = interest

    def _handle_event(self, source: Any, mask: int) -> None:
        if not isinstance(source, LinkSocket):
            source.handle_readable()
            return
        sock = source
        # An earlier event of this pass may have closed it.
        state = sock.state
        if state is _OPEN:
            if mask & _WRITE:
                self._handle_writable(sock)
            # If it is watched no more, a thread that polled has noticed before why it ends.
            if mask & _READ & sock.interest:
                self._handle_readable(sock)
        elif state is SocketState.CONNECTING:
            sock.owner.handle_io(sock)
        elif state is SocketState.HANDSHAKE:
            self._handshakes.step(sock)
        elif state is SocketState.LINGERING and not sock.discard_input(_DISCARD_BLOCK):
            self._finish(sock)

    def _handle_readable(self, sock: LinkSocket) -> None:
        # One read a pass, so that a busy connection does not starve the others; and
        # one more behind what has told how much belongs together.
        for _ in range(2):
            if sock.state is not _OPEN or sock.paused:
                return
            expected = sock.expected and min(sock.expected, MOST_AT_ONCE)
            size = expected or self.recv_block_size
            if not expected and size > SMALL_RECV_SIZE and not sock.reads_much:
                size = SMALL_RECV_SIZE
            try:
                data = sock.recv(size)
            except OSError as exc:
                self._broken(sock, exc)
                return
            if data:
                sock.reads_much = len(data) >= SMALL_RECV_SIZE
                if not sock.was_heard and self._is_mixed_up(sock, data):
                    return
                try:
                    self._recv_slot(sock.conn_id, data)  # type: ignore[arg-type]
                finally:  # also when a callback raised KeyboardInterrupt
                    is_buffered = sock.has_buffered()
                    if is_buffered:
                        self.call_soon(self._handle_readable, sock)
                if is_buffered:
                    return
            elif sock.eof:
                self._close_socket(sock)
            elif sock.has_buffered():
                self.call_soon(self._handle_readable, sock)
            if not expected or len(data) < expected or sock.least > 1:
                return

    def _is_mixed_up(self, sock: LinkSocket, first: bytes) -> bool:
        sock.was_heard = True
        if sock.is_tls:
            return False
        error = self._handshakes.is_mixed_up(sock, first)
        if error is None:
            return False
        self._handshakes.report_mixed_up(sock, error, self._close_socket(sock))
        return True

    def _handle_writable(self, sock: LinkSocket) -> None:
        try:
            done = sock.continue_send()
        except OSError as exc:
            self._broken(sock, exc)
            return
        if done:
            try:
                self._report_ready(sock)
            finally:  # also when a callback raised KeyboardInterrupt
                # Whoever sends much sends on: no need to tell the system twice.
                if sock.send_finished and sock.state is _OPEN:
                    self._set_interest(sock, sock.interest & ~_WRITE)

    def _report_ready(self, sock: LinkSocket) -> None:
        if sock.state is _OPEN:
            sock.send_finished = True
            self._ready_slot(sock.conn_id, sock.last_send_size)  # type: ignore[arg-type]

    def __repr__(self) -> str:
        return (
            f"<Link connections={len(self._sockets)} connectors={len(self._connectors)} "
            f"listeners={len(self._listeners)}>"
        )


#: How connections end every day; not worth more than a line for debugging.
_ORDINARY_ENDS: Final = (
    errno.ECONNRESET,
    errno.EPIPE,
    errno.ECONNABORTED,
    errno.ENOTCONN,
    errno.ESHUTDOWN,
)

#: How ssl says that the connection is gone, about which TLS itself has nothing to say.
_TLS_ENDS: Final = (ssl.SSLEOFError, ssl.SSLZeroReturnError, ssl.SSLSyscallError)


def _checked_address(address: Any) -> Address:
    """The address, if it is one.

    :raises ValueError: it is not
    """
    try:
        host, port = address
    except (TypeError, ValueError):
        raise ValueError(f"an address is a pair of host and port, not {address!r}") from None
    if not isinstance(host, str) or isinstance(port, bool) or not isinstance(port, int):
        raise ValueError(f"an address is a pair of host (str) and port (int), not {address!r}")
    if not 0 <= port <= 65535:
        raise ValueError(f"port must be from 0 to 65535, not {port}")
    return host, port
