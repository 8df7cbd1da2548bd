"""Addresses as people write them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final, TypeAlias

__all__ = ["Address", "AddressLike", "Addresses", "format_address", "parse", "parse_many"]

#: What the link takes: host and port.
Address: TypeAlias = "tuple[str, int]"

#: ``"host:port"``, ``"[::1]:port"``, ``":port"``, a port number, ``(host, port)``.
AddressLike: TypeAlias = "str | int | tuple[str, int]"

#: One address or several.
Addresses: TypeAlias = "AddressLike | Iterable[AddressLike] | None"

#: A port without a host means this machine and nobody else: who wants to be
#: reached from elsewhere says so.
LOOPBACK: Final = "127.0.0.1"

_FORMS: Final = "'host:port', '[::1]:port' for IPv6, a port number or a tuple (host, port)"


def parse(value: AddressLike, *, listen: bool) -> Address:
    """The address that ``value`` stands for.

    A port alone (``4000`` or ``"4000"``) is on the loopback interface. An
    empty host or ``*`` (``":4000"``, ``("", 4000)``) means all interfaces to
    a listener and this machine to a connector.

    :param listen: whether to listen there, where port 0 means "any free one"
    :raises TypeError: not an address at all
    :raises ValueError: an address with a mistake in it
    """
    host: Any
    port: Any
    if isinstance(value, str):
        host, port = _split(value)
    elif isinstance(value, int) and not isinstance(value, bool):
        host, port = LOOPBACK, value
    elif isinstance(value, tuple) and len(value) >= 2:
        host, port = value[:2]
        if not isinstance(host, str) or not isinstance(port, int) or isinstance(port, bool):
            raise TypeError(
                f"{value!r} is not (host, port) with a string and a number; "
                "write several addresses as a list"
            )
    else:
        raise TypeError(f"{value!r} is not an address; write {_FORMS}")
    if host == "*":
        host = ""
    if not host and not listen:
        host = LOOPBACK
    lowest = 0 if listen else 1
    if not lowest <= port <= 65535:
        raise ValueError(f"{value!r}: the port must be from {lowest} to 65535")
    return host, port


def _split(text: str) -> tuple[str, int]:
    host, colon, port = text.rpartition(":")
    if not colon:
        if not port.isdecimal():
            raise ValueError(f"{text!r} has no port; write {_FORMS}")
        host = LOOPBACK
    if not (port.isascii() and port.isdecimal()):
        raise ValueError(f"{text!r} has no number after the colon; write {_FORMS}")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
        if ":" not in host:
            raise ValueError(f"{text!r}: brackets are for IPv6 addresses")
    elif ":" in host:
        raise ValueError(f"{text!r}: write an IPv6 address in brackets, as in '[::1]:4000'")
    return host, int(port)


def parse_many(value: Addresses, *, listen: bool) -> list[Address]:
    """The addresses in an argument that takes one, several or ``None``.

    :raises TypeError: see :func:`parse`
    :raises ValueError: see :func:`parse`
    """
    if value is None:
        return []
    if isinstance(value, (str, int, tuple)):
        return [parse(value, listen=listen)]
    several: Any = value  # the annotation is a promise that untyped callers may not keep
    if isinstance(several, (bytes, bytearray)) or not isinstance(several, Iterable):
        raise TypeError(f"{value!r} is not an address; write {_FORMS}, or a list of these")
    return [parse(item, listen=listen) for item in value]


def format_address(address: tuple[Any, ...]) -> str:
    """``host:port`` as :func:`parse` reads it."""
    host, port = address[:2]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
