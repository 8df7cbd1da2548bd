"""A caller in JavaScript of 150 lines, and a server in Python, each in its process."""

from __future__ import annotations

import json
import shutil
import subprocess
import textwrap
from collections.abc import Iterator
from typing import Any

import pytest

from snakemq import Peer
from snakemq.messaging import ReceiveHook
from snakemq.rpc import RpcServer
from snakemq.rpc.json_serializer import JSON
from snakemq.rpc.safe_pickle import SAFE_PICKLE
from tests.helpers import DEADLINE
from tests.integration.command_line import ROOT

NODE = shutil.which("node")
CLIENT = ROOT / "examples" / "rpc_client.js"

pytestmark = pytest.mark.skipif(NODE is None, reason="there is no node here")


class Calculator:
    def add(self, a: int, b: int) -> int:
        return a + b

    def divide(self, a: int, b: int) -> float:
        return a / b

    def echo(self, *args: Any) -> tuple[Any, ...]:
        return args

    def types(self, *args: Any) -> list[str]:
        return [f"{type(arg).__name__} {arg!r}" for arg in args]

    def keywords(self, *, name: str) -> str:
        return f"hello {name}"


@pytest.fixture
def port() -> Iterator[int]:
    with Peer("bob", listen=0) as bob:
        server = RpcServer(ReceiveHook(bob.messaging), JSON)
        server.register_object(Calculator(), "calc")
        yield bob.addresses[0][1]
        server.close()


def node(*args: str) -> subprocess.CompletedProcess[str]:
    assert NODE is not None
    return subprocess.run(
        [NODE, *args], capture_output=True, text=True, timeout=2 * DEADLINE, check=False
    )


def run(port: int, program: str) -> Any:
    """What a function in JavaScript returns that gets a client."""
    done = node(
        "-e",
        f"const {{ Client, RemoteError }} = require({json.dumps(str(CLIENT))});\n"
        "(async () => {\n"
        f'  const client = await Client.connect({port}, "127.0.0.1", "javascript");\n'
        f"  const value = await (async () => {{ {textwrap.dedent(program)} }})();\n"
        "  console.log(JSON.stringify(value));\n"
        "  client.close();\n"
        "})();",
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_it_is_short() -> None:
    assert len(CLIENT.read_text("utf-8").splitlines()) <= 150


def test_the_demonstration(port: int) -> None:
    """A result, an exception of the method with its traceback, an unknown method."""
    done = node(str(CLIENT), str(port))
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert done.stdout.startswith("2 + 40 = 42\n")
    assert "builtins.ZeroDivisionError: division by zero\nTraceback" in done.stdout
    assert "in divide" in done.stdout
    assert "snakemq.rpc.NoMethodError: " in done.stdout


def test_values_go_there_and_back(port: int) -> None:
    value = run(
        port,
        """
        const values = [null, true, 1.5, "č😀", [1, [2]], { a: { b: 1 } }, { $a: 1 }];
        const [same, bytes, big, set, map, date] = await client.call("calc", "echo", [
          values, Buffer.from([0, 255]), 2n ** 70n, new Set([1]), new Map([[1, 2]]), new Date(5)]);
        return [JSON.stringify(same.slice(0, 6)) === JSON.stringify(values.slice(0, 6)),
          same[6] instanceof Map, bytes.equals(Buffer.from([0, 255])), big === 2n ** 70n,
          set.has(1), map.get(1), date.getTime()];
        """,
    )
    assert value == [True, True, True, True, True, 2, 5]


def test_what_python_makes_of_values(port: int) -> None:
    value = run(
        port,
        """
        return await client.call("calc", "types", [
          Buffer.from("x"), 5, 0.5, NaN, -Infinity, new Set([1]), { $a: 1 }, 2n ** 70n]);
        """,
    )
    assert value == [
        "bytes b'x'", "int 5", "float 0.5", "float nan", "float -inf", "set {1}",
        "dict {'$a': 1}", f"int {2**70}",
    ]  # fmt: skip


def test_keywords_and_errors(port: int) -> None:
    value = run(
        port,
        """
        const failed = async (...args) => {
          try { return await client.call(...args); }
          catch (error) { return [error instanceof RemoteError, error.name, error.args]; }
        };
        return [await client.call("calc", "keywords", [], { name: "node" }),
          await failed("calc", "divide", [1, 0]), (await failed("nothing", "at all"))[1],
          (await failed("calc", "_private"))[1]];
        """,
    )
    assert value == [
        "hello node",
        [True, "builtins.ZeroDivisionError", ["division by zero"]],
        "snakemq.rpc.NoInstanceError",
        "snakemq.rpc.NoMethodError",
    ]


def test_many_calls_at_a_time(port: int) -> None:
    value = run(
        port,
        """
        const calls = Array.from({ length: 500 }, (_, n) => client.call("calc", "add", [n, n]));
        return (await Promise.all(calls)).every((sum, n) => sum === 2 * n);
        """,
    )
    assert value is True


def test_a_large_value(port: int) -> None:
    assert run(
        port,
        """
        const text = "x".repeat(300000);
        return (await client.call("calc", "echo", [text]))[0] === text;
        """,
    )


def test_the_caller_is_told_when_the_server_is_gone(port: int) -> None:
    value = run(
        port,
        """
        const call = client.call("calc", "add", [1, 2]);
        client.socket.destroy();
        return await call.catch((error) => error.message);
        """,
    )
    assert value == "the connection is closed"


def test_a_time_is_over() -> None:
    with Peer("bob", listen=0) as bob:  # and serves nothing
        value = run(
            bob.addresses[0][1],
            'return await client.call("a", "b", [], {}, 0.05).catch((error) => error.message);',
        )
    assert value == "no reply within 0.05 seconds"


def test_json_at_a_server_that_reads_pickle() -> None:
    """Refused, whatever it looks like: what is read is for the receiver to say."""
    with Peer("bob", listen=0) as bob:
        server = RpcServer(ReceiveHook(bob.messaging), SAFE_PICKLE)
        server.register_object(Calculator(), "calc")
        value = run(
            bob.addresses[0][1],
            """
            const call = client.call("calc", "add", [1, 2], {}, 0.5);
            return await call.catch((error) => error.message);
            """,
        )
        server.close()
    # As the server answers in its own way, or can't know what to answer to.
    assert value in ("no JSON: the server has another pickler", "no reply within 0.5 seconds")
