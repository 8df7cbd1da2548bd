"""Was a ``TypeError`` about the arguments of a call, or did the method raise it?

Looked at only after a call has failed: calls that fit cost nothing.
"""

from __future__ import annotations

import inspect
import logging
import re
from collections.abc import Callable, Mapping, Sequence
from types import TracebackType
from typing import Any, Final

from snakemq.rpc._description import signature_text

__all__ = ["check_arguments", "raised_by_call", "wrong_arguments"]

#: What functions in C say, of which nothing else is known.
_ABOUT_ARGUMENTS: Final = re.compile(r"\barguments?\b")

_log = logging.getLogger("snakemq.rpc.server")


def wrong_arguments(
    func: Callable[..., Any],
    args: Sequence[Any],
    kwargs: Mapping[str, Any],
    error: TypeError,
    name: str = "",
) -> str | None:
    """Whether ``func(*args, **kwargs)`` failed because it takes other arguments.

    :param error: what it raised, caught in the same function that called it
    :param name: of the function, for the text
    :return: what is wrong and how it is to be called; ``None``: the function
        has run and raised this itself
    """
    if raised_by_call(error):
        text = check_arguments(func, args, kwargs, name)
        if text is None and _signature(func) is None and _ABOUT_ARGUMENTS.search(str(error)):
            return str(error)
        return text
    # A decorator took any arguments, and passed them on to a function that
    # does not; that one has not run if it is not in the traceback.
    inner = _innermost(func)
    if inner is func or _has_run(inner, error.__traceback__):
        return None
    # This is how Python begins what it says about the arguments of a call.
    if not str(error).startswith(f"{getattr(inner, '__qualname__', None)}() "):
        return None
    return check_arguments(func, args, kwargs, name)


def check_arguments(
    func: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any], name: str = ""
) -> str | None:
    """What is wrong with the arguments, and how the function is to be called.

    :param name: of the function, for the text
    :return: ``None``: they fit, or that can't be known
    """
    signature = _signature(func)
    if signature is None:
        return None
    try:
        signature.bind(*args, **kwargs)
    except TypeError as exc:
        return f"{exc}; it is called as {name}{signature_text(signature)}"
    return None


def raised_by_call(error: BaseException) -> bool:
    """Whether it comes from the call and not from inside of what was called.

    Of functions in C that can't be told: it says yes.

    :param error: caught in the same function that made the call
    """
    traceback = error.__traceback__
    return traceback is None or traceback.tb_next is None


def _signature(func: Callable[..., Any]) -> inspect.Signature | None:
    try:
        return inspect.signature(func)
    except Exception as exc:  # whatever a __signature__ raises, too
        _log.debug("no signature of %s: %r", type(func), exc)
        return None


def _innermost(func: Any) -> Any:
    """The function in all the decorators, if they tell."""
    try:
        return inspect.unwrap(func)
    except ValueError:  # it goes round in circles
        return func


def _has_run(func: object, traceback: TracebackType | None) -> bool:
    code = getattr(func, "__code__", None)
    while traceback is not None:
        if traceback.tb_frame.f_code is code:
            return True
        traceback = traceback.tb_next
    return False
