"""Names and what is served under them: registering, finding, marking, describing."""

from __future__ import annotations

import functools
import json
import math
import pickle
import types
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import pytest

from snakemq.rpc import NoInstanceError, NoMethodError
from snakemq.rpc._arguments import check_arguments, raised_by_call, wrong_arguments
from snakemq.rpc._registry import Registry
from snakemq.rpc.marks import (
    METHOD_RPC_AS_SIGNAL_ATTR,
    Marks,
    as_signal,
    at_most_once,
    marks_of,
    quick,
    transactional,
)


class Calculator:
    """Counts.

    With fingers.
    """

    constant = 5

    def __init__(self) -> None:
        self.held: Callable[[], int] = lambda: 7
        self._hidden = lambda: 8

    def add(self, a: int, b: int = 1) -> int:
        """Both of them."""
        return a + b

    @staticmethod
    def static(a: int) -> int:
        return a

    @classmethod
    def of_class(cls) -> str:
        return cls.__name__

    @property
    def broken(self) -> Any:
        raise LookupError("of the property")

    @as_signal
    def shout(self) -> None: ...

    @quick
    def peek(self) -> int:
        return 1

    @at_most_once
    def pay(self) -> None: ...

    def numbers(self) -> Iterator[int]:
        yield 1

    async def later(self) -> int:
        return 2

    def _private(self) -> None: ...


def add(a: int, b: int) -> int:
    """The sum."""
    return a + b


@pytest.fixture
def registry() -> Registry:
    registry = Registry()
    registry.register_object(Calculator(), "calc")
    return registry


class Found(NamedTuple):
    func: Callable[..., Any]
    marks: Marks


def resolve(registry: Registry, object_name: Any, method: str) -> Found:
    return Found(*registry.resolve(object_name, method))


def no_method(registry: Registry, object_name: Any, method: str) -> str:
    with pytest.raises(NoMethodError) as caught:
        resolve(registry, object_name, method)
    return str(caught.value)


def no_instance(registry: Registry, object_name: Any, method: str = "add") -> str:
    with pytest.raises(NoInstanceError) as caught:
        resolve(registry, object_name, method)
    return str(caught.value)


# Marks.

MARKS: list[Callable[[Any], Any]] = [as_signal, quick, at_most_once, transactional]


@pytest.mark.parametrize("index", range(4))
def test_a_mark_on_all_kinds_of_methods(index: int) -> None:
    mark = MARKS[index]
    only = tuple(number == index for number in range(4))

    class Marked:
        @mark
        def plain(self) -> None: ...

        @mark
        @staticmethod
        def static() -> None: ...

        @staticmethod
        @mark
        def static_inside() -> None: ...

        @mark
        @classmethod
        def of_class(cls) -> None: ...

        @classmethod
        @mark
        def of_class_inside(cls) -> None: ...

        def later(self) -> None: ...

        def unmarked(self) -> None: ...

    marked = Marked()
    method = marked.later
    assert mark(method) is method
    for name in ("plain", "static", "static_inside", "of_class", "of_class_inside", "later"):
        assert marks_of(getattr(marked, name)) == only, name
        assert marks_of(getattr(Marked, name)) == only, name
    assert marks_of(marked.unmarked) == (False, False, False, False)
    partial = mark(functools.partial(add, 1))
    assert marks_of(partial) == only


def test_marks_go_together() -> None:
    @as_signal
    @quick
    @at_most_once
    def all_of_them() -> None: ...

    assert marks_of(all_of_them) == (True, True, True, False)

    @functools.wraps(all_of_them)
    def wrapper() -> None: ...

    assert marks_of(wrapper) == (True, True, True, False)


def test_the_mark_of_a_signal_is_the_one_of_1_6() -> None:
    def method() -> None: ...

    setattr(method, "__snakemw_rpc_as_signal", True)  # an assignment would be mangled
    assert METHOD_RPC_AS_SIGNAL_ATTR == "__snakemw_rpc_as_signal"
    assert marks_of(method) == (True, False, False, False)


