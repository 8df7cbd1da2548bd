"""What happened to others, once each: that it does not happen here.

Each test is named after a published incident; its docstring says what happened there
and what is shown here. Against real peers over sockets, and a peer by hand that says what
no honest one would.

Three of them were about parts that this package does not have: there is no relay, and there
are no subscriptions. For these the nearest thing that there is has been tested, and the
docstring says which.
"""

from __future__ import annotations

import ast
import contextlib
import json
import os
import pickle
import random
import socket
import sys
import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import snakemq
from snakemq import ConnectionLimits, Peer, SharedSecret
from snakemq._core.features import Feature, decode_features, encode_features
from snakemq._core.frames import FRAME_VERSION, FrameType, encode_identification, encode_message
from snakemq._core.framing import encode_packet
from snakemq._core.rpc_parts import REQUEST_PARTS, encode_part
from snakemq._core.rpc_records import (
    REPLY_PREFIX,
    REQUEST_PREFIX,
    call_record,
    error_record,
    value_record,
)
from snakemq.message import Message
from snakemq.rpc import RemoteError, SafePickle, UnknownType, UnreadableReply
from snakemq.rpc import serializer as serializer_module
from snakemq.rpc.json_serializer import JSON
from snakemq.rpc.safe_pickle import SAFE_PICKLE
from tests.fuzz.seeds import seeds_of
from tests.fuzz.watch import nothing_happens
from tests.helpers import DEADLINE, wait_until
from tests.layers.peers import connected_pair
from tests.layers.rpc_fakes import InThread
from tests.security.raw import RawPeer, is_closed

PACKAGE = Path(snakemq.__file__).parent

SECRET = b"known to alice and bob only"


class Inner:
    def method(self) -> str:
        return "inside"


class Service:
    def __init__(self) -> None:
        self.value = 1
        self.inner = Inner()
        self._hidden = "hidden"

    def get(self) -> int:
        return self.value

    def echo(self, value: object) -> object:
        return value

    def fail(self) -> None:
        raise ValueError("as it should")

    def _private(self) -> str:
        return self._hidden

    def __call__(self) -> str:
        return "called"


@pytest.fixture
def service() -> Service:
    return Service()


@pytest.fixture
def bob(service: Service) -> Iterator[Peer]:
    with Peer("bob", listen=0, serve={"service": service}) as bob:
        yield bob


@pytest.fixture
def mallory(bob: Peer) -> Iterator[RawPeer]:
    with RawPeer(bob) as mallory:
        mallory.greet()
        yield mallory


class Attack:
    """Pickled, it is a pickle that makes a directory where it is read."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.path),)


@pytest.fixture
def trap(tmp_path: Path) -> Iterator[Path]:
    """Where an attack makes a directory, if it works."""
    path = tmp_path / "it has been executed"
    yield path
    assert not path.exists()


def test_the_attack_is_one(tmp_path: Path) -> None:
    pickle.loads(pickle.dumps(Attack(tmp_path / "made")))
    assert (tmp_path / "made").is_dir()


# RPyC, 2019.

UNREACHABLE = [
    ("service", "__setattr__", ("value", 2)),
    ("service", "__delattr__", ("value",)),
    ("service", "__getattribute__", ("_hidden",)),
    ("service", "__init__", ()),
    ("service", "__class__", ()),
    ("service", "__dict__", ()),
    ("service", "__reduce_ex__", (4,)),
    ("service", "__call__", ()),
    ("service", "__doc__", ()),
    ("service", "_private", ()),
    ("service", "_hidden", ()),
    ("service", "value", (2,)),
    ("service", "", ()),
    ("service", "inner.method", ()),
    ("service", "get.__self__.__setattr__", ("value", 2)),
    ("service", "get.__func__.__globals__", ()),
    ("service.inner", "method", ()),
    ("service.__class__", "mro", ()),
    ("service.__dict__", "update", ({"value": 2},)),
    ("service.get", "__call__", ()),
    ("", "service", ()),
    ("", "__import__", ("os",)),
    ("__builtins__", "eval", ("1",)),
    ("os", "getcwd", ()),
    ("\0", "get", ()),
    (None, "get", ()),
    (["service"], "get", ()),
    ({"service": 1}, "get", ()),
]


def test_cve_2019_16328_attributes_of_a_service_can_not_be_modified(
    bob: Peer, mallory: RawPeer, service: Service
) -> None:
    """RPyC: a check was missing, and a client could set attributes of the service.

    Here nothing is reachable but public methods of what is served: no attribute, no special
    method, no object itself, nothing by way of something else; and no command does more than
    call one.
    """
    before = dict(vars(service))
    for object_name, method, args in UNREACHABLE:
        reply = mallory.call(object_name, method, *args)
        assert not reply["ok"], (object_name, method)
        assert "Error" in type(reply["exception"]).__name__, (object_name, method)
    for command in ("setattr", "getattr", "delattr", "del", "dir", "exec", "", None, ["call"]):
        assert not mallory.call("service", "get", command=command)["ok"]
    assert mallory.call("service", "get")["return"] == 1
    assert vars(service) == before
    assert bob.rpc_server.describe()[0]["name"] == "service"


# RPyC, 2024.


@pytest.fixture
def no_unpickling(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Whoever reads a pickle in this test, in whatever thread, fails it."""
    used: list[object] = []

    def refuse(*args: object, **kwargs: object) -> Any:
        used.append(args)
        raise AssertionError("a pickle is read")

    for name in ("loads", "load", "Unpickler", "_loads", "_load", "_Unpickler"):
        monkeypatch.setattr(pickle, name, refuse)
    monkeypatch.setattr(serializer_module, "_StandInUnpickler", refuse)
    yield
    assert not used


