"""How many calls a peer serves at a time."""

from __future__ import annotations

from dataclasses import dataclass, field

from snakemq.rpc import (
    DEFAULT_MAX_PER_OBJECT,
    DEFAULT_MAX_PER_PEER,
    DEFAULT_MAX_WAITING,
    DEFAULT_MAX_WAITING_BYTES,
    DEFAULT_MAX_WAITING_BYTES_PER_PEER,
    DEFAULT_MAX_WAITING_PER_PEER,
    DEFAULT_MAX_WORKERS,
    AnswerLimits,
)

__all__ = ["CallLimits"]


@dataclass(frozen=True)
class CallLimits:
    """How many calls a peer serves at a time, and how many wait.

    For ``Peer(call_limits=...)``; the arguments of :class:`snakemq.rpc.RpcServer`.

    :raises TypeError: a number is not a whole one
    :raises ValueError: a number is too small
    """

    #: so many methods run at a time
    max_workers: int = DEFAULT_MAX_WORKERS
    #: so many of them for one caller
    max_per_peer: int = DEFAULT_MAX_PER_PEER
    #: so many of them of one object, or of one function
    max_per_object: int = DEFAULT_MAX_PER_OBJECT
    #: so many calls wait beyond those; more get :class:`snakemq.rpc.Busy`
    max_waiting: int = DEFAULT_MAX_WAITING
    #: how many answers are kept for callers that have not acknowledged them
    answers: AnswerLimits = field(default_factory=AnswerLimits)
    #: so many of the calls that wait are of one caller
    max_waiting_per_peer: int = DEFAULT_MAX_WAITING_PER_PEER
    #: how large the requests are together that wait, in bytes; a larger one may wait alone
    max_waiting_bytes: int = DEFAULT_MAX_WAITING_BYTES
    #: likewise, of one caller
    max_waiting_bytes_per_peer: int = DEFAULT_MAX_WAITING_BYTES_PER_PEER

    def __post_init__(self) -> None:
        # The server is made later, when nobody looks.
        for name, least in (
            ("max_workers", 1),
            ("max_per_peer", 1),
            ("max_per_object", 1),
            ("max_waiting", 0),
            ("max_waiting_per_peer", 0),
            ("max_waiting_bytes", 0),
            ("max_waiting_bytes_per_peer", 0),
        ):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int):
                raise TypeError(f"{name} takes a whole number, not {type(value).__name__}")
            if value < least:
                raise ValueError(f"{name} must be at least {least}, not {value!r}")