def test_what_has_all_attributes_has_no_marks() -> None:
    class Anything:
        def __getattr__(self, name: str) -> Any:
            return lambda: name

        def __call__(self) -> None: ...

    assert marks_of(Anything()) == (False, False, False, False)


def test_a_function_in_c_can_not_be_marked() -> None:
    assert marks_of(len) == (False, False, False, False)
    for mark in MARKS:
        with pytest.raises(TypeError, match=r"len>.* can't be marked: put a function"):
            mark(len)


def test_a_bound_function_in_c_has_no_marks(registry: Registry) -> None:
    calculator = registry.instances["calc"]
    calculator.size = types.MethodType(len, [1, 2])
    assert not any(marks_of(calculator.size))
    assert resolve(registry, "calc", "size").func() == 2


# Objects.


def test_a_method(registry: Registry) -> None:
    served = resolve(registry, "calc", "add")
    assert served.func(1, 2) == 3
    assert served.marks == (False, False, False, False)


def test_methods_of_all_kinds(registry: Registry) -> None:
    assert resolve(registry, "calc", "static").func(3) == 3
    assert resolve(registry, "calc", "of_class").func() == "Calculator"
    assert resolve(registry, "calc", "held").func() == 7
    registry.register_object(json, "json")
    assert resolve(registry, "json", "dumps").func([1]) == "[1]"


def test_methods_that_are_made_when_they_are_asked_for(registry: Registry) -> None:
    class Dynamic:
        asked: list[str] = []  # noqa: RUF012

        def __getattr__(self, name: str) -> Any:
            self.asked.append(name)
            return lambda: name.upper()

    registry.register_object(Dynamic(), "dynamic")
    assert resolve(registry, "dynamic", "anything").func() == "ANYTHING"
    assert Dynamic.asked == ["anything"]
    for private in ("_hidden", "a._hidden", "__class__"):
        no_method(registry, "dynamic", private)
    assert Dynamic.asked == ["anything"]


def test_marks_are_found(registry: Registry) -> None:
    assert resolve(registry, "calc", "shout").marks.is_signal
    assert resolve(registry, "calc", "peek").marks.is_quick
    assert resolve(registry, "calc", "pay").marks.at_most_once


def test_the_dictionary_of_objects_is_the_truth(registry: Registry) -> None:
    calculator = registry.instances.pop("calc")
    no_instance(registry, "calc")
    registry.instances["other"] = calculator
    assert resolve(registry, "other", "add").func(1) == 2
    registry.unregister_object("other")
    assert registry.instances == {}
    with pytest.raises(KeyError):
        registry.unregister_object("other")


def test_an_object_takes_the_place_of_another(registry: Registry) -> None:
    class Other:
        def add(self) -> str:
            return "other"

    registry.register_object(Other(), "calc")
    assert resolve(registry, "calc", "add").func() == "other"


def test_an_object_without_a_name(registry: Registry) -> None:
    registry.register_object(Calculator(), "")
    assert resolve(registry, "", "add").func(1, 2) == 3
    assert no_method(registry, "", "adds") == "adds: '' has no such method; did you mean 'add'?"


def test_attributes_are_never_walked(registry: Registry) -> None:
    calculator = Calculator()
    calculator.inner = Calculator()  # type: ignore[attr-defined]
    registry.register_object(calculator, "a")
    assert no_instance(registry, "a.inner") == (
        "a.inner: no such object is served here; "
        "of 'a', methods are served and not what is in its attributes"
    )
    no_method(registry, "a", "inner.add")
    registry.register_object(Calculator(), "a.inner")
    assert resolve(registry, "a.inner", "add").func(1, 2) == 3


@pytest.mark.parametrize("name", ["_private", "__init__", "__class__", "_absent", "add.__call__"])
def test_what_begins_with_an_underscore(registry: Registry, name: str) -> None:
    assert "underscore is never served" in no_method(registry, "calc", name)


def test_an_object_whose_name_begins_with_an_underscore(registry: Registry) -> None:
    for name in ("_calc", "a._calc", "__calc__"):
        with pytest.raises(ValueError, match=r"no part of a name .* choose another"):
            registry.register_object(Calculator(), name)
        registry.instances[name] = Calculator()
        no_instance(registry, name)
    assert [entry["name"] for entry in registry.describe()] == ["calc"]


