"""The tables of limits and defaults say what the code says."""

from __future__ import annotations

import argparse
import dataclasses
import inspect
import re
from collections.abc import Callable

import pytest

from snakemq import (
    _attendant,
    _holding,
    _inbox,
    _incoming,
    _longest_wait,
    _outgoing,
    _peer_log,
    _queue,
    _sleepers,
    _stored,
    _strangers,
    _takeover,
    _upkeep,
    _writer,
    link,
    message,
    messaging,
    packeter,
    peer,
    rpc,
    throttle,
)
from snakemq._core import admission, backoff, features, frames, received, rpc_parts
from snakemq._io import capacity, connector, link_socket, listener, loop, resolver, tls, workers
from snakemq.cli import _main
from snakemq.contracts import LARGEST_POLLED
from snakemq.limits import ConnectionLimits, QueueLimits
from snakemq.peer import CallLimits, Peer, _early_requests, _stack
from snakemq.peer import _inbox as peer_inbox
from snakemq.rpc import (
    _answers,
    _awake,
    _deferred,
    _open_streams,
    _pause,
    _pickle_machine,
    _pickle_sharing,
    _stream_source,
    client,
    json_serializer,
    server,
)
from snakemq.storage import _mongodb_lease, _mongodb_server, _sqla_servers, _sqla_session
from snakemq.storage import _sqlite_upkeep as sqlite_upkeep
from snakemq.storage.base import MAX_RECEIVED_PEERS
from snakemq.storage.mongodb import MongoDbQueuesStorage
from snakemq.storage.sqla import SqlAlchemyQueuesStorage
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


def milliseconds(value: float) -> str:
    return f"{value * 1000:.10g} ms"