@pytest.mark.usefixtures("no_unpickling")
def test_cve_2024_27758_no_way_leads_to_pickle_when_it_is_off(service: Service, trap: Path) -> None:
    """RPyC: pickle was off, and a hook of numpy on an object of the client got to it anyhow.

    Here nothing is unpickled by peers whose serializer is JSON, whatever comes: results,
    errors, large arguments in parts, pickles as requests and as replies, and values that look
    as if they could be turned into something else.
    """
    attack = pickle.dumps(Attack(trap))
    with connected_pair(
        bob={"serve": {"service": service}, "pickler": JSON}, alice={"pickler": JSON}
    ) as (bob, alice):
        there: Any = alice.proxy("bob", "service")
        for value in (1, b"bytes", {"__reduce__": ["os.mkdir"]}, [attack], "x" * 300_000):
            assert there.echo(value) == value
        assert there.echo({"__array__": "x", "$exception": 1, "a": 1})["a"] == 1
        with pytest.raises(ValueError, match="as it should"):
            there.fail()
        with RawPeer(bob) as mallory:
            mallory.greet()
            mallory.send(REQUEST_PREFIX + attack)
            mallory.send(REPLY_PREFIX + attack)
            for part in _in_parts(REQUEST_PREFIX + attack):
                mallory.send(part)
            assert mallory.call("service", "get", serializer=JSON)["return"] == 1


def _in_parts(record: bytes) -> Iterator[bytes]:
    for start in range(0, len(record), 10):
        yield encode_part(
            REQUEST_PARTS, b"transfer" * 2, start, len(record), record[start : start + 10]
        )


#: What may unpickle, and why that is safe.
UNPICKLES = {
    "rpc/safe_pickle.py": "what matches a pattern of plain data",
    "rpc/_pickle_instructions.py": "runs of numbers, found by a pattern",
    "rpc/_replies.py": "what was pickled here, to see whether it can be read",
    "rpc/serializer.py": "for who has asked for pickler=pickle",
}

#: What runs code that is data, or imports what data names.
EXECUTES = {"eval", "exec", "compile", "__import__", "import_module"}

#: The names of this package's own modules.
IMPORTS = {"__init__.py": {"import_module"}}


