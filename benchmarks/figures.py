"""Which workloads are shown together, in the documentation and in its plots."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from benchmarks.results import Results

__all__ = ["GROUPS", "Group", "groups_of"]


@dataclass(frozen=True)
class Group:
    """Workloads that belong together.

    :ivar name: of the file of its plot, and of its place in the page
    :ivar title: for people
    :ivar panels: what is drawn: workload, figure (``None``: the one that it is about), what it is
    """

    name: str
    title: str
    panels: tuple[tuple[str, str | None, str], ...]

    @property
    def workloads(self) -> list[str]:
        """Each once, in order."""
        return list(dict.fromkeys(workload for workload, _, _ in self.panels))


GROUPS: Final = (
    Group(
        "messages",
        "Messages in one direction",
        (
            ("small", None, "64 bytes: messages/s"),
            ("large", None, "1 MiB: MB/s"),
            ("tls-small", None, "64 bytes with TLS: messages/s"),
            ("tls-large", None, "1 MiB with TLS: MB/s"),
        ),
    ),
    Group(
        "calls",
        "Remote calls",
        (
            ("rpc", None, "one at a time: median in µs (less is better)"),
            ("rpc16", None, "from 16 threads: calls/s"),
        ),
    ),
    Group(
        "durable",
        "Messages that are on the disk when they are accepted",
        (
            ("durable", None, "one at a time: messages/s"),
            ("durable16", None, "from 16 threads: messages/s"),
            ("durable256", None, "in batches of 256: messages/s"),
        ),
    ),
    Group(
        "huge",
        "One message of 256 MiB",
        (
            ("huge", None, "seconds (less is better)"),
            (
                "huge",
                "payloads in memory, sender",
                "times its size in memory, sender (less is better)",
            ),
            ("huge", "payloads in memory, receiver", "the same, receiver (less is better)"),
        ),
    ),
    Group(
        "crowd",
        "Connections on which nothing happens, and a backlog in memory",
        (
            ("connections", None, "an idle connection: bytes (less is better)"),
            ("transient", None, "draining a backlog: messages/s"),
            ("transient", "MB, sender", "the sender with the backlog: MB (less is better)"),
            ("idle", None, "an idle pair: ms of CPU (less is better)"),
        ),
    ),
)


def groups_of(results: Results) -> list[Group]:
    """Those of which there are figures."""
    measured = set(results.workloads())
    return [group for group in GROUPS if measured.intersection(group.workloads)]
