"""The layers put together by hand, as in a program for snakeMQ 1.6: messages.

Two stacks in one program, each with its loop in a thread. Prints::

    bob is connected to alice
    bob received b'hello' from alice
"""

from __future__ import annotations

import threading

import snakemq.link
import snakemq.message
import snakemq.messaging
import snakemq.packeter


class Stack:
    def __init__(self, identifier: str) -> None:
        self.link = snakemq.link.Link()
        self.packeter = snakemq.packeter.Packeter(self.link)
        self.messaging = snakemq.messaging.Messaging(identifier, "", self.packeter)
        self.thread = threading.Thread(target=self.link.loop)


received = threading.Event()


def on_connect(conn_id: str, ident: str) -> None:
    print("bob is connected to", ident)


def on_message_recv(conn_id: str, ident: str, message: snakemq.message.Message) -> None:
    print("bob received", message.data, "from", ident)
    received.set()


bob = Stack("bob")
bob.messaging.on_connect.add(on_connect)
bob.messaging.on_message_recv.add(on_message_recv)
address = bob.link.add_listener(("127.0.0.1", 0))

alice = Stack("alice")
alice.link.add_connector(address)

for stack in (bob, alice):
    stack.thread.start()

# It is dropped if bob does not come within 600 seconds.
alice.messaging.send_message("bob", snakemq.message.Message(b"hello", ttl=600))
received.wait()

for stack in (alice, bob):
    stack.link.stop()
    stack.thread.join()
    stack.link.cleanup()
