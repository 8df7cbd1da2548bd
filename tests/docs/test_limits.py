"""The tables of limits and defaults say what the code says."""

from __future__ import annotations

import argparse
import inspect
import re
from collections.abc import Callable

import pytest

from snakemq import (
    _holding,
    _inbox,
    _incoming,
    _outgoing,
    _takeover,
    link,
    message,
    messaging,
    packeter,
    peer,
    rpc,
    throttle,
)
from snakemq._core import backoff, features, frames, received
from snakemq._io import connector, link_socket, listener, resolver, workers
from snakemq.cli import _main
from snakemq.limits import QueueLimits
from snakemq.peer import _calls, _stack
from snakemq.peer import _inbox as peer_inbox
from snakemq.storage.base import MAX_RECEIVED_PEERS
from snakemq.storage.sqlite import SqliteQueuesStorage
from tests.docs.runner import ROOT

DOCUMENT = ROOT / "docs" / "reference" / "limits.rst"


def default(func: Callable[..., object], parameter: str) -> object:
    return inspect.signature(func).parameters[parameter].default


def option_default(verb: str, option: str) -> object:
    """The default of a command line option, asked of the parser itself."""
    (verbs,) = (
        action
        for action in _main._parser()._actions
        if isinstance(action, argparse._SubParsersAction)
    )
    return verbs.choices[verb].get_default(option)


def seconds(value: object) -> str:
    if value is None:
        return "never"
    assert isinstance(value, (int, float))
    return f"{value:.10g} s"


