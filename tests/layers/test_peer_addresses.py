"""Addresses as people write them, for Peer and for the command line."""

from __future__ import annotations

from typing import Any

import pytest

from snakemq import Peer
from snakemq.peer import format_address
from snakemq.peer._address import parse, parse_many


@pytest.mark.parametrize(
    ("written", "address"),
    [
        (4000, ("127.0.0.1", 4000)),
        ("4000", ("127.0.0.1", 4000)),
        ("example.org:4000", ("example.org", 4000)),
        ("10.0.0.1:1", ("10.0.0.1", 1)),
        ("[::1]:4000", ("::1", 4000)),
        ("[fe80::1%eth0]:65535", ("fe80::1%eth0", 65535)),
        (("localhost", 4000), ("localhost", 4000)),
        (("::1", 4000), ("::1", 4000)),
        (("::1", 4000, 0, 0), ("::1", 4000)),
    ],
)
def test_an_address_means_the_same_to_listeners_and_connectors(
    written: Any, address: tuple[str, int]
) -> None:
    assert parse(written, listen=True) == address
    assert parse(written, listen=False) == address


@pytest.mark.parametrize("written", [":4000", "*:4000", ("", 4000), ("*", 4000)])
def test_no_host_is_all_interfaces_or_this_machine(written: Any) -> None:
    assert parse(written, listen=True) == ("", 4000)
    assert parse(written, listen=False) == ("127.0.0.1", 4000)


def test_only_a_listener_takes_any_free_port() -> None:
    assert parse(0, listen=True) == ("127.0.0.1", 0)
    with pytest.raises(ValueError, match="from 1 to 65535"):
        parse(0, listen=False)


@pytest.mark.parametrize(
    ("written", "what_to_do"),
    [
        ("localhost", "has no port; write 'host:port'"),
        ("", "has no port"),
        ("localhost:", "no number after the colon"),
        ("localhost:http", "no number after the colon"),
        ("localhost:-1", "no number after the colon"),
        ("localhost:\u0664", "no number after the colon"),
        ("localhost:65536", "port must be from"),
        ("::1:4000", r"in brackets, as in '\[::1\]:4000'"),
        ("[localhost]:4000", "brackets are for IPv6"),
        (70000, "port must be from"),
        (-1, "port must be from"),
    ],
)
def test_a_mistake_is_a_value_error_that_says_what_to_write(written: Any, what_to_do: str) -> None:
    with pytest.raises(ValueError, match=what_to_do):
        parse(written, listen=True)


@pytest.mark.parametrize(
    "written",
    [None, 4000.0, b"localhost:4000", True, ("localhost", "4000"), (1, 2), ("a:1", "b:2"), ("x",)],
)
def test_something_else_is_a_type_error(written: Any) -> None:
    with pytest.raises(TypeError):
        parse(written, listen=True)


def test_several_addresses_come_in_a_list() -> None:
    several = parse_many(["a:1", 2, ("c", 3)], listen=False)
    assert several == [("a", 1), ("127.0.0.1", 2), ("c", 3)]
    assert parse_many("a:1", listen=False) == [("a", 1)]
    assert parse_many(2, listen=False) == [("127.0.0.1", 2)]
    assert parse_many(("c", 3), listen=False) == [("c", 3)]
    assert parse_many(None, listen=False) == []


@pytest.mark.parametrize("written", [b"a:1", bytearray(b"a:1"), 1.5, object()])
def test_what_is_no_list_of_addresses_is_a_type_error(written: Any) -> None:
    with pytest.raises(TypeError, match="is not an address"):
        parse_many(written, listen=False)


@pytest.mark.parametrize("text", ["127.0.0.1:4000", "[::1]:4000", "example.org:1"])
def test_an_address_is_written_as_it_is_read(text: str) -> None:
    assert format_address(parse(text, listen=True)) == text


@pytest.mark.parametrize(
    ("arguments", "exception", "what_to_do"),
    [
        ({"identifier": ""}, ValueError, "1 to 50 characters"),
        ({"identifier": "x" * 51}, ValueError, "1 to 50 characters, not 51"),
        ({"identifier": b"bob"}, TypeError, "identifier must be a string, not bytes"),
        ({"listen": "localhost"}, ValueError, "has no port"),
        ({"connect": "localhost:x"}, ValueError, "no number"),
        ({"connect": ["localhost:1", "localhost:1"]}, ValueError, "already"),
        ({"tls": "cert.pem"}, TypeError, "SSLConfig"),
        ({"throttle": 0}, ValueError, "throttle must be more than 0 bytes per second"),
        ({"throttle": "fast"}, TypeError, "throttle takes a number"),
        ({"keepalive": -1}, ValueError, "keepalive must be more than 0 seconds"),
        ({"keepalive": True}, TypeError, "keepalive takes a number"),
        ({"reconnect_interval": 0}, ValueError, "reconnect_interval must be more than 0"),
        ({"inbox_limit": 0}, ValueError, "inbox_limit must be more than 0 bytes"),
        ({"storage": 7}, TypeError, "a path, a URL or a QueuesStorageBase, not int"),
        ({"on_message": "print"}, TypeError, "on_message takes a callable"),
    ],
)
def test_a_wrong_argument_is_refused_at_once_and_leaves_nothing_open(
    arguments: dict[str, Any], exception: type[Exception], what_to_do: str
) -> None:
    with pytest.raises(exception, match=what_to_do):
        Peer(**{"identifier": "bob", "listen": 0, **arguments})
