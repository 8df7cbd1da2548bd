"""What the search begins with: ordinary things, and known ways to misbehave.

What has been found since is in ``corpus``.
"""

from __future__ import annotations

import collections
import datetime
import decimal
import fractions
import pickle
import types
import uuid
from collections.abc import Iterator

from snakemq._core.features import DeliveryFeature, Feature, encode_features
from snakemq._core.frames import (
    FRAME_INCOMPATIBLE,
    FRAME_PING,
    FRAME_PONG,
    FRAME_VERSION,
    FrameType,
    Sequence,
    encode_acknowledgement,
    encode_identification,
    encode_message,
    encode_sequence,
)
from snakemq._core.framing import encode_packet
from snakemq._core.rpc_parts import REQUEST_PARTS, encode_part
from snakemq._core.rpc_records import (
    call_record,
    cancel_record,
    describe_record,
    error_record,
    items_record,
    more_record,
    signal_record,
    value_record,
)
from snakemq.message import Message
from snakemq.rpc import Error, NoMethodError
from snakemq.rpc.json_serializer import JSON
from snakemq.rpc.safe_pickle import SAFE_PICKLE

__all__ = ["seeds_of"]

_REQ_ID = bytes(range(16))

_FEATURES = encode_features(
    {Feature.DELIVERY: DeliveryFeature(8192, 1 << 24).encode(), Feature.CALLS: b""}
)

_FRAMES = [
    FRAME_VERSION,
    b"\0\0\0\0\2",
    FRAME_INCOMPATIBLE,
    encode_identification("stranger"),
    encode_identification("x" * 51),
    b"\2\xff\xfe\n",
    bytes([FrameType.FEATURES]) + _FEATURES,
    encode_message(Message(b"data", 5, 1, _REQ_ID)),
    encode_message(Message(b"", None, 0xFFFFFFFF, _REQ_ID)),
    b"\3short",
    FRAME_PING,
    FRAME_PONG,
    encode_acknowledgement(0),
    encode_acknowledgement(2**64 - 1),
    encode_sequence(Sequence(b"strreams", 1, 0, 0)),
    encode_sequence(Sequence(b"strreams", 2**64 - 1, 2**32 - 1, 2**32 - 1)),
    b"\xffof the future",
    b"",
]

_GREETING = [_FRAMES[0], _FRAMES[3], _FRAMES[6]]

_STREAMS = [
    _GREETING,
    _GREETING[:2],  # as 1.6
    [*_GREETING, encode_sequence(Sequence(b"strreams", 0, 0, 0)), _FRAMES[7], _FRAMES[7]],
    [*_GREETING[:2], _FRAMES[7], FRAME_PING, _FRAMES[7]],
    [_FRAMES[7]],  # a message before anything else
    [_FRAMES[0], encode_identification("alice")],
    [_FRAMES[0], encode_identification("")],
    [_FRAMES[1]],
    [*_GREETING, FRAME_PING, FRAME_PONG, encode_acknowledgement(1)],
    [FRAME_PING] * 5,
    _FRAMES,
]

_VALUES: list[object] = [
    None,
    [True, False, 0, 1, -1, 255, 65536, -(2**31), 2**70, 10**300],
    [0.5, float("inf"), 1j, "text", "\N{SNOWMAN}", "\ud800", b"bytes", bytearray(b"array")],
    {"a": [1, (2, (3,), ())], "b": {1, 2}, "c": frozenset({(1, 2)}), (1, "k"): {}},
    [..., NotImplemented],
    [datetime.date(2024, 2, 29), datetime.time(1, 2, 3, 4), datetime.timedelta(1, 2, 3)],
    [datetime.datetime(2024, 1, 1, tzinfo=datetime.timezone.utc)],
    [decimal.Decimal("1.5"), fractions.Fraction(1, 3), uuid.UUID(int=5)],
    [collections.OrderedDict(a=1), collections.defaultdict(list, a=[1]), collections.Counter("a")],
    [collections.deque([1], 5), types.SimpleNamespace(a=1)],
    [ValueError("x", 1), KeyError("k"), OSError(2, "no"), Error("e"), NoMethodError("m")],
    [UnicodeDecodeError("ascii", b"x", 0, 1, "why"), ImportError("no", name="n", path="p")],
]

