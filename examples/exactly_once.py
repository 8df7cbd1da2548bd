"""Orders that are written into a database once each, whatever goes wrong.

The first attempt at the second order fails when it has been written and
before it is committed. Prints::

    bob: order 1, attempt 1
    bob: order 2, attempt 1
    bob: order 2, attempt 2
    alice got: order 1 confirmed, order 2 confirmed
    in the database: order 1, order 2
"""

from __future__ import annotations

import logging
import sqlite3
import tempfile
from pathlib import Path

from snakemq import Peer, ReceivedMessage


def on_order(received: ReceivedMessage) -> None:
    print(f"bob: {received.text}, attempt {received.attempts}")
    # What is written, what is sent, and that the message is handled: all of it
    # is committed at the end of the block, or nothing.
    with received.transaction() as transaction:
        transaction.db.execute("INSERT INTO orders VALUES (?)", [received.text])
        transaction.send(received.ident, f"{received.text} confirmed")
        if received.text == "order 2" and received.attempts == 1:
            raise RuntimeError("no luck this time")


# What fails is logged; here it fails on purpose.
logging.getLogger("snakemq").setLevel(logging.CRITICAL)

with tempfile.TemporaryDirectory() as directory:
    # The program's own tables are in the file of the storage.
    file = Path(directory, "bob.db")
    with sqlite3.connect(file) as db:
        db.execute("CREATE TABLE orders (text)")
    db.close()

    bob = Peer("bob", listen=0, storage=file, durable_receive=True, on_message=on_order)
    bob.messaging.inbox.retry_delay = 0.1
    with bob, Peer("alice", connect=bob.addresses) as alice:
        alice.send("bob", "order 1")
        alice.send("bob", "order 2")
        answers = [alice.receive().text for _ in range(2)]
        print("alice got:", ", ".join(answers))

    db = sqlite3.connect(file)
    orders = [text for (text,) in db.execute("SELECT text FROM orders ORDER BY rowid")]
    print("in the database:", ", ".join(orders))
    db.close()
