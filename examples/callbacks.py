"""Callbacks: answer each message, and hear of peers that come and go.

Prints::

    bob: alice is here
    alice: the answer is !olleh
    bob: alice is gone
"""

from __future__ import annotations

import threading

from snakemq import Peer, ReceivedMessage

gone = threading.Event()


def on_message(received: ReceivedMessage) -> None:
    # In the thread of bob's loop: to take long here holds up all of bob.
    bob.send(received.ident, received.text[::-1])


def on_peer_disconnect(ident: str) -> None:
    print(f"bob: {ident} is gone")
    gone.set()


bob = Peer("bob", listen=0, on_message=on_message)
bob.on_peer_connect.add(lambda ident: print(f"bob: {ident} is here"))
bob.on_peer_disconnect.add(on_peer_disconnect)

with bob:
    with Peer("alice", connect=bob.addresses) as alice:
        alice.send("bob", "hello!")
        print("alice: the answer is", alice.receive().text)
    gone.wait()
