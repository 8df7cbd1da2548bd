"""Telling of messages one by one, as in 1.6.

Of dropped ones to callbacks of 1.6 and to those that ask why.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Sequence
from typing import Any

from snakemq.callbacks import Callback
from snakemq.limits import DropReason
from snakemq.message import Message

__all__ = ["call_drop_callbacks", "tell_each"]

_POSITIONAL = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)


def tell_each(
    callback: Callback[[str, str, bytes]], conn_id: str, ident: str, messages: Sequence[Message]
) -> None:
    """Call ``func(conn_id, ident, uuid)`` for each message."""
    if callback.funcs:
        for message in messages:
            callback(conn_id, ident, message.uuid)


def call_drop_callbacks(
    callback: Callback[[str, bytes]], ident: str, messages: list[Message], reason: DropReason
) -> None:
    """Call ``func(ident, uuid)`` for each message, or ``func(ident, uuid, reason)``.

    The latter for those that have a third parameter, without a default or named
    ``reason``; in 1.6 there were two.
    """
    if not callback:
        return
    told = callback.with_funcs(
        _with_reason(func, reason) if _takes_reason(func) else func for func in callback.funcs
    )
    for message in messages:
        told(ident, message.uuid)


def _takes_reason(func: Callable[..., object]) -> bool:
    try:
        parameters = inspect.signature(func).parameters.values()
    except (TypeError, ValueError):  # some written in C have none
        return False
    positional = [parameter for parameter in parameters if parameter.kind in _POSITIONAL]
    # ``lambda ident, uuid, self=self: ...`` wants to keep its default.
    return len(positional) >= 3 and (
        positional[2].default is inspect.Parameter.empty or positional[2].name == "reason"
    )


def _with_reason(func: Callable[..., Any], reason: DropReason) -> Callable[[str, bytes], object]:
    @functools.wraps(func)
    def call(ident: str, uuid: bytes) -> object:
        return func(ident, uuid, reason)

    return call
