"""The layers put together by hand, as in a program for snakeMQ 1.6: a queue on disk.

Here two stacks share a thread: their loops run in turn, for a moment each.
Prints::

    in the file: [b'hello']
    bob received b'hello'
    in the file: []
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import snakemq.link
import snakemq.messaging
import snakemq.packeter
from snakemq.message import FLAG_PERSISTENT, Message
from snakemq.storage.sqlite import SqliteQueuesStorage


def show(filename: str) -> None:
    with SqliteQueuesStorage(filename) as storage:
        print("in the file:", [item.data for item in storage.get_items("bob")])


with tempfile.TemporaryDirectory() as directory:
    filename = str(Path(directory, "storage.db"))

    # Alice, for the first time. Her loop does not even run.
    link = snakemq.link.Link()
    packeter = snakemq.packeter.Packeter(link)
    storage = SqliteQueuesStorage(filename)
    messaging = snakemq.messaging.Messaging("alice", "", packeter, storage)
    messaging.send_message("bob", Message(b"hello", ttl=600, flags=FLAG_PERSISTENT))
    link.cleanup()
    messaging.close()
    show(filename)

    # Bob.
    received: list[bytes] = []
    bob_link = snakemq.link.Link()
    bob_packeter = snakemq.packeter.Packeter(bob_link)
    bob_messaging = snakemq.messaging.Messaging("bob", "", bob_packeter)
    bob_messaging.on_message_recv.add(lambda conn, ident, message: received.append(message.data))
    address = bob_link.add_listener(("127.0.0.1", 0))

    # Alice, for the second time.
    link = snakemq.link.Link()
    packeter = snakemq.packeter.Packeter(link)
    storage = SqliteQueuesStorage(filename)
    messaging = snakemq.messaging.Messaging("alice", "", packeter, storage)
    link.add_connector(address)
    while storage.get_items("bob"):  # until bob has acknowledged it
        link.loop(runtime=0.01)
        bob_link.loop(runtime=0.01)
    print("bob received", received[0])

    for one in (link, bob_link):
        one.cleanup()
    messaging.close()
    show(filename)
