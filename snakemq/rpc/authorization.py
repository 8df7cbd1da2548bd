"""Who may call what."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, TypeAlias

from snakemq.rpc.hooks import call_name

__all__ = ["Authorize", "AuthorizeLike", "CallRequest", "Permissions", "authorize_of"]

#: Stands for every peer, and for every name.
ANY: Final = "*"

_BELOW: Final = ".*"


def _no_certificate(conn_id: str) -> dict[str, Any] | None:
    return None


@dataclass(frozen=True, slots=True)
class CallRequest:
    """A call or a signal that somebody asks for, before anything is done about it.

    Its arguments are not in it: most often they are not even read yet.

    :ivar ident: identifier of the peer that asks
    :ivar conn_id: the connection on which it does
    :ivar object: name of the object; empty for a function whose name has no dots
    :ivar method: name of the method, without dots
    :ivar is_signal: whether nobody waits for an answer
    """

    ident: str
    conn_id: str
    object: str
    method: str
    is_signal: bool = False
    certificate_of: Callable[[str], dict[str, Any] | None] = field(
        default=_no_certificate, repr=False, compare=False
    )

    @property
    def name(self) -> str:
        """Object and method, with a dot between them; a function has a name only."""
        return call_name(self.object, self.method)

    @property
    def certificate(self) -> dict[str, Any] | None:
        """The certificate of the peer, as :meth:`ssl.SSLSocket.getpeercert` has it.

        ``None``: the connection has no TLS, or no certificate that was
        verified, or has ended.
        """
        return self.certificate_of(self.conn_id)


#: ``authorize(request)``: whether it is allowed
Authorize: TypeAlias = Callable[[CallRequest], bool]

#: ... or a table, as :class:`Permissions` takes it
AuthorizeLike: TypeAlias = "Authorize | Mapping[str, Iterable[str]]"


class Permissions:
    """A table of who may call what. What is not in it is not allowed.

    ::

        permissions = Permissions({"alice": ["math.*", "status"], "*": ["status"]})
        server = RpcServer(hook, authorize=permissions)

    A peer is given by its identifier, and ``"*"`` is every peer. What it may
    call is given as

    * ``"math.add"``, ``"status"``: this method of this object, or this function;
    * ``"math.*"``: all methods of the object ``math`` and all functions that are
      directly below that name, but not ``math.tables.sine``: that is in
      ``"math.tables.*"``;
    * ``"*"``: everything.

    It can be changed at any time, from any thread; the next request is judged
    by the new table.

    :param allowed: names by peer
    :raises TypeError: it is no such table
    :raises ValueError: a name, or an identifier, can't be one
    """

    def __init__(self, allowed: Mapping[str, Iterable[str]] | None = None) -> None:
        self._lock = threading.Lock()
        # Replaced, never changed: it is read in the thread of the loop.
        self._allowed: dict[str, frozenset[str]] = {}
        if allowed is not None and not isinstance(allowed, Mapping):
            raise TypeError(
                "permissions are a dictionary of identifiers and lists of names, not"
                f" {type(allowed).__name__}"
            )
        for ident, names in (allowed or {}).items():
            if isinstance(names, str) or not isinstance(names, Iterable):
                raise TypeError(f"what {ident!r} may call is a list of names, not {names!r}")
            self.allow(ident, *names)

    def allow(self, ident: str, *names: str) -> None:
        """Let a peer call these, too.

        :param ident: its identifier, or ``"*"`` for every peer
        :raises TypeError: an argument is no string
        :raises ValueError: a name, or the identifier, can't be one
        """
        _check_ident(ident)
        for name in names:
            _check_name(name)
        with self._lock:
            granted = self._allowed.get(ident, frozenset()).union(names)
            self._allowed = {**self._allowed, ident: granted}

    def revoke(self, ident: str, *names: str) -> None:
        """Undo :meth:`allow`. What has begun is not interrupted.

        :param names: as they were allowed; without any, all of this peer. What
            ``"*"`` may call, it still may.
        :raises KeyError: one of them is not in the table: then nothing is changed
        """
        with self._lock:
            granted = self._allowed.get(ident, frozenset())
            missing = sorted(set(names) - granted)
            if missing or ident not in self._allowed:
                what = ", ".join(map(repr, missing)) or "anything"
                raise KeyError(f"{ident!r} is not in the table with {what}, so it can't be revoked")
            left = granted.difference(names) if names else frozenset()
            allowed = {each: held for each, held in self._allowed.items() if each != ident}
            self._allowed = {**allowed, ident: left} if left else allowed

    def as_dict(self) -> dict[str, list[str]]:
        """The table as it is now, names sorted."""
        return {ident: sorted(names) for ident, names in self._allowed.items()}

    def __call__(self, request: CallRequest) -> bool:
        """Whether the table allows a call."""
        allowed = self._allowed
        name = request.name
        below = request.object + _BELOW
        return any(
            name in names or below in names or ANY in names
            for names in (allowed.get(request.ident, ()), allowed.get(ANY, ()))
        )

    def __repr__(self) -> str:
        return f"<Permissions {self.as_dict()}>"


def authorize_of(value: AuthorizeLike | None) -> Authorize | None:
    """What ``authorize=`` was given, as something that can be called.

    :raises TypeError: it is nothing of the kind
    :raises ValueError: see :class:`Permissions`
    """
    if value is None or callable(value):
        return value
    if isinstance(value, Mapping):
        return Permissions(value)
    raise TypeError(
        "authorize takes a snakemq.rpc.Permissions, a dictionary of identifiers and lists of names,"
        f" or a function of a request, not {value!r}"
    )


def _check_ident(ident: object) -> None:
    if not isinstance(ident, str):
        raise TypeError(f"an identifier is a string, not {type(ident).__name__}: {ident!r}")
    if not ident:
        raise ValueError("an identifier is not empty; every peer is '*'")


def _check_name(name: object) -> None:
    if not isinstance(name, str):
        raise TypeError(
            f"what may be called is given by a name, not {type(name).__name__}: {name!r}"
        )
    parts = name.removesuffix(_BELOW).split(".") if name != ANY else ["everything"]
    for part in parts:
        if not part:
            raise ValueError(f"a name has no empty parts, as {name!r} has")
        if ANY in part:
            raise ValueError(
                f"{name!r}: a star stands alone, for everything, or as the last part: 'math.*'"
            )
        if part.startswith("_"):
            raise ValueError(
                f"{name!r} can't be allowed: what begins with an underscore is never served"
            )