def test_cve_2024_27758_who_may_unpickle_is_written_down() -> None:
    """The same in the source: a new way to pickle has to be entered above, with its reason."""
    unpickles = set()
    executes = {}
    for path in PACKAGE.rglob("*.py"):
        name = path.relative_to(PACKAGE).as_posix()
        tree = ast.parse(path.read_text("utf-8"))
        used = {node.attr for node in ast.walk(tree) if _is_of_pickle(node)}
        if used & {"loads", "load", "Unpickler"}:
            unpickles.add(name)
        for node in ast.walk(tree):
            assert not (isinstance(node, ast.ImportFrom) and node.module == "pickle"), name
            if isinstance(node, ast.Import):
                modules = {alias.name for alias in node.names}
                assert not modules & {"marshal", "shelve", "dill", "cloudpickle"}, name
        called = {_called(node) for node in ast.walk(tree)} & EXECUTES
        if called:
            executes[name] = called
    assert unpickles == set(UNPICKLES)
    assert executes == IMPORTS


def _is_of_pickle(node: ast.AST) -> Any:
    return (
        isinstance(node, ast.Attribute)
        and isinstance(node.value, ast.Name)
        and node.value.id == "pickle"
    )


def _called(node: ast.AST) -> str:
    if not isinstance(node, ast.Call):
        return ""
    if isinstance(node.func, ast.Name):
        return node.func.id
    is_of_importlib = isinstance(node.func, ast.Attribute) and node.func.attr == "import_module"
    return "import_module" if is_of_importlib else ""


# rpc.py, 2022.


def test_cve_2022_35411_the_receiver_chooses_the_serializer(service: Service, trap: Path) -> None:
    """rpc.py: it read JSON, but pickle when a header of the request said so.

    Here the receiver reads with its own serializer and nothing else, and whatever a request
    says of itself makes no difference.
    """
    with (
        Peer("bob", listen=0, serve={"service": service}, pickler=JSON) as bob,
        RawPeer(bob) as mallory,
    ):
        mallory.greet()
        for headers in (
            {"serializer": "pickle"},
            {"content-type": "application/pickle", "serializer": "PICKLE"},
        ):
            reply = mallory.call("service", "get", serializer=JSON, headers=headers)
            assert reply["return"] == 1
            reply = mallory.call(
                "service", "get", serializer=JSON, headers=headers, pickler="pickle"
            )
            assert reply["return"] == 1
        # It can be told whose request it was, and so it is answered.
        attack = {**call_record("service", "echo", (Attack(trap),), {}, b"r" * 16)}
        mallory.send(REQUEST_PREFIX + pickle.dumps(attack))
        reply = mallory.reply(JSON)
        assert not reply["ok"]
        assert "JSON is read here" in str(reply["exception"])
    with Peer("bob", listen=0, serve={"service": service}) as bob, RawPeer(bob) as mallory:
        mallory.greet()
        mallory.send(REQUEST_PREFIX + JSON.dumps(call_record("service", "get", (), {}, b"r" * 16)))
        reply = mallory.reply()
        assert not reply["ok"]
        assert "pickle is read here" in str(reply["exception"])
        assert mallory.call("service", "get")["return"] == 1


# Shinken, 2022.


class Allowed:
    calls = 0

    def __init__(self) -> None:
        Allowed.calls += 1

    def method(self) -> None:
        Allowed.calls += 1

    class Nested:
        pass


class Neighbour(Allowed):
    pass


def function() -> None:
    Allowed.calls += 1


def _pickle_of(module: str, name: str, *, call: bool = True) -> bytes:
    """A pickle of something with this name, or of what calling it gives."""
    text = b"".join(b"\x8c" + bytes([len(part)]) + part for part in map(str.encode, (module, name)))
    return b"\x80\x04" + text + (b"\x93)R." if call else b"\x93.")


#: How "MARK" is pickled.
_MARK = b"\x8c\x04MARK\x94"


def _without_frame(record: object) -> bytes:
    """The pickle of something with "MARK" in it, of which the size may be changed."""
    data = pickle.dumps(record, 4)
    assert data.count(_MARK) == 1
    return data[:2] + data[11:]


