"""Proxies of nested names, and proxies that have the type of an interface."""

from __future__ import annotations

import abc
import importlib.util
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

import pytest

from snakemq._core.rpc_records import value_record
from snakemq.rpc import RemoteMethod, RpcInstProxy, future
from tests.helpers import DEADLINE
from tests.layers.rpc_fakes import InThread, Side, request

T = TypeVar("T")

ROOT = Path(__file__).parents[2]


@pytest.fixture
def side() -> Iterator[Side]:
    side = Side()
    side.connect()
    yield side
    side.client.close()


def called(side: Side, method: Any) -> tuple[str, str]:
    """Object and method in the request that a method sends."""
    method.signal(10)()
    record = request(side.messaging.sent[-1])
    return record["object"], record["method"]


# Nested names.


def test_a_nested_name_is_the_name_of_an_object(side: Side) -> None:
    assert called(side, side.proxy.read) == ("obj", "read")
    assert called(side, side.proxy.a.read) == ("obj.a", "read")
    assert called(side, side.proxy.a.b.read) == ("obj.a.b", "read")


def test_without_a_name_there_are_functions_and_all_objects(side: Side) -> None:
    proxy: Any = side.client.get_proxy("bob")
    assert called(side, proxy.add) == ("", "add")
    assert called(side, proxy.math.add) == ("math", "add")
    assert called(side, proxy.math.complex.add) == ("math.complex", "add")


def test_nested_methods_are_cached_like_others(side: Side) -> None:
    assert side.proxy.a.read is side.proxy.a.read
    assert side.proxy.a.b.read is side.proxy.a.b.read
    side.proxy.a.read.set_timeout(5)
    assert side.proxy.a.read.call_timeout == 5
    assert side.proxy.a.call_timeout is None


def test_a_method_may_be_a_namespace_as_well(side: Side) -> None:
    assert called(side, side.proxy.a) == ("obj", "a")
    assert called(side, side.proxy.a.b) == ("obj.a", "b")
    assert called(side, side.proxy.a) == ("obj", "a")


def test_names_that_a_method_uses_itself_are_reached_by_the_proxy(side: Side) -> None:
    assert called(side, side.client.get_proxy("bob", "obj.a.future").read) == (
        "obj.a.future",
        "read",
    )
    assert called(side, side.client.get_proxy("bob", "obj.a").future) == ("obj.a", "future")


@pytest.mark.parametrize("name", ["__len__", "__wrapped__", "_repr_html_", "_private"])
def test_what_is_never_served_is_no_nested_name(side: Side, name: str) -> None:
    assert not hasattr(side.proxy.a, name)


def test_many_threads_get_the_same_nested_method(side: Side) -> None:
    threads = [InThread(lambda: [side.proxy.a.b.read for _ in range(50)]) for _ in range(8)]
    methods = {id(method) for thread in threads for method in thread.result()}
    assert methods == {id(side.proxy.a.b.read)}


# Signals.


@pytest.mark.parametrize(("ttl", "sent"), [(0, 0), (2.5, 2.5), (None, None)])
def test_a_signal_for_one_call(side: Side, ttl: float | None, sent: float | None) -> None:
    assert side.proxy.note.signal(ttl)("x", y=1) is None
    (message,) = side.messaging.sent
    assert message.message.ttl == sent
    assert request(message) == {
        "command": "signal",
        "object": "obj",
        "method": "note",
        "args": ("x",),
        "kwargs": {"y": 1},
    }
    assert side.proxy.note.signal_timeout is None
    side.proxy.note.signal()()
    assert side.messaging.sent[-1].message.ttl == 0


# Interfaces.


class Math(Protocol):
    def add(self, a: int, b: int) -> int: ...


class Store(Generic[T]):
    def get(self, key: str) -> T:
        raise NotImplementedError


class Thermometer(Protocol):
    math: Math
    store: Store[int]
    calibrate: Callable[[float], None]
    reset: Callable  # type: ignore[type-arg]

    def read(self, room: str) -> float: ...

    def _private(self) -> None: ...


class Abstract(abc.ABC):
    @abc.abstractmethod
    def read(self, room: str) -> float: ...


class Ordinary(Abstract):
    def __init__(self, port: int) -> None:
        self.port = port

    def read(self, room: str) -> float:
        return 0.0

    def more(self) -> None: ...


@pytest.mark.parametrize("interface", [Thermometer, Abstract, Ordinary])
def test_any_class_can_be_an_interface(side: Side, interface: Any) -> None:
    proxy = side.client.get_proxy("bob", "obj", interface)
    assert type(proxy) is RpcInstProxy
    assert called(side, proxy.read) == ("obj", "read")
    assert proxy.read is proxy.read
    call = InThread(proxy.read, "kitchen")
    side.reply(value_record(side.requests(1)[0]["req_id"], 21.5))
    assert call.result() == 21.5


def test_a_name_that_the_interface_has_not(side: Side) -> None:
    proxy: Any = side.client.get_proxy("bob", "obj", Thermometer)
    with pytest.raises(AttributeError, match="Thermometer has no public 'raed'"):
        proxy.raed("kitchen")
    with pytest.raises(AttributeError, match="_private"):
        proxy._private()
    assert not side.messaging.sent


