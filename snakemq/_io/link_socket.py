"""One connection's socket, plain or TLS, never blocking."""

from __future__ import annotations

import contextlib
import enum
import errno
import os
import re
import socket
import ssl
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from snakemq._core.crowd import address_group
from snakemq._io.tls import SSLConfig, TlsSide
from snakemq._io.tls_errors import PROTOCOL_VERSION_ALERT
from snakemq._io.tls_socket import TlsSocket
from snakemq.contracts import Buffer, TlsInfo

if TYPE_CHECKING:
    from snakemq._io.timers import Timer

__all__ = ["MOST_AT_ONCE", "LinkSocket", "SocketState", "TcpOptions"]


@dataclass(frozen=True)
class TcpOptions:
    """Options of every TCP connection of a link.

    A connection whose other side is gone without a word is given up after
    about ``keepalive_idle + keepalive_interval * keepalive_count`` seconds,
    where the system can be told so.
    """

    #: send small packets at once (Nagle's algorithm off)
    nodelay: bool = True
    #: let the system probe connections that are silent
    keepalive: bool = True
    #: seconds of silence before the first probe
    keepalive_idle: int = 60
    #: seconds between probes
    keepalive_interval: int = 10
    #: unanswered probes after which the connection is dead
    keepalive_count: int = 6

    def apply(self, sock: socket.socket) -> None:
        """Set the options as far as the system has them."""
        if sock.family not in (socket.AF_INET, socket.AF_INET6):
            return
        _set_option(sock, socket.IPPROTO_TCP, "TCP_NODELAY", int(self.nodelay))
        _set_option(sock, socket.SOL_SOCKET, "SO_KEEPALIVE", int(self.keepalive))
        if not self.keepalive:
            return
        # macOS calls the idle time TCP_KEEPALIVE.
        idle = "TCP_KEEPALIVE" if sys.platform == "darwin" else "TCP_KEEPIDLE"
        _set_option(sock, socket.IPPROTO_TCP, idle, self.keepalive_idle)
        _set_option(sock, socket.IPPROTO_TCP, "TCP_KEEPINTVL", self.keepalive_interval)
        _set_option(sock, socket.IPPROTO_TCP, "TCP_KEEPCNT", self.keepalive_count)
        # Probes are not sent while data waits for its acknowledgement; without
        # this Linux goes on for a quarter of an hour.
        dead_after = self.keepalive_idle + self.keepalive_interval * self.keepalive_count
        _set_option(sock, socket.IPPROTO_TCP, "TCP_USER_TIMEOUT", dead_after * 1000)


def _set_option(sock: socket.socket, level: int, name: str, value: int) -> None:
    option = getattr(socket, name, None)
    if option is not None:
        # An option that is refused, or a connection that has just died, is no
        # reason not to use the socket: reading will tell.
        with contextlib.suppress(OSError):
            sock.setsockopt(level, option, value)


#: How it is looked whether TLS has said why it ended: so often, so many bytes.
_READS_FOR_ALERT: Final = 16
_ALERT_BLOCK: Final = 64 * 1024


#: What belongs together is read at once up to this size, in bytes.
MOST_AT_ONCE: Final = 1024 * 1024

#: From this size on, in bytes, the loop sleeps until all of it is there. A mebibyte from
#: another process of the machine came in six pieces, with a pass of the loop each, which
#: then had to be joined; and the sender spent a fifth of its time on waking it.
_WORTH_WAITING: Final = 64 * 1024


def _waits_for_all() -> bool:
    """Whether this system wakes nobody for less than a socket says (SO_RCVLOWAT)."""
    if sys.platform != "linux":
        return False
    # Before 4.18 the buffer may be too small for it for ever, and up to 5.11 where memory
    # is short.
    release = re.match(r"(\d+)\.(\d+)", os.uname().release)
    return release is not None and (int(release[1]), int(release[2])) >= (5, 12)


_WAITS_FOR_ALL: Final = _waits_for_all()


class SocketState(enum.Enum):
    """The life of a :class:`LinkSocket`; it only goes forward."""

    CONNECTING = enum.auto()
    HANDSHAKE = enum.auto()
    OPEN = enum.auto()
    #: ``on_disconnect`` is running
    CLOSING = enum.auto()
    #: closed for the user; what was sent is still on its way
    LINGERING = enum.auto()
    CLOSED = enum.auto()


