"""Describes what is served, as plain data that every serializer can write."""

from __future__ import annotations

import functools
import inspect
import logging
from collections.abc import Callable, Iterator
from types import MemberDescriptorType
from typing import Any, Final

from snakemq.rpc.marks import marks_of

__all__ = ["describe_function", "describe_object", "public_methods", "signature_text"]

#: A signature that is longer says nothing to anybody, in characters.
MAX_SIGNATURE: Final = 1000

#: Attributes of a class that become methods (or, the last, any value) without
#: running code of the program. All other descriptors that can't be called are
#: properties of some kind.
_BINDING: Final = (
    staticmethod,
    classmethod,
    functools.partialmethod,
    functools.singledispatchmethod,
    MemberDescriptorType,
)

_log = logging.getLogger("snakemq.rpc.server")


class _Bare(str):
    """An annotation that was written as a string, without its quotes."""

    __slots__ = ()

    def __repr__(self) -> str:
        return str(self)


def describe_object(name: str, instance: object) -> dict[str, Any]:
    """An object and its public methods.

    Properties are not evaluated, and what can't be looked at is left out.
    """
    return {
        "name": name,
        "kind": "object",
        "doc": _doc(instance),
        "methods": [_describe_method(name, method) for name, method in public_methods(instance)],
    }


def describe_function(
    name: str, func: Callable[..., Any], *, quick: bool = False, at_most_once: bool = False
) -> dict[str, Any]:
    """A function; it is the only one of its methods, so that there is one shape for both."""
    method = _describe_method(name, func)
    method["quick"] |= quick
    method["at_most_once"] |= at_most_once
    return {"name": name, "kind": "function", "doc": method["doc"], "methods": [method]}


def public_methods(instance: object) -> Iterator[tuple[str, Callable[..., Any]]]:
    """Names and methods that an object serves, sorted by name, as far as they can be seen."""
    for name in _names(instance):
        if name.startswith("_"):
            continue
        try:
            # First without running any code of the program.
            attribute = inspect.getattr_static(instance, name)
            if hasattr(type(attribute), "__get__"):
                if not callable(attribute) and not isinstance(attribute, _BINDING):
                    continue
                attribute = getattr(instance, name)
        except Exception as exc:
            _log.debug("%s.%s can't be looked at: %r", type(instance), name, exc)
            continue
        if callable(attribute):
            yield name, attribute


def signature_text(signature: inspect.Signature) -> str:
    """How it is called, as it is written in Python."""
    try:
        parameters = [
            parameter.replace(annotation=_bare(parameter.annotation))
            for parameter in signature.parameters.values()
        ]
        result = _bare(signature.return_annotation)
        text = str(signature.replace(parameters=parameters, return_annotation=result))
    except Exception as exc:  # the representation of a default value, for example
        _log.debug("a signature can't be shown: %r", exc)
        return "(...)"
    return text if len(text) <= MAX_SIGNATURE else "(...)"


def _bare(annotation: Any) -> Any:
    return _Bare(annotation) if isinstance(annotation, str) else annotation


def _describe_method(name: str, method: Callable[..., Any]) -> dict[str, Any]:
    try:
        signature = signature_text(inspect.signature(method))
    except Exception as exc:  # many functions in C have none
        _log.debug("no signature of %s: %r", name, exc)
        signature = "(...)"
    marks = marks_of(method)
    return {
        "name": name,
        "signature": signature,
        "doc": _doc(method),
        "signal": marks.is_signal,
        "quick": marks.is_quick,
        "at_most_once": marks.at_most_once,
        "transactional": marks.is_transactional,
        "stream": inspect.isgeneratorfunction(method) or inspect.isasyncgenfunction(method),
        "async": inspect.iscoroutinefunction(method) or inspect.isasyncgenfunction(method),
    }


def _doc(thing: Any) -> str:
    # A partial has a docstring about partials.
    while isinstance(thing, functools.partial):
        thing = thing.func
    try:
        doc = inspect.getdoc(thing)
    except Exception as exc:
        _log.debug("no docstring of %s: %r", type(thing), exc)
        return ""
    return str(doc) if isinstance(doc, str) else ""


def _names(instance: object) -> list[str]:
    try:
        names = dir(instance)
    except Exception as exc:
        _log.debug("dir() of %s: %r", type(instance), exc)
        names = dir(type(instance))
    return sorted({name for name in names if isinstance(name, str)})
