"""Certificates of all kinds, and links in this thread, for the tests of TLS."""

from __future__ import annotations

import datetime
import os
import ssl
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import trustme

from snakemq.exceptions import TlsError
from snakemq.link import Link, SSLConfig
from tests.helpers import DEADLINE

__all__ = ["LOCALHOST", "Files", "Watched", "drive", "issue"]

LOCALHOST = "127.0.0.1"

#: Each certificate of an authority that is on the disk, and what is special about it.
KINDS: dict[str, dict[str, Any]] = {
    "good": {},
    "expired": {
        "not_before": datetime.datetime(2000, 1, 1, tzinfo=datetime.timezone.utc),
        "not_after": datetime.datetime(2001, 1, 1, tzinfo=datetime.timezone.utc),
    },
    "early": {
        "not_before": datetime.datetime(2200, 1, 1, tzinfo=datetime.timezone.utc),
        "not_after": datetime.datetime(2201, 1, 1, tzinfo=datetime.timezone.utc),
    },
}


def issue(
    authority: trustme.CA, folder: Path, name: str, *names: str, **special: Any
) -> tuple[Path, Path]:
    """Put a key and a certificate there, in the place of those that were.

    :return: their paths
    """
    issued = authority.issue_cert(*(names or (LOCALHOST, "localhost")), **special)
    key, cert = folder / f"{name}.key", folder / f"{name}.pem"
    for path, blob in ((key, issued.private_key_pem), (cert, issued.cert_chain_pems[0])):
        # A file that is written again within the resolution of its times can't be
        # told from what it was.
        new = path.with_suffix(".new")
        new.write_bytes(blob.bytes())
        os.replace(new, path)
    return key, cert


class Files:
    """An authority that is trusted, one that is not, and certificates by them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.authority = trustme.CA()
        stranger = trustme.CA()
        self.ca = folder / "ca.pem"
        self.stranger = folder / "stranger.pem"
        self.authority.cert_pem.write_to_path(str(self.ca))
        stranger.cert_pem.write_to_path(str(self.stranger))
        for name, special in KINDS.items():
            issue(self.authority, folder, name, **special)
        issue(self.authority, folder, "elsewhere", "elsewhere.example")
        issue(stranger, folder, "foreign")

    def config(self, name: str | None = "good", *, trust: bool = True, **more: Any) -> SSLConfig:
        """Settings with one of the certificates, or none, that trust the authority or nobody."""
        if trust:
            more.setdefault("ca_certs", self.ca)
        return SSLConfig(
            self.folder / f"{name}.key" if name else None,
            self.folder / f"{name}.pem" if name else None,
            **more,
        )


class Watched:
    """A link that notes what happens to it."""

    def __init__(self, **kwargs: Any) -> None:
        self.link = Link(**{"verify_tls": True, **kwargs})
        self.link.reconnect_interval = 0.05
        self.link.reconnect_interval_max = 0.05
        self.open: list[str] = []
        self.closed: list[str] = []
        self.received: dict[str, bytes] = {}
        self.errors: list[tuple[str | None, Exception]] = []
        self.link.on_connect.add(self.open.append)
        self.link.on_disconnect.add(self._disconnected)
        self.link.on_recv.add(self._received)
        self.link.on_error.add(lambda conn_id, exc: self.errors.append((conn_id, exc)))

    def _disconnected(self, conn_id: str) -> None:
        self.open.remove(conn_id)
        self.closed.append(conn_id)

    def _received(self, conn_id: str, data: bytes) -> None:
        self.received[conn_id] = self.received.get(conn_id, b"") + data

    def listen(self, config: SSLConfig | ssl.SSLContext | None) -> tuple[str, int]:
        return self.link.add_listener((LOCALHOST, 0), ssl_config=config)

    def dial(self, address: tuple[str, int], config: SSLConfig | ssl.SSLContext | None) -> None:
        self.link.add_connector(address, ssl_config=config)

    def speak(self, data: bytes) -> None:
        """Say something on every connection, as soon as it is there."""
        self.link.on_connect.add(lambda conn_id: self.link.send(conn_id, data))

    @property
    def error(self) -> TlsError:
        """The first that was reported."""
        conn_id, error = self.errors[0]
        assert conn_id is None
        assert isinstance(error, TlsError)
        return error

    @property
    def counters(self) -> dict[str, int]:
        """Those that are not 0."""
        return {name: count for name, count in self.link.counters.as_dict().items() if count}


def drive(*watched: Watched, until: Callable[[], object]) -> None:
    """Step the links in this thread until the condition is true."""
    deadline = time.monotonic() + DEADLINE
    while not until():
        assert time.monotonic() < deadline, [one.errors[-1:] for one in watched]
        for one in watched:
            one.link.step(0.002)


@pytest.fixture(scope="session")
def files(tmp_path_factory: pytest.TempPathFactory) -> Files:
    """Must not be changed: all tests share them."""
    return Files(tmp_path_factory.mktemp("tls"))


@pytest.fixture
def make_watched() -> Iterator[Callable[..., Watched]]:
    made: list[Watched] = []

    def make(**kwargs: Any) -> Watched:
        watched = Watched(**kwargs)
        made.append(watched)
        return watched

    yield make
    for watched in made:
        watched.link.cleanup()
