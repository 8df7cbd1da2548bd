"""What a request asks for, told from its first bytes: before all of it is read, or has come.

The serializers here write the command, the object and the method first, as 1.6
does. Whoever writes them in another order, or with names that are not plain, is
judged when the request has been read.
"""

from __future__ import annotations

import re
from typing import Final

from snakemq._core.rpc_records import REQUEST_PREFIX

__all__ = ["PEEKED", "call_in"]

#: So much of the beginning of a request is enough, in bytes.
PEEKED: Final = 1024

#: How pickle puts something into the memo. Those who write by hand need not.
_MEMO: Final = rb"(?:\x94|q.)?"

_PICKLE: Final = re.compile(
    rb"\x80[\x02-\x05](?:\x95.{8})?\}" + _MEMO + rb"\("
    rb"(?:\x8c|X)\x07(?:\x00{3})?command" + _MEMO +
    rb"(?:(?:\x8c|X)\x04(?:\x00{3})?call|(?:\x8c|X)\x06(?:\x00{3})?(signal))" + _MEMO +
    rb"(?:\x8c|X)\x06(?:\x00{3})?object" + _MEMO,
    re.DOTALL,
)  # fmt: skip
_METHOD: Final = re.compile(rb"(?:\x8c|X)\x06(?:\x00{3})?method" + _MEMO, re.DOTALL)
_NAME: Final = re.compile(rb"(?:\x8c(.)|X(.)\x00\x00\x00)", re.DOTALL)
_AFTER: Final = re.compile(_MEMO, re.DOTALL)

_JSON: Final = re.compile(
    rb'\{"command": ?"(?:call|(signal))", ?"object": ?"([\w.]*)", ?"method": ?"([\w.]*)"', re.ASCII
)


def call_in(data: bytes) -> tuple[str, str, bool] | None:
    """Object and method of a call or signal, and whether it is a signal.

    :param data: the request with its prefix, or at least :data:`PEEKED` bytes of it
    :return: ``None``: it can't be told. What is told here need not be true: the
        sender may have the reader find something else.
    """
    head = data[len(REQUEST_PREFIX) : PEEKED]
    found = _JSON.match(head)
    if found is not None:
        return found[2].decode(), found[3].decode(), bool(found[1])
    start = _PICKLE.match(head)
    if start is None:
        return None
    try:
        object_name, pos = _name(head, start.end())
        method = _METHOD.match(head, pos)
        if method is None:
            return None
        return object_name, _name(head, method.end())[0], bool(start[1])
    except ValueError:
        return None


def _name(head: bytes, pos: int) -> tuple[str, int]:
    """A text, and where it ends.

    :raises ValueError: there is none
    """
    size = _NAME.match(head, pos)
    if size is None:
        raise ValueError("no text")
    end = size.end() + ord(size[1] or size[2])
    after = _AFTER.match(head, end)
    if after is None or end > len(head):
        raise ValueError("a text that is cut off")
    return head[size.end() : end].decode(), after.end()
