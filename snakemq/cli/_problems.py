"""Why somebody is not connected, as far as the stack has said it."""

from __future__ import annotations

from snakemq._peer_log import quoted
from snakemq.exceptions import AuthenticationError, RefusedByPeer, TlsError
from snakemq.peer import format_address

__all__ = ["Problems"]


class Problems:
    """Remembers why a connection came to nothing.

    :ivar last: the last reason, in words; ``None``: none was reported
    """

    def __init__(self) -> None:
        self.last: str | None = None

    def note(self, conn_id: str | None, exc: Exception) -> None:
        """For ``peer.on_error``. What is no matter of trust is passed over."""
        if isinstance(exc, AuthenticationError):
            self.last = f"{quoted(exc.ident)} was refused here: {exc}"
        elif isinstance(exc, RefusedByPeer):
            self.last = str(exc)
        elif isinstance(exc, TlsError):
            self.last = f"connection with {_where(exc.remote_peer)}: {exc}"


def _where(remote_peer: object) -> str:
    return format_address(remote_peer) if isinstance(remote_peer, tuple) else str(remote_peer)