#: Attacks on readers of pickles, most of them known for long.
_ATTACKS = [
    b"cos\nsystem\n(S'true'\ntR.",
    b"\x80\x04\x8c\x05posix\x8c\x06system\x93\x8c\x04true\x85R.",
    b"\x80\x04\x8c\x08builtins\x8c\x04eval\x93\x8c\x011\x85R.",
    b"\x80\x04\x8c\x08builtins\x8c\x07getattr\x93.",
    b"\x80\x04\x8c\x07snakemq\x8c\x0dlink.socket.x\x93.",
    b"(S'true'\nios\nsystem\n.",
    b"\x80\x02c__builtin__\nobject\n)\x81}b.",
    b"\x80\x04\x96\xff\xff\xff\xff\xff\xff\xff\x7f.",
    b"\x80\x02]r\xff\xff\xff\x7f.",
    b"\x80\x02]j\xff\xff\xff\x7f.",
    b"\x80\x04" + b"(" * 300 + b"l" * 300 + b".",
    b"\x80\x04)" + b"\x85" * 300 + b".",
    b"\x80\x04K\x01\x94" + b"h\x00h\x00\x86\x94" * 3 + b"}h\x00K\x01s.",
    b"\x80\x02\x82\x01.",
    b"P1\n.",
    b"\x80\x04K\x01Q.",
    b"\x80\x05\x97.",
    b"\x80\x04\x8a\xff" + b"\xff" * 255 + b".",
    b"\x80\x04]\x94h\x00a.",
    b"I01\n.",
    b"F1.5\n.",
    b"L" + b"9" * 300 + b"L\n.",
    b"Vtext\\u2603\np0\n.",
    b"(dp0\nVa\np1\nS'b'\np2\nsS'e'\np3\ncexceptions\nValueError\np4\n(S'x'\np5\ntp6\nRp7\ns.",
]

_JSON = [
    b"null",
    b'{"$bytes":"AAEC"}',
    b'{"$tuple":[1,{"$set":[1,2]},{"$frozenset":[]}]}',
    b'{"$dict":[[1,2],[{"$tuple":[1]},3]]}',
    b'{"$int":"12345678901234567890"}',
    b'{"$float":"nan"}',
    b'{"$complex":[1,{"$float":"inf"}]}',
    b'{"$decimal":"1e999999999"}',
    b'{"$uuid":"12345678123456781234567812345678"}',
    b'{"$datetime":"2024-01-01T00:00:00Z"}',
    b'{"$timedelta":[1,2,3]}',
    b'{"$exception":{"class":"builtins.ValueError","args":["x"]}}',
    b'{"$exception":{"class":"os.system","args":["true"]}}',
    b'{"exception":{"class":"far.Error","args":[1]},"ok":false,"req_id":"00"}',
    b'{"$nothing":1}',
    b"[" * 300 + b"]" * 300,
    b"1" * 5000,
    b'"\\ud800"',
    b"NaN",
    b"\x80\x04N.",
    b"{",
    b'{"a":1,"a":2}',
]

_RECORDS = [
    call_record("obj", "method", (1, "a"), {"k": [2]}, _REQ_ID, timeout=5.0, window=64),
    call_record("obj", "method", (), {}, _REQ_ID, headers={"h": 1}),
    signal_record("obj", "method", (), {}),
    cancel_record(_REQ_ID),
    more_record(_REQ_ID, 10, 64),
    describe_record(_REQ_ID),
    value_record(_REQ_ID, {"a": [1]}),
    items_record(_REQ_ID, 3, [1, 2], end=True),
    error_record(_REQ_ID, ValueError("x"), "Traceback"),
]


def _stream(frames: list[bytes]) -> bytes:
    return b"".join(map(encode_packet, frames))


def _blocks(frames: list[bytes]) -> bytes:
    return b"".join(len(frame).to_bytes(2, "big") + frame for frame in frames)


def _of_connection() -> Iterator[bytes]:
    for frames in _STREAMS:
        yield b"\0" + _stream(frames)
        yield b"\3\1\5\x40" + _stream(frames)
    yield b"\0\xff\xff\xff\xff"
    yield b"\0\x80\0\0\0" + bytes(50)
    yield b"\0" + _stream(_GREETING) + b"\0\0\1\0cut off"
    yield b"\0\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"  # TLS
    yield b"\0GET / HTTP/1.1\r\n\r\n"
    yield b"\0SSH-2.0-OpenSSH_9.6\r\n"


def _of_conversation() -> Iterator[bytes]:
    greet = b"\0\0\x05"
    announce = b"\3\1\0\0\0\0"
    message = b"\2\xff\1\5hello"
    yield greet
    yield greet + announce + message + message + b"\4\1"
    yield b"\0\0\0" + message + b"\5\3\6\x40"
    yield b"\0\1\5" + message
    yield greet + announce + message + b"\7" + greet + b"\3\1\0\0\0\1" + message
    yield greet + b"\x09\0\5" * 8 + b"\4\3\4\2"
    yield greet + b"\3\1\1" + b"\xff" * 8 + b"\xff\xff" + message * 3
    yield greet + b"\x08\7\xff\xff\xff\xff123" + b"\6\xff"
    yield b"\1\5\2hello" + b"\1\x09\3" + bytes(9)