def test_cve_2022_37298_what_is_allowed_is_classes_by_their_exact_names(trap: Path) -> None:
    """Shinken: a list of allowed names was not enough, because what was allowed could do harm.

    Here a registered class is known by its exact module and name. What is beside it, in it
    or derived from it is not, and nothing can be reached through it; functions can't be
    registered at all; and without registrations nothing of the program is known.
    """
    reader = SafePickle([Allowed])
    assert type(reader.loads(pickle.dumps(Allowed.__new__(Allowed)))) is Allowed
    for name in (
        "Neighbour",
        "function",
        "Allowed.Nested",
        "Allowed.method",
        "Allowed.__init__",
        "Allowed.__subclasses__",
        "Allowed.__init__.__globals__",
        "Allowed.calls",
        "os.system",
        "allowed",
        "Allowed ",
        "",
    ):
        for call in (True, False):
            with nothing_happens(), pytest.raises(UnknownType):
                reader.loads(_pickle_of(__name__, name, call=call))
    for module in ("", "tests", __name__ + ".", "builtins", "test_incidents"):
        with pytest.raises(UnknownType):
            reader.loads(_pickle_of(module, "Allowed"))
    for found in (function, os.mkdir, len, Allowed().method, os, lambda: None):
        with pytest.raises(TypeError):
            SafePickle([found])  # type: ignore[list-item]
    with pytest.raises(TypeError):
        SafePickle([type])
    with pytest.raises(UnknownType, match="register_type"):
        SAFE_PICKLE.loads(pickle.dumps(Allowed.__new__(Allowed)))
    with pytest.raises(ValueError, match="no data"):
        reader.loads(_pickle_of(__name__, "Allowed", call=False))
    calls = Allowed.calls
    reader.loads(pickle.dumps(Allowed.__new__(Allowed)))
    assert Allowed.calls == calls
    with pytest.raises(UnknownType):
        reader.loads(pickle.dumps(Attack(trap)))


# python-socketio, LightLLM, LMCache: 2025 and later.


def test_cve_2025_61765_a_pickle_from_a_peer_executes_nothing(
    bob: Peer, mallory: RawPeer, trap: Path
) -> None:
    """python-socketio and users of ZeroMQ: pickles between peers that were taken for trusted,
    on a port that was open to the network. snakeMQ 1.6 did the same.

    Here a request, an argument, a keyword, a header, a large request, a reply that nobody
    waits for, and a message as such execute nothing; and it is said to the sender why.
    """
    attack = Attack(trap)
    requests: list[dict[str, Any]] = [
        call_record("service", "echo", (attack,), {}, b"1" * 16),
        call_record("service", "echo", (), {"value": attack}, b"2" * 16),
        call_record("service", "echo", (1,), {}, b"3" * 16, headers={"h": attack}),
        {**call_record("service", "echo", (1,), {}, b"4" * 16), "more": attack},
        {**call_record("service", "echo", (1,), {}, b"5" * 16), "object": attack},
        call_record("service", "echo", ([{"deep": (attack,)}],), {}, b"6" * 16),
    ]
    for request in requests:
        mallory.send(REQUEST_PREFIX + pickle.dumps(request))
        reply = mallory.reply()
        assert reply["req_id"] == request["req_id"]
        assert not reply["ok"]
        assert "mkdir" in str(reply["exception"])
    for data in (
        pickle.dumps(attack),
        REQUEST_PREFIX + pickle.dumps(attack),
        REPLY_PREFIX + pickle.dumps(attack),
        REPLY_PREFIX + pickle.dumps(value_record(b"1" * 16, attack)),
        *_in_parts(REQUEST_PREFIX + pickle.dumps(requests[0])),
    ):
        mallory.send(data)
    assert not mallory.reply()["ok"]  # of the large one
    assert mallory.call("service", "get")["return"] == 1


# Celery, 2021.


class Server:
    """A socket that alice dials as if bob were there."""

    def __init__(self) -> None:
        self._server = socket.create_server(("127.0.0.1", 0))
        self._server.settimeout(DEADLINE)
        self.address = self._server.getsockname()

    def accept(self) -> RawPeer:
        connection, _ = self._server.accept()
        return RawPeer(connection=connection)

    def close(self) -> None:
        self._server.close()


@pytest.fixture
def server() -> Iterator[Server]:
    server = Server()
    yield server
    server.close()