def test_inherited_names_belong_to_the_interface(side: Side) -> None:
    proxy = side.client.get_proxy("bob", "obj", Ordinary)
    assert called(side, proxy.more) == ("obj", "more")


def test_annotations_are_namespaces(side: Side) -> None:
    proxy: Any = side.client.get_proxy("bob", "obj", Thermometer, timeout=3)
    assert type(proxy.math) is RpcInstProxy
    assert proxy.math is proxy.math
    assert called(side, proxy.math.add) == ("obj.math", "add")
    assert proxy.math.add.call_timeout == 3
    with pytest.raises(AttributeError, match="Math has no public 'ad'"):
        _ = proxy.math.ad
    # What can be called is a method, however it is declared.
    assert isinstance(proxy.calibrate, RemoteMethod)
    assert isinstance(proxy.reset, RemoteMethod)
    assert called(side, proxy.store.get) == ("obj.store", "get")
    with pytest.raises(AttributeError, match="Store has no public 'put'"):
        _ = proxy.store.put


def test_annotations_that_are_not_known_at_run_time(side: Side) -> None:
    class Interface:
        math: NotHere  # type: ignore[name-defined] # noqa: F821

    proxy: Any = side.client.get_proxy("bob", "obj", Interface)
    assert called(side, proxy.math.add) == ("obj.math", "add")
    with pytest.raises(AttributeError):
        _ = proxy.other


def test_an_interface_is_a_class(side: Side) -> None:
    with pytest.raises(TypeError, match="an interface is a class"):
        side.client.get_proxy("bob", "obj", "Thermometer")  # type: ignore[call-overload]


PROGRAM = '''\
"""Right and wrong uses of typed proxies; a line with an error says which."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from concurrent.futures import Future
from typing import Protocol

from snakemq.rpc import RpcClient, future


class Math(Protocol):
    def add(self, a: int, b: int) -> int: ...


class Thermometer(Protocol):
    math: Math

    def read(self, room: str, *, unit: str = "C") -> float: ...
    def history(self) -> Iterator[float]: ...


class Abstract(ABC):
    @abstractmethod
    def read(self, room: str) -> float: ...


class Ordinary:
    def __init__(self, port: int) -> None: ...
    def read(self, room: str) -> float:
        return 0.0


def use(client: RpcClient) -> None:
    thermometer = client.get_proxy("bob", "thermometer", Thermometer, timeout=5)
    value: float = thermometer.read("kitchen", unit="F")
    total: int = thermometer.math.add(1, 2)
    for item in thermometer.history():
        value += item
    value = client.get_proxy("bob", "thermometer", Abstract).read("kitchen")
    value = client.get_proxy("bob", "thermometer", Ordinary, wait_for_peer=False).read("kitchen")
    reading: Future[float] = future(thermometer.read, "kitchen", unit="F")
    history: Future[Iterator[float]] = future(thermometer.history)
    untyped = client.get_proxy("bob", "thermometer", wait_for_peer=False)
    untyped.anything.nested(1, 2, three=3)
    client.get_proxy("bob").function.with_options(timeout=None).future(1).cancel()
    untyped.read.callback(print)("kitchen").result(1)

    thermometer.raed("kitchen")  # error: attr-defined
    thermometer.read(5)  # error: arg-type
    thermometer.read("kitchen", room="hall")  # error: misc
    text: str = thermometer.read("kitchen")  # error: assignment
    thermometer.math.ad(1, 2)  # error: attr-defined
    future(thermometer.read, 5)  # error: arg-type
    number: Future[int] = future(thermometer.read, "kitchen")  # error: arg-type
    client.get_proxy("bob", "thermometer", timeout="5")  # error: call-overload
'''


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("mypy") is None, reason="mypy is not installed")
def test_mypy_tells_right_uses_from_wrong_ones(tmp_path: Path) -> None:
    program = tmp_path / "uses.py"
    program.write_text(PROGRAM, "utf-8")
    result = subprocess.run(
        [
            sys.executable,
            "-m",
            "mypy",
            "--strict",
            "--no-error-summary",
            "--follow-imports=silent",
            f"--cache-dir={tmp_path / 'cache'}",
            str(program),
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=DEADLINE * 6,
        check=False,
    )
    found = {
        (int(line), code)
        for line, code in re.findall(
            r"uses\.py:(\d+): error: .*\[([a-z-]+)\]$", result.stdout, re.M
        )
    }
    expected = {
        (number, match[1])
        for number, line in enumerate(PROGRAM.splitlines(), 1)
        if (match := re.search(r"# error: ([a-z-]+)$", line))
    }
    assert len(expected) == 8
    assert found == expected, result.stdout + result.stderr


def test_future_is_for_methods_of_proxies(side: Side) -> None:
    call = future(side.client.get_proxy("bob", "obj", Ordinary).read, "kitchen")
    side.reply(value_record(side.requests(1)[0]["req_id"], 21.5))
    assert call.result() == 21.5