def _of_guarded() -> Iterator[bytes]:
    # Each step says on which connection.
    greet, proof, message = b"\0\0\7", b"\x0b\0\0", b"\2\xff\1\5hello"
    yield greet + b"\0" + message + b"\0"
    yield b"\0\1\7\0" + proof + b"\0" + message + b"\0"
    yield b"\x0c" + greet + b"\0" + proof + b"\0" + message + b"\0"
    yield b"\x0a\0\0\0" + b"\x0c\x0a\0\0\1\x0a\x20\x40\0"
    yield b"\x01\x05\2alice\0" + message + b"\0"


def _of_calls() -> Iterator[bytes]:
    def call(method: int, options: int = 0, req_id: int = 1, how: int = 0) -> bytes:
        rest = b"\5" + b"\x28" * bool(options & 2) + b"\5" * bool(options & 4)
        return bytes([1, 0, req_id, 0, method, options]) + rest + bytes([how])

    cancel, describe, more = b"\2\0\1\0\0", b"\2\0\1\1\0", b"\3\0\1\0\5\5\0"
    asking, arrived, gone, later = b"\4\0\0", b"\7\0\0", b"\6\0\0", b"\x08\0\0\x14"
    yield b"".join(call(method) for method in range(10))
    yield call(0) + call(0) + arrived + call(0) + gone + gone + call(0)
    yield call(2, 4) + more + arrived + more + cancel
    yield call(2, 4) + gone + gone + more + later
    yield call(3, 1) + call(0, 1) + call(0, 0xC2) + describe + call(0, how=1)
    yield b"".join(asking + b"\5\0\0\0" + bytes([kind, 0, 0, 0]) for kind in range(6))
    yield asking + gone + gone + arrived + later + b"\5\0\0\0\0\7\0"
    yield asking + b"\5\0\0\0\1\1" + asking + b"\5\0\0\1\1\2\0\x09\0"
    yield b"\0\0\0\2\0\x26" + bytes(38) + b"\0\0\0\3\0\x13" + bytes(19) + b"\x09\1\1\0\1x"


def seeds_of(target: str) -> list[bytes]:
    """What the search for this target begins with.

    :param target: its name
    """
    return list(_SEEDS[target]())


_SEEDS = {
    "packets": lambda: (
        prefix + _stream(frames)
        for frames in _STREAMS
        for prefix in (b"\3\0", b"\2\1\1", b"\0\2\3\0")
    ),
    "frames": lambda: _FRAMES,
    "features": lambda: [_FEATURES, _FEATURES + b"\0\7\0\3abc", _FEATURES[:-1], b"\0" * 4097],
    "session": lambda: [
        prefix + _blocks(frames) for frames in _STREAMS for prefix in (b"\0", b"\1")
    ],
    "connection": _of_connection,
    "conversation": _of_conversation,
    "guarded": _of_guarded,
    "proofs": lambda: [
        b"",
        b"\1" + _blocks([b"alice", b"bob", b"n" * 32, b"m" * 32, b""]) * 2 + bytes(32),
        b"\1" + _blocks([b"a", b"bc", b"d", b"", b"e"]) + b"\1" + _blocks([b"ab", b"c", b"d"]),
        b"\0" + _blocks([b"", b"", b"", b"", b""]) + b"\1" + _blocks([b""] * 5) + b"\0\1",
    ],
    "pickles": lambda: [
        *(pickle.dumps(value, protocol) for value in _VALUES for protocol in (0, 2, 4, 5)),
        *(SAFE_PICKLE.dumps(record) for record in _RECORDS),
        *_ATTACKS,
    ],
    "json": lambda: [*_JSON, *map(JSON.dumps, _RECORDS)],
    "records": lambda: [
        *(b"\0" + JSON.dumps(record) for record in _RECORDS),
        *(b"\1" + SAFE_PICKLE.dumps(record) for record in _RECORDS),
        *(b"\2" + bytes([1, number]) * 16 for number in range(0, 45, 3)),
    ],
    "peeks": lambda: [
        b"\3obj\6method",
        b"\0\0",
        b"\xff" + b"x" * 255 + b"\xff" + b"y" * 255,
        *(write(record) for record in _RECORDS for write in (JSON.dumps, SAFE_PICKLE.dumps)),
    ],
    "parts": lambda: [
        b"\0\1\0\0\0\x0crpcreq\0\1\2\3\4\5",
        b"\0\3\0\0\0\x0c\6rpcreq\3\0\6\0\x0c\6others",
        b"\0\x10" + _blocks([encode_part(REQUEST_PARTS, _REQ_ID, 0, 7, b"rpcreq!")[6:]]),
        b"\1\x10\3\0\x40\0\x20\0\1",
        b"\1\x10\3\0\x40\0\x20\0\1\0\1\0\2\0\0",
    ],
    "calls": _of_calls,
    "log_text": lambda: [b"text", b"\n\r\x00\x1b[31m", b"\xff" * 300, "\N{SNOWMAN}".encode() * 99],
}