@pytest.mark.parametrize("name", [None, 5, ["list"], ("calc",), b"calc"])
def test_names_of_objects_are_strings(registry: Registry, name: Any) -> None:
    with pytest.raises(TypeError, match="is a string, not"):
        registry.register_object(Calculator(), name)


def test_what_is_no_method(registry: Registry) -> None:
    assert (
        no_method(registry, "calc", "constant") == "constant: this attribute of 'calc' is no method"
    )
    no_method(registry, "calc", "")


def test_what_a_property_raises_comes_out(registry: Registry) -> None:
    with pytest.raises(LookupError, match="of the property"):
        resolve(registry, "calc", "broken")


# What was meant.


def test_names_that_are_almost_right(registry: Registry) -> None:
    registry.register_function(add, "math.add")
    assert (
        no_instance(registry, "cacl") == "cacl: no such object is served here; did you mean 'calc'?"
    )
    assert no_method(registry, "calc", "ad") == "ad: 'calc' has no such method; did you mean 'add'?"
    assert no_method(registry, "math", "adds") == (
        "adds: there is no such function in 'math'; did you mean 'add'?"
    )
    assert no_method(registry, "", "mathadd") == (
        "mathadd: no such function is served here; did you mean 'math.add'?"
    )


def test_what_is_not_served_is_never_proposed(registry: Registry) -> None:
    registry.instances["_secret"] = Calculator()
    assert no_instance(registry, "secret") == "secret: no such object is served here"
    assert no_method(registry, "calc", "constan") == "constan: 'calc' has no such method"
    assert no_method(registry, "calc", "privat") == "privat: 'calc' has no such method"


def test_a_very_long_name_is_cut(registry: Registry) -> None:
    assert len(no_method(registry, "calc", "x" * 10_000_000)) < 250
    assert len(no_instance(registry, "x" * 10_000_000)) < 250
    assert len(no_method(registry, "", "x" * 10_000_000)) < 250


# Functions.


def test_functions_by_all_ways_to_register_them(registry: Registry) -> None:
    registry.register_function(add)
    registry.register_function(add, "a.b.add", quick=True, at_most_once=True)

    @registry.function
    def one() -> int:
        return 1

    @registry.function("math.two")
    def two() -> int:
        return 2

    @registry.function(name="math.three", quick=True)
    def three() -> int:
        return 3

    @registry.function(at_most_once=True)
    def four() -> int:
        return 4

    assert (one(), two(), three(), four()) == (1, 2, 3, 4)
    assert resolve(registry, "", "add") == (add, Marks(False, False, False, False))
    assert resolve(registry, "a.b", "add") == (add, Marks(False, True, True, False))
    assert resolve(registry, "", "one").func is one
    assert resolve(registry, "math", "two").func is two
    assert resolve(registry, "math", "three").marks == (False, True, False, False)
    assert resolve(registry, "", "four").marks == (False, False, True, False)


def test_a_mark_above_the_decorator_counts(registry: Registry) -> None:
    @as_signal
    @quick
    @registry.function
    def note() -> None: ...

    assert resolve(registry, "", "note").marks == (True, True, False, False)


def test_functions_come_before_objects(registry: Registry) -> None:
    registry.register_function(add, "calc.add")
    assert resolve(registry, "calc", "add").func is add
    assert resolve(registry, "calc", "peek").func() == 1
    registry.unregister_function("calc.add")
    assert resolve(registry, "calc", "add").func(1) == 2
    with pytest.raises(KeyError):
        registry.unregister_function("calc.add")


def test_a_function_takes_the_place_of_another(registry: Registry) -> None:
    registry.register_function(add)
    registry.register_function(max, "add")
    assert resolve(registry, "", "add").func is max


@pytest.mark.parametrize(
    "f", [lambda: 1, functools.partial(add, 1), type("Callable", (), {"__call__": add})()]
)
def test_what_has_no_name_is_given_one(registry: Registry, f: Any) -> None:
    with pytest.raises(ValueError, match="no name of its own: give one, as name="):
        registry.register_function(f)
    with pytest.raises(ValueError, match="no name of its own"):
        registry.function()(f)
    registry.register_function(f, "named")
    assert resolve(registry, "", "named").func is f


