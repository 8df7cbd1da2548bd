"""Names, and what is served under them."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable
from inspect import CO_ASYNC_GENERATOR, CO_COROUTINE, CO_GENERATOR
from types import FunctionType, MethodType
from typing import Any, Final, NamedTuple, TypeAlias, TypeVar, overload

from snakemq.rpc._description import describe_function, describe_object, public_methods
from snakemq.rpc.errors import NoInstanceError, NoMethodError
from snakemq.rpc.hooks import call_name
from snakemq.rpc.marks import Marks, marks_of

__all__ = ["Registry", "Served", "decorate"]

#: Names that are longer are cut in messages and not compared with others: they
#: come from other peers, and comparing takes time. In characters.
MAX_SHOWN: Final = 100

#: With how many names a wrong one is compared, to find what was meant.
MAX_COMPARED: Final = 1000

#: Flags of functions that only make something that is to be run.
_RUNS_LATER: Final = CO_GENERATOR | CO_COROUTINE | CO_ASYNC_GENERATOR

_F = TypeVar("_F", bound=Callable[..., Any])


#: What a request asked for, and how it is marked.
Served: TypeAlias = tuple[Callable[..., Any], Marks]


class _Function(NamedTuple):
    func: Callable[..., Any]
    quick: bool
    at_most_once: bool


class Registry:
    """Objects and functions by name, and nothing else.

    ``a.b.add`` is method ``add`` of what was registered as ``a.b``, or a
    function that was registered as ``a.b.add``: functions come first. A name is
    looked up as a whole; attributes of attributes can't be reached, and nothing
    can of which a part begins with an underscore.

    Methods may be called from any thread.
    """

    def __init__(self) -> None:
        #: the objects by name. Programs may change it, as in 1.6.
        self.instances: dict[str, Any] = {}
        self._functions: dict[str, _Function] = {}

    def register_object(self, instance: Any, name: str) -> None:
        """Serve the public methods of an object.

        :param name: under which callers know it; an object that had this name
            is replaced. It may have dots in it.
        :raises TypeError: the name is not a string
        :raises ValueError: a part of the name begins with an underscore
        """
        _check(name, "object")
        self.instances[name] = instance

    def unregister_object(self, name: str) -> None:
        """Serve an object no more. What runs is not interrupted.

        :raises KeyError: there is none of this name
        """
        del self.instances[name]

    def register_function(
        self,
        f: Callable[..., Any],
        name: str | None = None,
        *,
        quick: bool = False,
        at_most_once: bool = False,
    ) -> None:
        """Serve a function.

        :param f: a function or something else that can be called
        :param name: under which callers know it, such as ``"math.add"``;
            ``None``: its own. A function that had this name is replaced.
        :param quick: as if it was marked with :func:`snakemq.rpc.quick`
        :param at_most_once: as if it was marked with
            :func:`snakemq.rpc.at_most_once`
        :raises TypeError: it can't be called, or the name is not a string
        :raises ValueError: it has no name, the name has an empty part, or one
            that begins with an underscore
        """
        if not callable(f):
            raise TypeError(f"{f!r} can't be called, so it can't be served as a function")
        if name is None:
            name = getattr(f, "__name__", None)
            if not isinstance(name, str) or not name.isidentifier():
                raise ValueError(f"{f!r} has no name of its own: give one, as name=...")
        _check(name, "function")
        if not all(name.split(".")):
            raise ValueError(f"the name of a function has no empty parts, as {name!r} has")
        self._functions[name] = _Function(f, quick, at_most_once)

    def unregister_function(self, name: str) -> None:
        """Serve a function no more. What runs is not interrupted.

        :raises KeyError: there is none of this name
        """
        del self._functions[name]

    @overload
    def function(self, f: _F, /) -> _F: ...

    @overload
    def function(
        self,
        name: str | None = None,
        /,
        *,
        quick: bool = False,
        at_most_once: bool = False,
    ) -> Callable[[_F], _F]: ...

    @overload
    def function(
        self,
        /,
        *,
        name: str | None = None,
        quick: bool = False,
        at_most_once: bool = False,
    ) -> Callable[[_F], _F]: ...

    def function(
        self,
        f: Any = None,
        /,
        *,
        name: str | None = None,
        quick: bool = False,
        at_most_once: bool = False,
    ) -> Any:
        """Serve the function below. A decorator, with or without arguments.

        ::

            @registry.function
            def add(a, b): ...

            @registry.function("math.multiply", quick=True)
            def multiply(a, b): ...

        The function itself is not changed. See :meth:`register_function`.
        """
        return decorate(self.register_function, f, name, quick=quick, at_most_once=at_most_once)

    def resolve(self, object_name: str, method_name: str, *, hints: bool = True) -> Served:
        """Find what a request asks for.

        Marks are read now, so decorators may mark what is registered already.

        :param object_name: as it came; empty for a function without dots
        :param hints: name something else in errors that may have been meant
        :raises NoInstanceError: there is no such object
        :raises NoMethodError: it has no such method
        :raises Exception: of what is asked for its attribute, if that is a
            property or the like
        """
        if self._functions:
            function = self._functions.get(call_name(object_name, method_name))
            if function is not None:
                func, quick, once = function
                marks = marks_of(func)
                if quick or once:
                    marks = marks._replace(
                        is_quick=quick or marks.is_quick, at_most_once=once or marks.at_most_once
                    )
                return func, marks
        try:
            instance = self.instances[object_name]
        except KeyError:
            raise self._unknown(object_name, method_name, hints) from None
        # Most names need no closer look.
        if ("_" in method_name or "_" in object_name) and _is_private(
            call_name(object_name, method_name)
        ):
            if _is_private(object_name):
                raise self._unknown(object_name, method_name, hints)
            raise NoMethodError(
                f"{_cut(method_name)}: what begins with an underscore is never served"
            )
        try:
            method = getattr(instance, method_name)
        except AttributeError:
            raise self._no_method(object_name, instance, method_name, hints) from None
        if not callable(method):
            raise NoMethodError(
                f"{_cut(method_name)}: this attribute of {object_name!r} is no method"
            )
        return method, marks_of(method)

    def preview(self, object_name: str, method_name: str) -> tuple[str, bool]:
        """What can be known of a request before it is resolved, without running any code.

        :return: whose limits count, and whether it may run in the loop's thread
        """
        if self._functions:
            name = call_name(object_name, method_name)
            function = self._functions.get(name)
            if function is not None:
                return name, _is_quick(function.func, registered=function.quick)
        # What nobody serves is not counted apart: anybody can make up names.
        instance = self.instances.get(object_name)
        if instance is None:
            return "", False
        kind: Any = type(instance)
        if kind.__getattribute__ is object.__getattribute__:
            for cls in kind.__mro__:
                method = cls.__dict__.get(method_name)
                if method is not None:
                    if type(method) is FunctionType and not method.__dict__:
                        return object_name, False  # it has no marks, as most
                    if isinstance(method, (staticmethod, classmethod)):
                        method = method.__func__
                    own = getattr(instance, "__dict__", None)
                    is_quick = _is_quick(method) and not (own and method_name in own)
                    return object_name, is_quick
        return object_name, False

    def describe(self, may: Callable[[str, str], bool] | None = None) -> list[dict[str, Any]]:
        """What is served, sorted by name, as data that every serializer can write.

        :param may: ``func(object_name, method)``: whether a method is to be in it;
            without one, what is served is left out
        :return: for each object and function a dictionary with ``name``,
            ``kind`` (``"object"`` or ``"function"``), ``doc`` and ``methods``:
            for each method (of a function, itself) a dictionary with ``name``,
            ``signature``, ``doc``, and, true or false, ``signal``, ``quick``,
            ``at_most_once``, ``stream`` (it is a generator) and ``async``
        """
        described = [
            describe_object(name, instance)
            for name, instance in self.instances.copy().items()
            if isinstance(name, str) and not _is_private(name)
        ]
        described += [
            describe_function(name, func, quick=quick, at_most_once=at_most_once)
            for name, (func, quick, at_most_once) in self._functions.copy().items()
        ]
        if may is not None:
            described = [entry for entry in described if _keep_allowed(entry, may)]
        return sorted(described, key=lambda entry: (entry["name"], entry["kind"]))

    def _unknown(
        self, object_name: str, method_name: str, hints: bool
    ) -> NoInstanceError | NoMethodError:
        functions = list(self._functions.copy()) if hints else []
        if not object_name:
            text = f"{_cut(method_name)}: no such function is served here"
            return NoMethodError(text + _meant(method_name, functions))
        prefix = object_name + "."
        below = [name[len(prefix) :] for name in functions if name.startswith(prefix)]
        if below:
            text = f"{_cut(method_name)}: there is no such function in {_cut(object_name)!r}"
            return NoMethodError(text + _meant(method_name, below))
        names = [
            name
            for name in (self.instances.copy() if hints else ())
            if isinstance(name, str) and not _is_private(name)
        ]
        hint = _meant(object_name, names)
        outer = object_name.rpartition(".")[0]
        if not hint and outer in names:
            hint = f"; of {_cut(outer)!r}, methods are served and not what is in its attributes"
        return NoInstanceError(f"{_cut(object_name)}: no such object is served here{hint}")

    def _no_method(
        self, object_name: str, instance: object, method_name: str, hints: bool
    ) -> NoMethodError:
        hint = ""
        if hints and len(method_name) <= MAX_SHOWN:
            prefix = object_name + "." if object_name else ""
            names = [name for name, _method in public_methods(instance)]
            names += [
                name[len(prefix) :] for name in self._functions.copy() if name.startswith(prefix)
            ]
            hint = _meant(method_name, names)
        return NoMethodError(f"{_cut(method_name)}: {object_name!r} has no such method{hint}")

    def __repr__(self) -> str:
        return (
            f"<Registry objects={sorted(map(str, self.instances.copy()))} "
            f"functions={sorted(self._functions.copy())}>"
        )


def _keep_allowed(entry: dict[str, Any], may: Callable[[str, str], bool]) -> bool:
    """Leave in a description what may be called; whether there is any of it."""
    name = entry["name"]
    if entry["kind"] == "function":
        object_name, _, method = name.rpartition(".")
        return may(object_name, method)
    entry["methods"] = [method for method in entry["methods"] if may(name, method["name"])]
    return bool(entry["methods"])


def decorate(register: Callable[..., object], f: Any, name: str | None, **marks: bool) -> Any:
    """What a decorator with or without arguments gives for a function below it.

    :param register: ``func(function, name, **marks)``
    :param f: the function, or the first argument of the decorator
    :param name: the argument of that name
    """
    if callable(f):
        register(f, name, **marks)
        return f
    chosen = name if f is None else f

    def take(function: _F) -> _F:
        register(function, chosen, **marks)
        return function

    return take


def _check(name: object, what: str) -> None:
    if not isinstance(name, str):
        raise TypeError(f"the name of an {what} is a string, not {type(name).__name__}")
    if _is_private(name):
        raise ValueError(
            f"no part of a name that is served begins with an underscore, as in {name!r}: "
            "choose another name for callers"
        )


def _is_quick(func: Any, *, registered: bool = False) -> bool:
    """Whether it may run in the loop's thread. Runs no code of the program.

    :param registered: it was registered as one that may
    """
    if type(func) is MethodType:
        func = func.__func__
    if type(func) is not FunctionType:
        # What else can be called may be asked for its attributes only by running it.
        return registered
    marks = marks_of(func)
    return (
        (registered or marks.is_quick)
        # Others would wait for the one who is in a transaction.
        and not marks.is_transactional
        # What these return has still to be run, who knows for how long.
        and not func.__code__.co_flags & _RUNS_LATER
    )


def _is_private(name: str) -> bool:
    return name.startswith("_") or "._" in name


def _cut(name: str) -> str:
    name = name if len(name) <= MAX_SHOWN else name[:MAX_SHOWN] + "..."
    # It may get into a log, of which it must not make more lines, or others.
    return name if name.isprintable() else ascii(name)


def _meant(name: str, names: Iterable[str]) -> str:
    """Asks whether another one was meant, if it looks like it."""
    if len(name) > MAX_SHOWN:
        return ""
    close = difflib.get_close_matches(name, sorted(names)[:MAX_COMPARED], 1)
    return f"; did you mean {close[0]!r}?" if close else ""
