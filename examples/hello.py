"""The smallest program: two peers, one message.

Usually the two are in two programs, on two machines. Prints::

    alice says: hello
"""

from __future__ import annotations

from snakemq import Peer

# Port 0 is any free one; in a program of your own you would choose one.
with Peer("bob", listen=0) as bob, Peer("alice", connect=bob.addresses) as alice:
    alice.send("bob", "hello")
    received = bob.receive()
    print(f"{received.ident} says: {received.text}")
