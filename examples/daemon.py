"""A daemon: the loop in the main thread, ended by SIGTERM or Ctrl-C.

Here a client is started beside it, which asks it to end. Prints::

    client: 3 messages counted
    daemon: everything is sent and closed
"""

from __future__ import annotations

import signal
import threading

from snakemq import Peer, ReceivedMessage

count = 0


def on_message(received: ReceivedMessage) -> None:
    global count
    if received.text == "end":
        daemon.send(received.ident, f"{count} messages counted")
        end()
    else:
        count += 1


def end(*args: object) -> None:
    # In a callback or a signal handler this returns at once, and the peer
    # stops when what is queued has been acknowledged.
    daemon.stop(drain=10)


def client() -> None:
    with Peer("client", connect=daemon.addresses) as peer:
        for text in ("one", "two", "three", "end"):
            peer.send("daemon", text)
        print("client:", peer.receive().text)


daemon = Peer("daemon", listen=0, on_message=on_message)
signal.signal(signal.SIGTERM, end)

thread = threading.Thread(target=client)
thread.start()
daemon.run_forever()
thread.join()
print("daemon: everything is sent and closed")