class LinkSocket:
    """A connection of a :class:`snakemq.link.Link`.

    :param sock: a socket; a new IPv4 one if not given
    :param ssl_config: the TLS settings, or ``None`` for a plain connection
    :param remote_peer: the address of the other side
    """

    __slots__ = (
        "__weakref__",
        "_taken",
        "_tls",
        "certificate",
        "conn_id",
        "eof",
        "expected",
        "failure",
        "interest",
        "is_connector",
        "least",
        "opened_at",
        "owner",
        "paused",
        "reads_much",
        "remote_peer",
        "send_finished",
        "sock",
        "ssl_config",
        "state",
        "timer",
        "unread",
        "was_heard",
    )

    def __init__(
        self,
        sock: socket.socket | None = None,
        ssl_config: SSLConfig | None = None,
        remote_peer: Any = None,
    ) -> None:
        if sock is None:
            sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        sock.setblocking(False)
        self.sock = sock
        self.ssl_config = ssl_config
        #: address of the other side
        self.remote_peer = remote_peer
        #: whether this side dialled
        self.is_connector = False
        #: the link's name of the connection, ``None`` before and after it is open
        self.conn_id: str | None = None
        #: the other side's, if TLS has verified it; read once, because a socket
        #: can't be asked by one thread while another one closes it
        self.certificate: dict[str, Any] | None = None

        # All below is the link's.
        self.state = SocketState.CONNECTING
        self.owner: Any = None  # its connector
        self.timer: Timer | None = None  # ends connecting, handshake or lingering
        self.interest = 0  # selector events it is registered for
        self.paused = False
        self.expected = 0  # bytes that belong together come next; 0: that is not known
        self.least = 1  # bytes that have to be there before the selector tells of any
        self.reads_much = False  # the last read was a large one
        self.opened_at = 0.0
        self.was_heard = False  # whether anything came over the open connection
        self.send_finished = True
        self.eof = False
        self.failure: OSError | None = None  # broke in send; reported soon
        self.unread = b""  # what was read and given back: comes first with the next recv
        self._taken = 0  # of the last send, without TLS
        self._tls: TlsSocket | None = None

    @property
    def place(self) -> str:
        """What of the other side's address counts as one place, see :func:`address_group`."""
        return address_group(str(self.remote_peer[0]))

    def fileno(self) -> int:
        """Descriptor of the socket, -1 after it was closed."""
        return self.sock.fileno()

    def getpeercert(self, binary_form: bool = False) -> Any:
        """The other side's certificate.

        :return: see :meth:`ssl.SSLSocket.getpeercert`; ``None`` without TLS or
            without a certificate
        """
        if self._tls is not None and self.state is not SocketState.CLOSED:
            # Before the handshake is done there is none.
            with contextlib.suppress(ValueError, OSError):
                return self._tls.object.getpeercert(binary_form)
        return None

    def tls_info(self) -> TlsInfo | None:
        """What TLS knows of the connection; ``None`` without TLS. Once the handshake is done."""
        if self._tls is None:
            return None
        known = self._tls.object
        cipher = known.cipher()
        return TlsInfo(
            self.certificate,
            self.getpeercert(binary_form=True),
            known.get_channel_binding("tls-unique") or b"",
            known.version() or "",
            cipher[0] if cipher else "",
            known.selected_alpn_protocol(),
        )

    @property
    def is_tls(self) -> bool:
        """Whether it speaks TLS, or is about to."""
        return self._tls is not None

    def start_tls(self, side: TlsSide) -> None:
        """Speak TLS on the connected socket. The handshake is :meth:`do_handshake`'s."""
        self._tls = side.wrap(self.sock, server_side=not self.is_connector)

    def peek(self, size: int) -> bytes:
        """What is there to read below TLS; it stays there.

        :return: empty at the end of the stream
        :raises BlockingIOError: nothing
        :raises OSError: the connection is broken
        """
        return self.sock.recv(size, socket.MSG_PEEK)

    def refuse_plain(self) -> None:
        """Tell somebody who does not speak TLS, in TLS, that this side does."""
        with contextlib.suppress(OSError):
            self.sock.send(PROTOCOL_VERSION_ALERT)

    def has_cipher(self) -> bool:
        """Whether both sides have agreed on one."""
        return self._tls is not None and self._tls.object.cipher() is not None

    def cancel_timer(self) -> None:
        """Whatever it was for is over. Harmless if there is none."""
        if self.timer is not None:
            self.timer.cancel()
            self.timer = None

    def do_handshake(self) -> None:
        """A step of the handshake.

        :raises ssl.SSLWantReadError: when there is more to read, again
        :raises ssl.SSLWantWriteError: when there is room to write, again
        :raises OSError: failed
        """
        assert self._tls is not None
        self._tls.do_handshake()
        self.certificate = self.getpeercert() or None

    def expect(self, size: int) -> None:
        """The next ``size`` bytes belong together; 0: nothing is known of what comes.

        There may be no event until all of them are there, if that can be read at once.
        """
        self.expected = size
        if _WAITS_FOR_ALL and self._tls is None:
            least = size if _WORTH_WAITING <= size <= MOST_AT_ONCE else 1
            if least != self.least:
                self.least = least
                # A socket that is broken says so to whoever reads.
                with contextlib.suppress(OSError):
                    self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, least)

    def recv(self, size: int) -> bytes:
        """Read what is there, at most about ``size`` bytes.

        :return: empty at the end of the stream (:attr:`eof` is set) and when
            there is nothing to read now
        :raises OSError: the connection is broken
        """
        if self.unread:
            data, self.unread = self.unread, b""
            return data
        if self._tls is not None:
            data = self._tls.recv(size)
            self.eof = self._tls.eof
            return data
        try:
            data = self.sock.recv(size)
        except (BlockingIOError, InterruptedError):
            return b""
        if not data:
            self.eof = True
        return data

    def alert_before(self, exc: OSError) -> OSError:
        """Why the other side ended TLS, if it said so before this side noticed its end.

        :param exc: how it was noticed
        :return: the alert, as ssl raises it; else ``exc``
        """
        if self._tls is not None and not isinstance(exc, ssl.SSLError):
            try:
                # What is not for the program may come before it.
                for _ in range(_READS_FOR_ALERT):
                    if self._tls.eof:
                        break
                    self._tls.recv(_ALERT_BLOCK)
            except ssl.SSLError as alert:
                return alert
            except OSError:
                pass
        return exc

    def has_buffered(self) -> bool:
        """Whether there is something to read that no selector knows of."""
        return bool(self.unread) or (self._tls is not None and self._tls.has_buffered())

    def send(self, *data: Buffer) -> bool:
        """Hand over what the system takes; :attr:`last_send_size` tells how much.

        :param data: in pieces
        :return: whether all was taken. If not, :meth:`continue_send` when there
            is room.
        :raises OSError: the connection is broken
        """
        self.send_finished = False
        if self._tls is not None:
            return self._tls.send(*data)
        self._taken = 0
        try:
            if len(data) == 1:
                self._taken = self.sock.send(data[0])
                return self._taken == len(data[0])
            if sys.platform != "win32":  # which sends one piece at a time
                self._taken = self.sock.sendmsg(data)
                return self._taken == sum(map(len, data))
            return self._send_each(data)
        except (BlockingIOError, InterruptedError):
            return False

    def _send_each(self, data: Sequence[Buffer]) -> bool:
        for piece in data:
            count = self.sock.send(piece)
            self._taken += count
            if count < len(piece):
                return False
        return True

    @property
    def last_send_size(self) -> int:
        """How much of the last send is with the system, in bytes."""
        # TLS sends also while it reads, if it has something to say.
        return self._taken if self._tls is None else self._tls.taken

    def continue_send(self) -> bool:
        """There is room again.

        :return: whether the send is over: :attr:`last_send_size` is final
        :raises OSError: the connection is broken
        """
        return self._tls is None or self._tls.continue_send()

    def connect_error(self) -> int:
        """The result of a connect that was in progress, as an ``errno``; 0: connected."""
        error = self.sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if error:
            return error
        try:
            # Dialling a free local port may by chance get that very port for
            # this side; TCP then connects the socket with itself.
            if self.sock.getsockname() == self.sock.getpeername():
                return errno.ECONNREFUSED
        except OSError as exc:
            return exc.errno or errno.ENOTCONN
        return 0

    def shutdown_send(self) -> None:
        """Tell the other side that nothing more will come.

        :raises OSError: the connection is broken
        """
        # Also of TLS: its own farewell would need the answer of the other side first.
        self.sock.shutdown(socket.SHUT_WR)

    def discard_input(self, size: int) -> bool:
        """Read and throw away at most ``size`` bytes.

        :return: whether there may be more later
        """
        try:
            return bool(self.sock.recv(size))
        except (BlockingIOError, InterruptedError):
            return True
        except OSError:
            return False

    def close(self) -> None:
        """Close the socket at once."""
        self.state = SocketState.CLOSED
        with contextlib.suppress(OSError):
            self.sock.close()

    def __repr__(self) -> str:
        return (
            f"<LinkSocket conn_id={self.conn_id!r} state={self.state.name} "
            f"remote_peer={self.remote_peer!r} fileno={self.fileno()}>"
        )