@pytest.mark.parametrize("name", ["", ".", "a.", ".a", "a..b"])
def test_names_with_empty_parts(registry: Registry, name: str) -> None:
    with pytest.raises(ValueError, match="no empty parts"):
        registry.register_function(add, name)


@pytest.mark.parametrize("name", ["_a", "a._b", "a.__b__.c"])
def test_private_names(registry: Registry, name: str) -> None:
    with pytest.raises(ValueError, match="begins with an underscore"):
        registry.register_function(add, name)


def test_a_private_function_can_have_a_public_name(registry: Registry) -> None:
    def _add() -> None: ...

    with pytest.raises(ValueError, match=r"as in '_add': choose another"):
        registry.register_function(_add)
    registry.register_function(_add, "add")
    assert resolve(registry, "", "add").func is _add


def test_what_is_no_function(registry: Registry) -> None:
    with pytest.raises(TypeError, match="5 can't be called"):
        registry.register_function(5, "five")  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="is a string, not int"):
        registry.register_function(add, 5)  # type: ignore[arg-type]


def test_repr(registry: Registry) -> None:
    registry.register_function(add, "b.add")
    assert repr(registry) == "<Registry objects=['calc'] functions=['b.add']>"


# Describing.


def described(registry: Registry, name: str) -> dict[str, Any]:
    (entry,) = (entry for entry in registry.describe() if entry["name"] == name)
    return entry


def methods(registry: Registry, name: str) -> dict[str, dict[str, Any]]:
    return {method["name"]: method for method in described(registry, name)["methods"]}


def test_everything_that_is_served_is_described(registry: Registry) -> None:
    registry.register_function(add, "b.add", quick=True)
    registry.register_object(Calculator(), "another")
    entries = registry.describe()
    assert [(entry["name"], entry["kind"]) for entry in entries] == [
        ("another", "object"),
        ("b.add", "function"),
        ("calc", "object"),
    ]
    assert entries[1] == {
        "name": "b.add",
        "kind": "function",
        "doc": "The sum.",
        "methods": [
            {
                "name": "b.add",
                "signature": "(a: int, b: int) -> int",
                "doc": "The sum.",
                "signal": False,
                "quick": True,
                "at_most_once": False,
                "transactional": False,
                "stream": False,
                "async": False,
            }
        ],
    }
    assert entries[2]["doc"] == "Counts.\n\nWith fingers."
    assert json.loads(json.dumps(entries)) == entries
    assert pickle.loads(pickle.dumps(entries)) == entries


def test_the_methods_of_an_object(registry: Registry) -> None:
    found = methods(registry, "calc")
    assert list(found) == [
        "add", "held", "later", "numbers", "of_class", "pay", "peek", "shout", "static",
    ]  # fmt: skip
    assert found["add"]["signature"] == "(a: int, b: int = 1) -> int"
    assert found["add"]["doc"] == "Both of them."
    assert {name for name, method in found.items() if method["signal"]} == {"shout"}
    assert {name for name, method in found.items() if method["quick"]} == {"peek"}
    assert {name for name, method in found.items() if method["at_most_once"]} == {"pay"}
    assert {name for name, method in found.items() if method["stream"]} == {"numbers"}
    assert {name for name, method in found.items() if method["async"]} == {"later"}
    for name in found:
        assert resolve(registry, "calc", name)


def test_no_property_is_evaluated(registry: Registry) -> None:
    class Lazy:
        def __get__(self, instance: object, owner: type) -> Any:
            raise AssertionError("evaluated")

    class Slotted:
        __slots__ = ("filled", "unfilled")

        def __init__(self) -> None:
            self.filled = lambda: 1

    class Trap(Slotted):
        lazy = Lazy()

        @property
        def prop(self) -> Any:
            raise AssertionError("evaluated")

        @functools.cached_property
        def cached(self) -> Any:
            raise AssertionError("evaluated")

        @functools.singledispatchmethod
        def dispatched(self, value: object) -> None: ...

        half = functools.partialmethod(Calculator.add, 1)

    registry.register_object(Trap(), "trap")
    assert list(methods(registry, "trap")) == ["dispatched", "filled", "half"]


