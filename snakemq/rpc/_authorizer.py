"""Asks the program who may call what, and answers for it when it fails."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from snakemq._peer_log import PeerLog, quoted
from snakemq.rpc.authorization import Authorize, CallRequest
from snakemq.rpc.errors import NotAuthorized
from snakemq.rpc.hooks import call_name

if TYPE_CHECKING:
    from snakemq.counters import Counters
    from snakemq.messaging import Messaging

__all__ = ["Authorizer", "unambiguous"]

#: Of a name that somebody else has made up, so many characters are shown.
_SHOWN = 100


def unambiguous(object_name: str, method: str) -> tuple[str, str]:
    """The one way to write this name in two parts, of those with the same full name.

    ``a.b`` of the object ``x`` is ``b`` of the object ``x.a``: else what was judged under
    one of them could be called under the other.
    """
    if "." not in method:
        return object_name, method
    object_name, _, method = call_name(object_name, method).rpartition(".")
    return object_name, method


class Authorizer:
    """Says whether a peer may call something. Any thread; nothing is remembered.

    :param authorize: of the program
    :param messaging: gives certificates, and is told of what fails
    :param counters: counts refusals, as ``calls_unauthorized``
    """

    def __init__(
        self, authorize: Authorize, messaging: Messaging, log: PeerLog, counters: Counters
    ) -> None:
        self._authorize = authorize
        self._messaging = messaging
        self._log = log
        self._counters = counters

    def allows(
        self, ident: str, conn_id: str, object_name: str, method: str, *, is_signal: bool = False
    ) -> bool:
        """Whether it is allowed; not so if the program can't tell."""
        request = CallRequest(
            ident, conn_id, object_name, method, is_signal, self._messaging.get_certificate
        )
        try:
            allowed: Any = self._authorize(request)
            if not isinstance(allowed, bool):
                # A coroutine is true, whatever it would return.
                close = getattr(allowed, "close", None)
                if close is not None:
                    close()
                raise TypeError(
                    f"authorize has to return True or False, not {type(allowed).__name__}"
                )
        except Exception as exc:
            self._log.exception(ident, "ident=%s authorize failed: refused", quoted(ident))
            self._report(conn_id, exc)
            return False
        return allowed

    def _report(self, conn_id: str, error: Exception) -> None:
        # This may be a worker, also if the loop waits for it.
        self._messaging.call_soon(self._messaging.on_error, conn_id, error)

    def refusal(
        self, ident: str, conn_id: str, object_name: str, method: str, *, is_signal: bool = False
    ) -> NotAuthorized | None:
        """What the caller is told if it is not allowed; counted and logged then."""
        if self.allows(ident, conn_id, object_name, method, is_signal=is_signal):
            return None
        name = quoted(call_name(object_name, method), _SHOWN)
        self._counters.add("calls_unauthorized")
        self._log.warning(ident, "ident=%s may not call %s", quoted(ident), name)
        # The same for what there is and for what there is not.
        return NotAuthorized(
            f"{self._messaging.identifier!r} does not allow {ident!r} to call {name}"
        )
