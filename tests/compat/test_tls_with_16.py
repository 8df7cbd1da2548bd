"""TLS between this package and the real snakeMQ 1.6, where a Python can run the latter's.

That is up to Python 3.11; later ones have no ``ssl.wrap_socket``.
"""

from __future__ import annotations

import hashlib
import ssl
from collections.abc import Iterator

import pytest

from tests.compat.harness import PeerProcess, PeerProcesses, PythonEnv, run_python

PROGRAM = "messenger.py"

#: Who listens, who connects.
ROLES = [("old", "new"), ("new", "old")]


@pytest.fixture(scope="module")
def old_tls(snakemq16_env: PythonEnv) -> None:
    """Skips where 1.6 has no TLS."""
    probe = "import ssl; ssl.wrap_socket"
    if run_python(snakemq16_env, ["-W", "ignore", "-c", probe]).returncode:
        pytest.skip(f"1.6 has no TLS on {snakemq16_env.python}: it needs Python 3.11 or older")


@pytest.fixture(params=ROLES, ids=[f"{a}-listens-{b}-connects" for a, b in ROLES])
def pair(
    request: pytest.FixtureRequest,
    old_tls: None,
    peers: PeerProcesses,
    certificates: dict[str, str],
) -> Iterator[tuple[PeerProcess, PeerProcess]]:
    """Two connected peers; each has a certificate and checks the other's."""
    listens, connects = request.param
    tls = {
        "keyfile": certificates["peer.key"],
        "certfile": certificates["peer.crt"],
        "ca_certs": certificates["root.crt"],
        "cert_reqs": int(ssl.CERT_REQUIRED),
    }
    listener = peers.listener(listens, PROGRAM, "alice", tls=tls)
    connector = peers.connector(connects, PROGRAM, "bob", listener.port, tls=tls)
    listener.wait_one("connected", peer="bob")
    connector.wait_one("connected", peer="alice")
    yield listener, connector
    assert [listener.stop(), connector.stop()] == [0, 0]


def test_messages_small_and_large_both_ways(pair: tuple[PeerProcess, PeerProcess]) -> None:
    block = bytes(range(251))
    size = 2_000_000
    expected = hashlib.sha256((block * (size // 251 + 1))[:size]).hexdigest()
    for sender, receiver in (pair, pair[::-1]):
        sender.do("thread_send_numbers", to=receiver.ident, start=0, stop=500)
        messages = receiver.wait("message", count=500)
        assert [m["data"] for m in messages] == [str(n) for n in range(500)]
        sender.tell("send", to=receiver.ident, size=size, ttl=None)
        assert receiver.wait_one("message", size=size)["sha256"] == expected