@pytest.mark.parametrize(
    ("module", "name"),
    [
        ("os", "system"),
        ("posix", "mkdir"),
        ("subprocess", "Popen"),
        ("builtins", "eval"),
        ("builtins", "object"),
        ("antigravity", "Error"),
        ("snakemq.rpc", "RpcServer"),
        ("snakemq.exceptions", "__loader__"),
        ("tests.security.test_incidents", "Attack"),
    ],
)
@pytest.mark.parametrize("serializer", [SAFE_PICKLE, JSON], ids=["pickle", "json"])
def test_cve_2021_23727_an_error_of_a_server_is_an_exception_and_nothing_else(
    server: Server, trap: Path, serializer: Any, module: str, name: str
) -> None:
    """Celery: a task's error was made again by looking up the name in it and calling that.

    Here an exception is one of the standard ones, of this package's or of those that the
    program has registered; of others a :class:`RemoteError` is made, and nothing is imported
    or called.
    """
    with Peer("alice", connect=server.address, pickler=serializer) as alice:
        mallory = server.accept()
        with mallory:
            mallory.greet("bob")
            assert alice.wait_connected("bob", DEADLINE)
            there: Any = alice.proxy("bob", "service")
            calling = InThread(there.get)
            request = mallory.message(REQUEST_PREFIX)
            req_id = serializer.loads(request)["req_id"]
            record = error_record(req_id, "MARK", "as if from there")
            if serializer is JSON:
                error = json.dumps({"class": f"{module}.{name}", "args": [str(trap)]}).encode()
                data = JSON.dumps(record).replace(b'"MARK"', error)
            else:
                text = str(trap).encode()
                argument = b"\x8c" + bytes([len(text)]) + text + b"\x85R"
                error = _pickle_of(module, name, call=False)[2:-1] + argument
                data = _without_frame(record).replace(_MARK, error)
            mallory.send(REPLY_PREFIX + data)
            error_here = calling.error()
    assert isinstance(error_here, (RemoteError, UnreadableReply)), repr(error_here)
    assert "antigravity" not in sys.modules


# libzmq, 2019.


@contextlib.contextmanager
def guarded_pair(**more: Any) -> Iterator[tuple[Peer, Peer]]:
    """Bob and alice, who know a secret."""
    options = {"authentication": SharedSecret(SECRET), **more}
    with connected_pair(bob=options, alice={"authentication": SharedSecret(SECRET)}) as pair:
        yield pair


def assert_alive(bob: Peer, alice: Peer) -> None:
    """Alice is still connected, and what she sends arrives."""
    alice.send("bob", b"still there")
    received = bob.receive(DEADLINE)
    assert received is not None
    assert (received.ident, received.data) == ("alice", b"still there")


def test_cve_2019_13132_the_handshake_comes_before_authentication_too() -> None:
    """libzmq: an overflow in the handshake, which everybody reaches, although CURVE was on.

    Here whatever is said before the proof ends at most the connection on which it is said;
    nonces and proofs have one size. (Much more of this is in ``tests/fuzz``.)
    """
    chance = random.Random(1)
    nonce = {Feature.CALLS: b"", Feature.AUTHENTICATION: bytes(32)}
    greeting = [
        FRAME_VERSION,
        encode_identification("alice2"),
        bytes([FrameType.FEATURES]) + encode_features(nonce),
    ]
    handshakes = [data[1:] for data in seeds_of("connection")]
    for size in (0, 1, 31, 33, 64, 4000):
        wrong = {**nonce, Feature.AUTHENTICATION: chance.randbytes(size)}
        features = bytes([FrameType.FEATURES]) + encode_features(wrong)
        proof = bytes([FrameType.PROOF]) + chance.randbytes(size)
        message = encode_message(Message(b"let me in"))
        handshakes.append(b"".join(map(encode_packet, [*greeting[:2], features, message])))
        handshakes.append(b"".join(map(encode_packet, [*greeting, proof, message])))
    handshakes += [chance.randbytes(chance.randrange(1, 300)) for _ in range(30)]
    with guarded_pair() as (bob, alice):
        for handshake in handshakes:
            with RawPeer(bob) as mallory, contextlib.suppress(ConnectionError):
                mallory.socket.sendall(handshake)
                mallory.socket.shutdown(socket.SHUT_WR)
                assert is_closed(mallory)
        assert bob.peers == ["alice"]
        assert_alive(bob, alice)


