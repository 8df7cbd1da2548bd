"""One of a redundant pair. Usage: ``redundant_node.py URL RECEIVER_PORT NAME``.

Waits until nobody else has the storage, then sends numbered messages to "bob",
two threads at the same time, until it is killed. Says on standard output:
``waiting``, ``active``, and each message that was accepted.
"""

from __future__ import annotations

import sys
import threading

from snakemq import Peer
from snakemq.storage.sqla import SqlAlchemyQueuesStorage

SENDERS = 2


def say(*words: object) -> None:
    # One write for each line, so that a line is there as a whole or not at all.
    sys.stdout.write(" ".join(map(str, words)) + "\n")
    sys.stdout.flush()


def main() -> None:
    url, port, name = sys.argv[1:]
    say("waiting")
    storage = SqlAlchemyQueuesStorage(url, lock_timeout=None)
    with Peer("pair", connect=int(port), storage=storage, reconnect_interval=0.1) as peer:
        say("active")
        lock = threading.Lock()

        def send(sender: int) -> None:
            number = 0
            while True:
                number += 1
                data = f"{name} {sender} {number}"
                peer.send("bob", data)
                with lock:
                    say("accepted", data)
                if peer.queued("bob") > 300:
                    # Not for long: who was replaced finds that out when it sends.
                    peer.flush("bob", 1)

        threads = [threading.Thread(target=send, args=(each,)) for each in range(SENDERS)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()


if __name__ == "__main__":
    main()
