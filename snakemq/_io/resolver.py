"""Names to addresses, without making the loop wait for a name server."""

from __future__ import annotations

import socket
from collections.abc import Callable
from typing import Any, TypeAlias

from snakemq._io.workers import WorkerPool

__all__ = ["Resolved", "resolve", "resolve_local"]

#: Family and socket address, ready for ``socket.socket`` and ``connect``.
Resolved: TypeAlias = "tuple[socket.AddressFamily, tuple[Any, ...]]"

# Shared by all links of the process. Few threads: a name server that does not
# answer delays other names for a while, but never the loop.
_pool = WorkerPool(8, "snakemq-resolver", idle_timeout=0.5)


def _lookup(host: str, port: int, flags: int) -> list[Resolved]:
    try:
        found = socket.getaddrinfo(host or None, port, type=socket.SOCK_STREAM, flags=flags)
    except UnicodeError as exc:  # a label that is empty or too long
        raise OSError(f"{host!r} is not a host name: {exc}") from exc
    # dict: the same address may come several times; the order is the system's.
    return list(dict.fromkeys((family, address) for family, _, _, _, address in found))


def resolve(
    host: str, port: int, callback: Callable[[list[Resolved], OSError | None], object]
) -> None:
    """Look up a name.

    :param callback: ``func(addresses, error)``; called inside this call if
        ``host`` is a number, else from another thread
    """
    try:
        found = _lookup(host, port, socket.AI_NUMERICHOST)
    except OSError:
        _pool.submit(_resolve_name, host, port, callback)
    else:
        callback(found, None)


def _resolve_name(
    host: str, port: int, callback: Callable[[list[Resolved], OSError | None], object]
) -> None:
    try:
        found = _lookup(host, port, 0)
    except OSError as exc:
        callback([], exc)
    else:
        callback(found, None)


def resolve_local(host: str, port: int) -> Resolved:
    """The address to listen on. Waits, if ``host`` is a name.

    As in 1.6 an empty host is every IPv4 address, and a name that has an IPv4
    address means that one.

    :raises OSError: there is none
    """
    if not host:
        return socket.AF_INET, ("0.0.0.0", port)
    found = _lookup(host, port, socket.AI_PASSIVE)
    return next((item for item in found if item[0] == socket.AF_INET), found[0])