def test_objects_that_defend_themselves(registry: Registry) -> None:
    class NoDir:
        def __dir__(self) -> list[str]:
            raise RuntimeError("no")

        def method(self) -> None: ...

    class Liar:
        __doc__ = 5  # type: ignore[assignment]

        def __dir__(self) -> list[Any]:
            return ["absent", "method", 5]

        def __getattr__(self, name: str) -> Any:
            raise AssertionError("asked")

        def method(self, value: Any = Calculator) -> None: ...

        method.__signature__ = "nonsense"  # type: ignore[attr-defined]

    class NoRepr:
        def __repr__(self) -> str:
            raise RuntimeError("no")

    class NoReprDefault:
        def method(self, value: Any = NoRepr()) -> None: ...  # noqa: B008

        def long(self, value: Any = "x" * 5000) -> None: ...

    for name, instance in {"a": NoDir(), "b": Liar(), "c": NoReprDefault()}.items():
        registry.register_object(instance, name)
    assert list(methods(registry, "a")) == ["method"]
    assert described(registry, "b")["doc"] == ""
    assert methods(registry, "b")["method"]["signature"] == "(...)"
    assert methods(registry, "c")["method"]["signature"] == "(...)"
    assert methods(registry, "c")["long"]["signature"] == "(...)"


def test_type_hints_that_mean_nothing(registry: Registry) -> None:
    def f(a, *, b=()): ...  # type: ignore[no-untyped-def]

    f.__annotations__ = {"a": "Nonsense", "b": "list[Absent]", "return": "unknown.Thing"}
    registry.register_function(f)
    assert methods(registry, "f")["f"]["signature"] == (
        "(a: Nonsense, *, b: list[Absent] = ()) -> unknown.Thing"
    )


def test_functions_in_c_and_partials(registry: Registry) -> None:
    registry.register_object({}, "dict")
    registry.register_object(math, "math")
    registry.register_function(functools.partial(add, 1), "increment")
    assert "update" in methods(registry, "dict")
    assert methods(registry, "math")["sqrt"]["signature"] == "(x, /)"
    (increment,) = methods(registry, "increment").values()
    assert (increment["signature"], increment["doc"]) == ("(b: int) -> int", "The sum.")


# Wrong arguments.


def failure(func: Callable[..., Any], *args: Any, **kwargs: Any) -> str | None:
    """What is said about the TypeError of this call."""
    try:
        func(*args, **kwargs)
    except TypeError as exc:
        return wrong_arguments(func, args, kwargs, exc, "f")
    pytest.fail("nothing was raised")


def any_arguments(func: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(func)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        return func(*args, **kwargs)

    return wrapper


def raises(a: Any, b: Any = None) -> None:
    raise TypeError("raises() inside")


def calls_itself(a: Any) -> None:
    calls_itself()  # type: ignore[call-arg]


class Constructed:
    def __init__(self, a: int) -> None:
        len(a)  # type: ignore[arg-type]


class Called:
    def __call__(self, a: int) -> None:
        raise TypeError("inside")


async def coroutine(a: int) -> None: ...


@pytest.mark.parametrize(
    ("func", "args", "kwargs", "text"),
    [
        (add, (1,), {}, "missing a required argument: 'b'; it is called as f(a: int, b: int)"),
        (add, (1, 2, 3), {}, "too many positional arguments"),
        (add, (1,), {"c": 1}, "argument"),
        (add, (1, 2), {"b": 1}, "multiple values for argument 'b'"),
        (Calculator().add, (), {}, "it is called as f(a: int, b: int = 1) -> int"),
        (Calculator.static, (), {}, "f(a: int)"),
        (Calculator().of_class, (1,), {}, "f() -> str"),
        (coroutine, (), {}, "f(a: int)"),
        (Calculator().numbers, (1,), {}, "f() -> Iterator[int]"),
        (Constructed, (), {}, "f(a: int)"),
        (Called(), (), {}, "f(a: int)"),
        (functools.partial(add, 1), (2, 3), {}, "f(b: int)"),
        (any_arguments(add), (1,), {}, "f(a: int, b: int)"),
        (any_arguments(any_arguments(add)), (1,), {}, "f(a: int, b: int)"),
        (any_arguments(Calculator().add), (), {}, "f(a: int, b: int = 1)"),
        (raises, (), {}, "f(a: Any, b: Any = None)"),
        (any_arguments(raises), (), {}, "f(a: Any"),
        (math.sqrt, (), {}, "f(x, /)"),
        ([].append, (), {}, "f(object, /)"),
        (max, (), {}, "max expected at least 1 argument, got 0"),
        ({}.update, (1, 2), {}, "update expected at most 1 argument, got 2"),
    ],
)
def test_arguments_that_do_not_fit(
    func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any], text: str
) -> None:
    told = failure(func, *args, **kwargs)
    assert told is not None
    assert text in told