# libzmq, 2020.


@pytest.mark.slow
def test_cve_2020_15166_who_says_nothing_does_not_keep_others_out() -> None:
    """libzmq: a client that connects and says nothing starved those that authenticate.

    Here as many strangers as there may be say nothing, and more keep coming; a peer that knows
    the secret gets in, one that is in notices nothing, and who says nothing has to go when
    its time is over.
    """
    limits = ConnectionLimits(
        max_unidentified=8, max_unidentified_per_address=8, identification_timeout=2.0
    )
    with guarded_pair(connection_limits=limits) as (bob, alice), contextlib.ExitStack() as stack:
        silent = [stack.enter_context(RawPeer(bob)) for _ in range(8)]
        for raw in silent:
            raw.frame(FrameType.IDENTIFICATION)  # it has been accepted
        for _ in range(20):
            silent.append(stack.enter_context(RawPeer(bob)))
            silent[-1].frame(FrameType.IDENTIFICATION)
        with Peer("carol", connect=bob.addresses[0], authentication=SharedSecret(SECRET)) as carol:
            assert carol.wait_connected("bob", DEADLINE)
            carol.send("bob", b"got in")
            received = bob.receive(DEADLINE)
            assert received is not None
            assert received.ident == "carol"
        assert_alive(bob, alice)
        assert all(is_closed(raw) for raw in silent)
        wait_until(lambda: bob.peers == ["alice"])
        counters = bob.counters()
        assert counters["strangers_evicted"] >= 20
        assert counters["strangers_evicted"] + counters["identification_timeouts"] == len(silent)


# libzmq, 2020, without a number.


def test_libzmq_4_3_3_names_and_nesting_have_bounds_and_nothing_recurses(
    bob: Peer, mallory: RawPeer
) -> None:
    """libzmq: subscriptions of any length overflowed the stack.

    There are no subscriptions here. The nearest that there is: names of objects and methods
    of any length and depth, and data that is nested without end, in either serializer.
    """
    for name in ("x" * 1_000_000, "a." * 500_000, "." * 100_000, "service" + ".a" * 100_000):
        for reply in (mallory.call(name, "get"), mallory.call("service", name)):
            assert not reply["ok"]
            assert len(str(reply["exception"])) < 1000
    depth = 100_000
    record = _without_frame(call_record("service", "echo", ("MARK",), {}, b"r" * 16))
    for nested in (b"]" * depth + b"a" * (depth - 1), b")" + b"\x85" * depth):
        mallory.send(REQUEST_PREFIX + record.replace(_MARK, nested + b"\x94"))
        reply = mallory.reply()
        assert not reply["ok"]
        assert "nested deeper" in str(reply["exception"])
    assert mallory.call("service", "get")["return"] == 1
    for opening, closing in ((b"[", b"]"), (b'{"a":', b"}"), (b'{"$tuple":[', b"]}")):
        with nothing_happens(), pytest.raises(ValueError, match="nested deeper"):
            JSON.loads(opening * depth + b"1" + closing * depth)


# Syncthing, 2021.


def test_cve_2021_21404_a_length_is_never_negative(bob: Peer, service: Service) -> None:
    """Syncthing's relay: a negative length ended the process.

    There is no relay here. Wherever a length comes over the wire it is read without a sign,
    and compared with what there is or may be before anything is done with it: of packets,
    of features, of parts of records, and in pickles.
    """
    for length in (0x80000000, 0xFFFFFFFF, 0xFFFFFFFE):
        with RawPeer(bob) as mallory:
            mallory.greet()
            mallory.frame(FrameType.FEATURES)
            mallory.socket.sendall(length.to_bytes(4, "big") + b"\3")
            assert is_closed(mallory)
    with RawPeer(bob) as mallory:
        features = bytes([FrameType.FEATURES]) + b"\0\1\xff\xff"
        mallory.say(FRAME_VERSION, encode_identification("mallory"), features)
        assert is_closed(mallory)
    with RawPeer(bob) as mallory:
        mallory.greet("parts")
        for offset, total in ((2**64 - 1, 10), (2**63, 2**63), (0, 2**64 - 1), (0, 0), (5, 2)):
            mallory.send(encode_part(REQUEST_PARTS, bytes(16), offset, total, b"rpcreq"))
        for size in (b"\xff" * 4, b"\x00\x00\x00\x80"):
            for code in (b"X", b"B", b"T", b"\x8b", b"r", b"j"):
                mallory.send(REQUEST_PREFIX + b"\x80\x04]" + code + size + b"abc.")
        for size in (b"\xff" * 8, b"\x00" * 7 + b"\x80"):
            for code in (b"\x8d", b"\x8e", b"\x95", b"\x96"):
                mallory.send(REQUEST_PREFIX + b"\x80\x04" + code + size + b"abc.")
        assert mallory.call("service", "get")["return"] == service.value


