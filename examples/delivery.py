"""What became of a message.

Prints::

    to bob: acknowledged
    to carol: expired
    to dave, for now only: dropped
    bob got: hello, one, two
"""

from __future__ import annotations

from snakemq import DeliveryState, Peer

with Peer("bob", listen=0) as bob, Peer("alice", connect=bob.addresses) as alice:
    delivery = alice.send("bob", "hello", track=True)
    assert delivery.wait(timeout=10) is DeliveryState.ACKNOWLEDGED
    print("to bob:", delivery.state.value)

    # Carol is not there, and does not come within its time to live.
    delivery = alice.send("carol", "hello", ttl=0.1, track=True)
    print("to carol:", delivery.wait(timeout=10).value)

    # With a time to live of 0, who is not there now gets nothing.
    delivery = alice.send("dave", "hello", ttl=0, track=True)
    print("to dave, for now only:", delivery.state.value)

    # Both or none: if the block is left by an exception, nothing is sent.
    with alice.batch() as batch:
        batch.send("bob", "one")
        batch.send("bob", "two")
    print("bob got:", ", ".join(bob.receive().text for _ in range(3)))