def size(value: object) -> str:
    assert isinstance(value, int)
    for unit, name in ((1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")):
        if value % unit == 0:
            return f"{value // unit} {name}"
    return f"{value} bytes"


def default_of_both(parameter: str) -> object:
    """Of the two storages on servers."""
    (value,) = {
        default(SqlAlchemyQueuesStorage, parameter),
        default(MongoDbQueuesStorage, parameter),
    }
    return value


def new_messaging() -> messaging.Messaging:
    network_link = link.Link()
    try:
        return messaging.Messaging("somebody", "", packeter.Packeter(network_link))
    finally:
        network_link.cleanup()


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

FROM_ONE_ADDRESS = "... of these from one address"
STRANGERS_OF_ONE = "... of these strangers from one address"
LEASE = "... the lease of a process that is not heard of ends after"
EARLY = "Requests that a ``Peer`` keeps before it serves anything"
HELPERS = "Threads beside the workers: for answers of ``async def`` methods, and items that wait"
SPARE_PAGES = "SQLite: free pages that stay in the file"

OPTIONS = link_socket.TcpOptions()

LIMITS = ConnectionLimits()

#: What the tables are to say.
EXPECTED = {
    # Sizes
    "Largest packet": size(LIMITS.max_packet_size),
    "Largest packet before it is known who is there": size(_strangers.MAX_GREETING_PACKET),
    "... and all packets before that, with what is in front of each": size(
        _strangers.MAX_GREETING_SIZE
    ),
    "Unfinished packets of all connections together": size(LIMITS.max_unfinished_bytes),
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
    "TLS handshake": seconds(LIMITS.handshake_timeout),
    "TLS handshakes at a time of connections that were accepted": str(LIMITS.max_handshakes),
    FROM_ONE_ADDRESS: str(LIMITS.max_handshakes_per_address),
    "Between two looks whether files of TLS have changed": seconds(tls.LOOK_INTERVAL),
    "Names looked up at the same time": str(resolver._pool.max_workers),
    "Connections that wait to be accepted": "1024",
    "Connections accepted in one pass of the loop": str(listener._ACCEPTS_PER_PASS),
    "Connections accepted in a second": f"{LIMITS.accept_rate:g}",
    "Accepted connections at a time": str(LIMITS.max_connections),
    "Pause of a listener when the process has no file descriptor left": seconds(
        listener._EXHAUSTED_PAUSE
    ),
    # Connections
    "Time to identify oneself, and to prove it if that is wanted": seconds(
        LIMITS.identification_timeout
    ),
    "Accepted connections of which it is not known who they are, at a time": str(
        LIMITS.max_unidentified
    ),
    STRANGERS_OF_ONE: str(LIMITS.max_unidentified_per_address),
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
    "... by one that has not much to say": size(link.SMALL_RECV_SIZE),
    "Longest sleep of the loop when somebody listens to ``on_loop_pass``": seconds(
        default(link.Link.loop, "poll_timeout")
    ),
    "... and when there is nothing to do but a timer that is far away": seconds(loop._LONGEST_WAIT),
    "Longest sleep of the main thread, in the loop or waiting for something": seconds(
        _longest_wait.longest_wait()
    ),
    "Throttle: what goes out at once at least": seconds(throttle._PORTION),
    "Throttle: what may go out at once after a pause": seconds(throttle._BURST),
    "Throttle: what is made up for when the loop was late": seconds(throttle._CATCH_UP),
    # Queues
    "In memory: messages for one peer": str(QueueLimits().max_messages),
    "... and their data": size(QueueLimits().max_bytes),
    "... messages for all peers together": str(QueueLimits().total_messages),
    "... and the data of those": size(QueueLimits().total_bytes),
    "In the storage: messages for one peer": str(QueueLimits().max_stored_messages),
    "... and the data of these": size(QueueLimits().max_stored_bytes),
    "... all messages in it": str(QueueLimits().total_stored_messages),
    "... and all data": size(QueueLimits().total_stored_bytes),
    "Giving up to wait for room, with ``WhenFull.BLOCK``": seconds(QueueLimits().block_timeout),
    # Receiving durably
    "Attempts to handle a message": str(_inbox.MAX_ATTEMPTS),
    "Delay after the first attempt": seconds(_inbox.RETRY_DELAY),
    "Longest delay between attempts": seconds(_inbox.MAX_RETRY_DELAY),
    "Messages of a peer that wait to be handled": str(_inbox.INBOX_MESSAGES),
    "... and of how many bytes": size(_inbox.INBOX_BYTES),
    # Remote calls
    "Methods that a server runs at the same time": str(default(rpc.RpcServer, "max_workers")),
    "... for one caller": str(default(rpc.RpcServer, "max_per_peer")),
    "... of one object or function": str(default(rpc.RpcServer, "max_per_object")),
    "Calls that wait beyond those": str(CallLimits().max_waiting),
    "... of one caller": str(CallLimits().max_waiting_per_peer),
    "... and the bytes of the requests that wait": size(CallLimits().max_waiting_bytes),
    "... of one caller, in bytes": size(CallLimits().max_waiting_bytes_per_peer),
    "A worker without work ends after": seconds(workers.IDLE_TIMEOUT),
    "Waiting awake for the answer to a call, or for the next call": milliseconds(
        _awake.LONGEST_WAIT
    ),
    "... and what is read at once then": size(LARGEST_POLLED),
    "Threads that sleep on a descriptor each, and not on a lock": str(_sleepers.MAX_DESCRIPTORS),
    "The loop waits for three threads or more that it has woken": milliseconds(
        _pause.LONGEST_PAUSE
    ),
    "Requests that are read in the thread of the loop": size(server._MAX_READ_IN_LOOP),
    "Timeout of a call": seconds(default(rpc.RpcClient, "timeout")),
    "Time to live of requests and replies": seconds(default(message.Message, "ttl")),
    "Time to live of a signal": seconds(default(rpc.RemoteMethod.signal, "ttl")),
    "Answers kept for callers that have not acknowledged them": str(rpc.AnswerLimits().max_count),
    "... and their bytes": size(rpc.AnswerLimits().max_bytes),
    "... and for how long each": seconds(rpc.AnswerLimits().max_age),
    "Replies to one caller that wait for room in its queue": str(_answers._MAX_BLOCKED),
    "... and are tried again after": seconds(_answers._FIRST_RETRY),
    "Calls of one caller that are cancelled before they were read": str(_deferred._MAX_CANCELLED),
    HELPERS: str(server._MAX_HELPERS),
    "Stream: items on their way, or not yet taken by their reader": str(
        client.DEFAULT_STREAM_WINDOW
    ),
    "... that a server sends at most, whatever the caller allows": str(_stream_source.MAX_WINDOW),
    "... bytes of items that a server keeps until they are acknowledged": size(
        _stream_source._MAX_KEPT_BYTES
    ),
    "... items in one message": str(_stream_source._BATCH_ITEMS),
    "... and about so many bytes": size(_stream_source._BATCH_BYTES),
    "Open streams of one caller": str(_open_streams._MAX_STREAMS),
    "... of all callers together": str(_open_streams._MAX_ALL_STREAMS),
    "A stream whose caller is not connected is given up after": seconds(
        _open_streams._STREAM_PATIENCE
    ),
    "... and if the caller is connected again and does not ask for it, after": seconds(
        _open_streams._ASKING
    ),
    "A record that travels in one message": size(rpc_parts.PART_SIZE),
    "... the largest one in parts, and all that are unfinished on a connection": size(
        rpc_parts.MAX_RECORD_SIZE
    ),
    "... all that are unfinished, of all connections together": size(
        rpc_parts.MAX_UNFINISHED_BYTES
    ),
    "... unfinished ones on a connection": str(rpc_parts.MAX_PARTIAL_RECORDS),
    "... parts on their way to a peer: at least": size(rpc_parts.MIN_WINDOW),
    "... and at most": size(rpc_parts.MAX_WINDOW),
    EARLY: str(_early_requests._EARLY_COUNT),
    "... and the bytes of these requests": size(_early_requests._EARLY_BYTES),
    "Default serializer: levels of nesting": str(_pickle_machine.MAX_DEPTH),
    "... parts of a value, those that are shared counted again and again": str(
        _pickle_sharing._FREE
    ),
    "... bytes and parts that are copied from values into others": str(
        _pickle_machine._FREE_COPIES
    ),
    "... unknown classes of exceptions in one reply": str(_pickle_machine._MAX_UNKNOWN),
    "JSON: levels of nesting": str(json_serializer.MAX_DEPTH),
    # Storage
    "Page: what is loaded of a queue at once, in messages": str(_stored.PAGE_MESSAGES),
    "... and the bytes of their data": size(_stored.PAGE_BYTES),
    "Stored for a connected peer and kept in memory, too: messages that wait": str(
        _stored.WINDOW_MESSAGES
    ),
    "... and the bytes of those": size(_stored.WINDOW_BYTES),
    "One change of the storage: messages of several threads": str(_writer.GROUP_MESSAGES),
    "... and the bytes of these": size(_writer.GROUP_BYTES),
    "Removals that wait for the next change while somebody stores messages": str(_writer.MAX_LEFT),
    "... and for how long": seconds(_upkeep.FLUSH),
    "Removals that a power failure may undo": str(_writer.MAX_UNSYNCED),
    "Nothing was written: removals are made durable after": seconds(_upkeep.IDLE),
    "Between two pieces of tidying up": seconds(_upkeep.PAUSE),
    "A queue that can't be read: tried again after": seconds(_attendant._RETRY),
    "Messages on the disk that expire: removed at once": str(_queue._EXPIRED_AT_ONCE),
    "SQLite: waiting for somebody else's transaction in the file": seconds(
        default(SqliteQueuesStorage, "busy_timeout")
    ),
    "SQLite: largest message": "about 1 GB",
    SPARE_PAGES: str(sqlite_upkeep._MIN_FREE_PAGES),
    "SQL database or MongoDB: waiting for a server that is away": seconds(
        default_of_both("patience")
    ),
    "... waiting for another process that has the storage": seconds(
        default_of_both("lock_timeout")
    ),
    "SQL database: an answer of the server": seconds(_sqla_servers.IO_TIMEOUT),
    "... a sign of life of who has the storage": seconds(_sqla_servers.HEARTBEAT),
    "... without one the server ends the session after": seconds(_sqla_servers._IDLE_TIMEOUT),
    "... the first attempt to reach it again, after": seconds(_sqla_session._FIRST_PAUSE),
    "... the longest time between two attempts": seconds(_sqla_session._LONGEST_PAUSE),
    "MongoDB: largest message": size(_mongodb_server.MAX_DATA),
    "... renewing the lease": seconds(_mongodb_lease.RENEW),
    LEASE: seconds(_mongodb_lease.LEASE),
    # Peer
    "Inbox": size(default(peer.Peer, "inbox_limit")),
    "What a message counts there beside its data": size(peer_inbox.MESSAGE_COST),
    "Draining and hanging up in ``stop()``": seconds(default(peer.Peer.stop, "drain")),
    "Waiting for the answer in ``ping()``": seconds(default(peer.Peer.ping, "timeout")),
    # Log
    "Lines about one peer, or one address, at once": str(_peer_log.LINES_PER_PEER),
    "... and one more after each": seconds(_peer_log.LINES_TIME),
    "Lines about all peers together, at once": str(_peer_log.LINES_OF_ALL),
    "... and one more of these after each": seconds(_peer_log.LINES_OF_ALL_TIME),
    "Peers and addresses of which this is known": str(_peer_log._MAX_PEERS),
    "What is shown of a text that came from others": f"{_peer_log._SHOWN} characters",
    # Command line
    "``send``, ``call``, ``ping``: waiting for the other side": seconds(
        option_default("send", "timeout")
    ),
    "``listen``: waiting for a message": seconds(option_default("listen", "timeout")),
    "``ping``: from one to the next": seconds(option_default("ping", "interval")),
}


#: The heading of the section behind all the limits.
COUNTERS = "\nCounters\n========\n"


def rows() -> dict[str, tuple[str, str]]:
    """What each row says, by its first cell: the default, and the rest."""
    text = DOCUMENT.read_text("utf-8").partition(COUNTERS)[0]
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


def test_every_field_of_the_limits_of_connections_has_a_row() -> None:
    remarks = " ".join(remark for _, remark in rows().values())
    named = re.findall(r"``ConnectionLimits\((\w+)=\.\.\.\)``", remarks)
    assert sorted(named) == sorted(field.name for field in dataclasses.fields(ConnectionLimits))


def counters() -> dict[str, str]:
    """What each row of the table of counters says."""
    table = DOCUMENT.read_text("utf-8").partition(COUNTERS)[2].partition("\n====")[0]
    found = re.findall(r"^   \* - ``(\w+)``\n     - (.+)\n", table, re.MULTILINE)
    assert len(found) == table.count("\n   * - ") - 1
    return dict(found)


def test_every_counter_has_a_row_and_every_row_a_counter() -> None:
    somebody = Peer("somebody")
    try:
        assert list(counters()) == list(somebody.counters())
    finally:
        somebody.stop()


def test_counters_that_are_named_at_limits_exist() -> None:
    remarks = " ".join(remark for _, remark in rows().values())
    named = {
        name
        for names in re.findall(
            r"(?:[Cc]ounters?(?: of[\w ',]+)?:?|counted in) ((?:``\w+``[^`.]*)+)", remarks
        )
        for name in re.findall(r"``(\w+)``", names)
    } - {"when_full"}
    assert len(named) > 25
    assert named <= set(counters())
    # What is refused for other reasons than a limit.
    assert set(counters()) - named == {
        "handshakes_failed",
        "tls_meets_plain",
        "tls_broken",
        "authentications_failed",
        "refused_by_peers",
        "calls_unauthorized",
    }


def test_numbers_in_the_remarks() -> None:
    remarks = {what: remark for what, (_, remark) in rows().items()}
    dead_after = OPTIONS.keepalive_idle + OPTIONS.keepalive_interval * OPTIONS.keepalive_count
    assert f"({dead_after} s)" in remarks["Unanswered probes of the system"]
    fast = remarks["Connections accepted in a second"]
    assert admission._BURST == 1, "as many may come at once"
    assert f"after {seconds(admission._MIN_DELAY)}" in fast
    many = remarks["Accepted connections at a time"]
    assert f"at most {capacity._SHARE} %" in many
    assert f"{capacity._WATCHED_BY_SELECT * capacity._SHARE // 100} on Windows" in many
    assert seconds(_early_requests._EARLY_SECONDS) in remarks[EARLY]
    assert seconds(_answers._LAST_RETRY) in remarks["... and are tried again after"]
    for what in (SECOND, "Messages held back of a connection that is paused"):
        assert f"may send {size(_holding._LIMIT)}" in remarks[what]
    assert f"last {received.MAX_STREAMS} streams" in remarks[IDENTIFIERS]
    assert sqlite_upkeep._MIN_FREE_PART == 0.25
    assert "a quarter of the file" in remarks[SPARE_PAGES]
    assert f"given back {sqlite_upkeep._PIECE} at a time" in remarks[SPARE_PAGES]
    assert f"in the last {seconds(_mongodb_lease.OWN)}" in remarks[LEASE]


def test_a_queue_that_cannot_be_read_is_tried_again_in_one_time() -> None:
    assert _attendant._RETRY == _queue._RETRY == _upkeep.IDLE


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
