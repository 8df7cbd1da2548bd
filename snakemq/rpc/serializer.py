"""What turns records into bytes and back."""

from __future__ import annotations

import io
import pickle
from typing import Any, Protocol

from snakemq.rpc.errors import RemoteError

__all__ = ["Serializer", "loads_with_stand_ins"]


class Serializer(Protocol):
    """What ``pickler`` has to be: :mod:`pickle`, or a module or object like it."""

    def dumps(self, obj: Any, /) -> bytes:
        """The object as bytes; any exception means that it can't be done."""

    def loads(self, data: bytes, /) -> Any:
        """The object again; any exception means that it can't be done."""


class _StandInUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str, /) -> Any:
        try:
            return super().find_class(module, name)
        except (ImportError, AttributeError):
            class_name = f"{module}.{name}"
            return type(
                name.rpartition(".")[2],
                (RemoteError,),
                {"__module__": module, "class_name": class_name, "__doc__": None},
            )


def loads_with_stand_ins(serializer: Serializer, data: bytes) -> Any:
    """Load what could not be loaded because a class is not known here.

    Each class that is not known is replaced by a :class:`RemoteError` of its
    name. So this is not for results: it is for exceptions, and for finding out
    whom to tell.

    :raises Exception: it is not pickle's data or can't be read even so
    """
    if serializer is not pickle:
        raise TypeError(f"only pickle can replace classes, not {serializer!r}")
    return _StandInUnpickler(io.BytesIO(data)).load()
