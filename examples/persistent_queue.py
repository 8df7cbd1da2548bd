"""A message that survives the end of its sender.

The first alice ends before bob was ever there. The second one finds the
message in the file and delivers it. Prints::

    sent, and 1 message waits
    alice is back, and 1 message waits
    bob got: written to disk
    0 messages wait
"""

from __future__ import annotations

import tempfile
from pathlib import Path

from snakemq import Peer

with tempfile.TemporaryDirectory() as directory:
    storage = Path(directory, "queue.db")

    # With a storage, messages are persistent: on disk when send() returns.
    with Peer("alice", storage=storage) as alice:
        alice.send("bob", "written to disk")
        print(f"sent, and {alice.queued()} message waits")

    with Peer("bob", listen=0) as bob:
        alice = Peer("alice", connect=bob.addresses, storage=storage)
        print(f"alice is back, and {alice.queued()} message waits")
        with alice:
            print("bob got:", bob.receive().text)
            alice.flush()
            print(f"{alice.queued()} messages wait")