def size(value: object) -> str:
    assert isinstance(value, int)
    for unit, name in ((1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")):
        if value % unit == 0:
            return f"{value // unit} {name}"
    return f"{value} bytes"


def new_messaging() -> messaging.Messaging:
    network_link = link.Link()
    try:
        return messaging.Messaging("somebody", "", packeter.Packeter(network_link))
    finally:
        network_link.cleanup()


def remote_method() -> rpc.RemoteMethod:
    return rpc.RemoteMethod(None, "method")  # type: ignore[arg-type]


def longest_ttl() -> int:
    encoded = frames.encode_message(message.Message(b"", ttl=1e300))
    return int.from_bytes(encoded[17:21], "big")


def remembered() -> tuple[int, int]:
    """Of how many messages the identifiers are remembered: at least, at most."""
    window = _incoming.WINDOW.window_messages
    memory = received.Received(window)
    counts = []
    for number in range(window * 4):
        memory.add(number.to_bytes(16, "big"))
        counts.append(len(memory))
    return min(counts[window:]), max(counts) + 1


IDENTIFIERS = "Identifiers remembered of what a peer has sent"
SECOND = "What a second connection of a connected identifier may send meanwhile"

OPTIONS = link_socket.TcpOptions()

#: What the tables are to say.
EXPECTED = {
    # Sizes
    "Largest packet": size(default(packeter.Packeter, "max_packet_size")),
    "What a message takes beside its data": size(frames.MESSAGE_OVERHEAD),
    "Identifier": f"{frames.MAX_IDENT_LENGTH} characters",
    "Identifier that is received": size(frames.MAX_IDENT_LENGTH * 4),
    "Identifier of a message": size(message.MAX_UUID_LENGTH),
    "Flags of a message": "32 bits",
    "Largest finite time to live on the wire": seconds(longest_ttl()),
    "Features of a peer": size(features.MAX_FEATURES_SIZE),
    # Connecting
    "First delay before dialling again": seconds(link.RECONNECT_INTERVAL),
    "How a delay grows": f"{backoff._FACTOR:g} times",
    "Longest delay before dialling again": seconds(backoff.DEFAULT_CAP),
    "Jitter: a real delay is at least": f"{backoff._JITTER_FROM * 100:g} %",
    "Waiting for one address to answer": seconds(connector.CONNECT_TIMEOUT),
    "TLS handshake": seconds(link.HANDSHAKE_TIMEOUT),
    "Names looked up at the same time": str(resolver._pool.max_workers),
    "Connections that wait to be accepted": "1024",
    "Connections accepted in one pass of the loop": str(listener._ACCEPTS_PER_PASS),
    "Pause of a listener when the process has no file descriptor left": seconds(
        listener._EXHAUSTED_PAUSE
    ),
    # Connections
    "Time to identify oneself": seconds(messaging.IDENTIFICATION_TIMEOUT),
    "Silence before messaging pings": seconds(new_messaging().keepalive_interval),
    "Waiting for anything after a ping": seconds(new_messaging().keepalive_wait),
    "Silence before a ``Peer`` pings": seconds(default(peer.Peer, "keepalive")),
    "Waiting for anything after the ping of a ``Peer``": seconds(_stack.KEEPALIVE_WAIT),
    "Silence before the system probes (TCP keepalive)": seconds(OPTIONS.keepalive_idle),
    "Time between probes of the system": seconds(OPTIONS.keepalive_interval),
    "Unanswered probes of the system": str(OPTIONS.keepalive_count),
    "Waiting for a connected peer whose identifier comes again": seconds(
        new_messaging().takeover_wait
    ),
    "Nothing is sent on a new connection that may lose its place at once": seconds(
        _takeover.SETTLE_TIME
    ),
    SECOND: size(_holding._LIMIT_WITH_WINDOW),
    "Closed connection: time to deliver what was sent": seconds(link.LINGER_TIMEOUT),
    "Faulty connection: time to send why": seconds(packeter.FINISH_TIMEOUT),
    # Sending and receiving
    "Messages of a connection between the queue and the system, in bytes": size(
        _outgoing.SEND_WINDOW_BYTES
    ),
    "... and in number": str(_outgoing.SEND_WINDOW_MESSAGES),
    "Window: what a peer may send without an acknowledgement, in messages": str(
        _incoming.WINDOW.window_messages
    ),
    "... and in bytes": size(_incoming.WINDOW.window_bytes),
    "Acknowledgement of messages with time to live 0: waits for others": seconds(
        _incoming.ACK_DELAY
    ),
    "Messages held back of a connection that is paused": size(_holding._LIMIT_WITH_WINDOW),
    IDENTIFIERS: str(remembered()[0]),
    "Absent peers for which this is remembered": str(_incoming.MAX_ABSENT),
    "Peers for which a storage remembers it": str(MAX_RECEIVED_PEERS),
    "A storage that fails to note what was received: tried again after": seconds(
        _incoming.STORAGE_RETRY
    ),
    "What is given to the system at once": size(packeter.SEND_BLOCK_SIZE),
    "What is read from a connection at once": size(link.RECV_BLOCK_SIZE),
    "Longest sleep of the loop when somebody listens to ``on_loop_pass``": seconds(
        default(link.Link.loop, "poll_timeout")
    ),
    "Throttle: what goes out at once at least": seconds(throttle._PORTION),
    "Throttle: what may go out at once after a pause": seconds(throttle._BURST),
    "Throttle: what is made up for when the loop was late": seconds(throttle._CATCH_UP),
    # Queues
    "Messages for one peer": str(QueueLimits().max_messages),
    "Their data": size(QueueLimits().max_bytes),
    "Messages for all peers together": str(QueueLimits().total_messages),
    "The data of those": size(QueueLimits().total_bytes),
    "Giving up to wait for room, with ``WhenFull.BLOCK``": seconds(QueueLimits().block_timeout),
    # Receiving durably
    "Attempts to handle a message": str(_inbox.MAX_ATTEMPTS),
    "Delay after the first attempt": seconds(_inbox.RETRY_DELAY),
    "Longest delay between attempts": seconds(_inbox.MAX_RETRY_DELAY),
    "Messages of a peer that wait to be handled": str(_inbox.INBOX_MESSAGES),
    "... and of how many bytes": size(_inbox.INBOX_BYTES),
    # Remote calls
    "Calls that a server runs at the same time": str(default(rpc.RpcServer, "max_workers")),
    "A worker without work ends after": seconds(workers.IDLE_TIMEOUT),
    "Timeout of a call": seconds(remote_method().call_timeout),
    "Time to live of requests and replies": seconds(default(message.Message, "ttl")),
    "Time to live of a signal": seconds(default(rpc.RemoteMethod.as_signal, "timeout")),
    "Requests that a ``Peer`` keeps before it serves anything": str(_calls._EARLY_COUNT),
    # Storage
    "Waiting for another process that has the SQLite file locked": seconds(
        default(SqliteQueuesStorage, "busy_timeout")
    ),
    "Largest message in an SQLite file": "about 1 GB",
    # Peer
    "Inbox": size(default(peer.Peer, "inbox_limit")),
    "What a message counts there beside its data": size(peer_inbox.MESSAGE_COST),
    "Draining and hanging up in ``stop()``": seconds(default(peer.Peer.stop, "drain")),
    "Waiting for the answer in ``ping()``": seconds(default(peer.Peer.ping, "timeout")),
    # Command line
    "``send``, ``call``, ``ping``: waiting for the other side": seconds(
        option_default("send", "timeout")
    ),
    "``listen``: waiting for a message": seconds(option_default("listen", "timeout")),
    "``ping``: from one to the next": seconds(option_default("ping", "interval")),
}


def rows() -> dict[str, tuple[str, str]]:
    """What each row says, by its first cell: the default, and the rest."""
    text = DOCUMENT.read_text("utf-8")
    found: dict[str, tuple[str, str]] = {}
    for match in re.finditer(
        r"^   \* - (.+)\n     - (.+)\n     - ((?:.+\n(?:       .+\n)*))", text, re.MULTILINE
    ):
        what, value, rest = match.groups()
        if what != "What":
            assert what not in found
            found[what] = (value, " ".join(rest.split()))
    assert len(found) == text.count("\n   * - ") - text.count("\n   * - What\n")
    return found


def test_every_row_is_tested() -> None:
    assert list(rows()) == list(EXPECTED)


@pytest.mark.parametrize("what", EXPECTED)
def test_default(what: str) -> None:
    assert rows()[what][0] == EXPECTED[what]


def test_numbers_in_the_remarks() -> None:
    remarks = {what: remark for what, (_, remark) in rows().items()}
    dead_after = OPTIONS.keepalive_idle + OPTIONS.keepalive_interval * OPTIONS.keepalive_count
    assert f"({dead_after} s)" in remarks["Unanswered probes of the system"]
    early = seconds(_calls._EARLY_SECONDS)
    assert early in remarks["Requests that a ``Peer`` keeps before it serves anything"]
    for what in (SECOND, "Messages held back of a connection that is paused"):
        assert f"may send {size(_holding._LIMIT)}" in remarks[what]
    assert f"last {received.MAX_STREAMS} streams" in remarks[IDENTIFIERS]


def test_how_many_identifiers_are_remembered() -> None:
    at_least, at_most = remembered()
    assert at_most == 2 * at_least
    assert "at most twice as many" in dict(rows())[IDENTIFIERS][1]


def test_when_acknowledgements_must_not_wait() -> None:
    window = _incoming.WINDOW
    assert window.window_messages == 4 * _incoming._ACK_MESSAGES
    assert window.window_bytes == 4 * _incoming._ACK_BYTES


def test_the_backlog_is_the_larger_of_two_numbers() -> None:
    assert listener.BACKLOG >= 1024


def test_all_of_the_command_line_waits_equally_long() -> None:
    assert len({option_default(verb, "timeout") for verb in ("send", "call", "ping")}) == 1


def test_flags_have_32_bits() -> None:
    message.Message(b"", flags=0xFFFFFFFF)
    with pytest.raises(ValueError, match="32 bits"):
        message.Message(b"", flags=1 << 32)
