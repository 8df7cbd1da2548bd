"""TLS with certificates on both sides.

Bob accepts connections from those only who have a certificate by the authority
that he trusts. Alice dials an address, and checks that the certificate of who is
there is bob's. Prints::

    mallory, without a certificate, is not connected
    over TLS: a secret
    bob has seen the certificate of alice.example
"""

from __future__ import annotations

from pathlib import Path

from snakemq import Peer, SSLConfig

CERTIFICATES = Path(__file__).parent / "certificates"


def tls(name: str, dialled: str | None = None) -> SSLConfig:
    return SSLConfig(
        keyfile=CERTIFICATES / f"{name}.key",
        certfile=CERTIFICATES / f"{name}.pem",
        ca_certs=CERTIFICATES / "authority.pem",
        # Else it is the host that is dialled that has to be in the certificate.
        server_hostname=dialled,
    )


with Peer("bob", listen=0, tls=tls("bob")) as bob:
    unknown = SSLConfig(
        ca_certs=CERTIFICATES / "authority.pem",
        server_hostname="bob.example",
    )
    with Peer("mallory", connect=bob.addresses, tls=unknown) as mallory:
        if not mallory.wait_connected("bob", timeout=0.5):
            print("mallory, without a certificate, is not connected")

    with Peer("alice", connect=bob.addresses, tls=tls("alice", "bob.example")) as alice:
        alice.send("bob", "a secret")
        received = bob.receive()
        print("over TLS:", received.text)
        certificate = bob.link.get_socket_by_conn(received.conn_id).getpeercert()
        ((_, name),) = certificate["subjectAltName"]
        print("bob has seen the certificate of", name)
