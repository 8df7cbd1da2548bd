"""What a remote object has, as a class says it."""

from __future__ import annotations

import logging
import typing
from collections import abc
from collections.abc import Callable
from typing import Any

__all__ = ["Interface"]

_log = logging.getLogger("snakemq.rpc.client")


#: What is annotated by it is a method.
_CALLABLE: Any = abc.Callable


class Interface:
    """The public names of a class, and the namespaces among them.

    :param cls: a protocol, an abstract class, or any other
    :raises TypeError: it is no class
    """

    def __init__(self, cls: Callable[..., Any]) -> None:
        if not isinstance(cls, type):
            raise TypeError(f"an interface is a class, not {cls!r}")
        self._cls = cls
        names = set(dir(cls))
        for base in cls.__mro__:
            names.update(vars(base).get("__annotations__", ()))
        self._names = frozenset(name for name in names if not name.startswith("_"))
        try:
            self._hints = typing.get_type_hints(cls)
        except Exception as exc:
            # It was imported for the type checker only.
            _log.debug("annotations of %r are not known at run time: %r", cls, exc)
            self._hints = {}

    def __contains__(self, name: str) -> bool:
        return name in self._names

    def namespace(self, name: str) -> type | None:
        """The class by which an attribute is annotated: it is an object with methods."""
        hint = self._hints.get(name)
        cls = typing.get_origin(hint) or hint
        return cls if isinstance(cls, type) and cls is not _CALLABLE else None

    def __repr__(self) -> str:
        return self._cls.__qualname__