# Barrier, 2021, and others after it.

MIB = 1 << 20


@pytest.mark.slow
def test_cve_2021_42076_a_header_reserves_no_memory_and_a_stranger_has_a_deadline() -> None:
    """Barrier, and others after it: the length in a header made the server reserve memory,
    before authentication, and for as long as the client liked.

    Here a stranger may announce a few KiB, and is closed at once if it announces more; memory
    grows with what is received and not with what is announced, before identification and
    after it; and who does not say who it is has to go when its time is over.
    """
    limits = ConnectionLimits(identification_timeout=2.0)
    with Peer("bob", listen=0, connection_limits=limits) as bob:
        with RawPeer(bob) as mallory:
            mallory.socket.sendall((64 * 1024).to_bytes(4, "big"))
            assert is_closed(mallory)
        assert bob.counters()["packets_too_large"] == 1
        with contextlib.ExitStack() as stack:
            tracemalloc.start()
            stack.callback(tracemalloc.stop)
            before = tracemalloc.get_traced_memory()[0]
            strangers = [stack.enter_context(RawPeer(bob)) for _ in range(100)]
            for raw in strangers:
                raw.socket.sendall((4096).to_bytes(4, "big") + b"\6")
            for number in range(100):
                raw = stack.enter_context(RawPeer(bob))
                raw.greet(f"known {number}")
                raw.socket.sendall((1 << 29).to_bytes(4, "big") + b"\3" + bytes(100))
            wait_until(lambda: len(bob.peers) == 100)
            # 50 GB were announced, and 20 KB were sent. The rest is what 200 connections take.
            assert tracemalloc.get_traced_memory()[0] - before < 8 * MIB
            assert all(is_closed(raw) for raw in strangers)
            assert bob.counters()["identification_timeouts"] == 100
            assert len(bob.peers) == 100


# Found while this was tested.


def test_a_proof_is_not_reflected() -> None:
    """Many protocols with a challenge and a response, since the eighties: the challenge of one
    connection was given back on another, and the one who had set it answered it itself.

    Here who knows no secret takes bob's own name, dials bob and is dialled by him, and gives
    to each connection what it got on the other. (In the simulated network, where it is known
    who does what first, it is in ``tests/fuzz/regressions/guarded``.)
    """
    server = Server()
    with Peer("bob", listen=0, connect=server.address, authentication=SharedSecret(SECRET)) as bob:
        with server.accept() as dialled, RawPeer(bob) as dialling:
            nonces = [
                decode_features(raw.frame(FrameType.FEATURES))[Feature.AUTHENTICATION]
                for raw in (dialled, dialling)
            ]
            for raw, nonce in zip((dialled, dialling), reversed(nonces), strict=True):
                features = encode_features({Feature.CALLS: b"", Feature.AUTHENTICATION: nonce})
                raw.greet("bob")
                raw.say(bytes([FrameType.FEATURES]) + features)
            with contextlib.suppress(EOFError, ConnectionError):
                proof = dialled.frame(FrameType.PROOF)
                dialling.say(bytes([FrameType.PROOF]) + proof, encode_message(Message(b"evil")))
            assert is_closed(dialling)
        assert bob.peers == []
        assert bob.counters()["authentications_failed"] >= 1
    server.close()