@pytest.mark.parametrize(
    ("func", "args"),
    [
        (raises, (1,)),
        (any_arguments(raises), (1,)),
        (calls_itself, (1,)),
        (any_arguments(calls_itself), (1,)),
        (add, (1, "2")),
        (any_arguments(add), (1, "2")),
        (Constructed, (1,)),
        (Called(), (1,)),
        (math.sqrt, ("2",)),
        ("-".join, ([1],)),
        (functools.partial(raises, 1), (2,)),
    ],
)
def test_a_type_error_inside(func: Callable[..., Any], args: tuple[Any, ...]) -> None:
    assert failure(func, *args) is None


def test_a_decorator_that_adds_an_argument() -> None:
    def helper() -> None:
        raise TypeError("of the decorator")

    @functools.wraps(add)
    def with_one(b: Any) -> Any:
        if b is None:
            helper()
        return add(1, b)

    assert failure(with_one, None) is None  # add(None) would not fit add
    assert failure(with_one, "2") is None


def test_a_decorator_around_itself() -> None:
    def func() -> None:
        len(5)  # type: ignore[arg-type]

    func.__wrapped__ = func  # type: ignore[attr-defined]
    assert failure(func) is None


def test_arguments_alone() -> None:
    assert check_arguments(add, (1, 2), {}) is None
    assert check_arguments(add, (), {"a": 1, "b": 2}) is None
    assert check_arguments(add, [1], {}, "math.add") == (
        "missing a required argument: 'b'; it is called as math.add(a: int, b: int) -> int"
    )
    assert check_arguments(max, (), {}) is None  # nobody knows
    assert "keyword" in str(check_arguments(add, (), {5: 1}))  # type: ignore[dict-item]


def test_where_an_exception_was_raised() -> None:
    def caught(*args: Any) -> TypeError:
        try:
            raises(*args)
        except TypeError as exc:
            return exc
        pytest.fail("nothing was raised")

    assert raised_by_call(TypeError("not raised at all"))
    assert raised_by_call(caught())
    assert not raised_by_call(caught(1))


# Before it is resolved.


def test_what_is_known_before_it_is_resolved_runs_no_code() -> None:
    registry = Registry()

    class Careful:
        @property
        def trap(self) -> None:
            raise AssertionError("it was looked at")

        def __getattr__(self, name: str) -> None:
            raise AssertionError("it was asked")

        @quick
        def fast(self) -> None: ...

        @staticmethod
        @quick
        def static() -> None: ...

        def slow(self) -> None: ...

    registry.register_object(Careful(), "careful")
    registry.register_function(lambda: 1, "math.one", quick=True)
    found = {
        name: registry.preview("careful", name)
        for name in ("trap", "other", "fast", "static", "slow")
    }
    assert found == {
        "trap": ("careful", False),
        "other": ("careful", False),
        "fast": ("careful", True),
        "static": ("careful", True),
        "slow": ("careful", False),
    }
    assert registry.preview("math", "one") == ("math.one", True)
    assert registry.preview("unknown", "one") == ("", False)
