"""Sends and receives messages. Usage: ``messenger.py OPTIONS`` (see console.py)."""

import base64
import hashlib
import json
import sys

from console import Console, emit
from snakemq.message import Message

#: Longer payloads are reported by their digest.
SHOWN = 4096


def pattern(size):
    """``size`` bytes that differ from place to place."""
    block = bytes(bytearray(range(251)))  # 251 is prime: no alignment with any buffer
    return (block * (size // len(block) + 1))[:size]


class Messenger(Console):
    def __init__(self, options):
        Console.__init__(self, options)
        self.messaging.on_message_recv.add(self.on_message)
        self.messaging.on_message_sent.add(self.on_sent)
        self.messaging.on_message_drop.add(self.on_drop)

    def on_message(self, conn_id, ident, message):
        data = message.data
        short = len(data) <= SHOWN
        emit(
            "message",
            peer=ident,
            conn=conn_id,
            uuid=base64.b16encode(message.uuid).decode("ascii"),
            ttl=message.ttl,
            flags=message.flags,
            size=len(data),
            data=data.decode("latin-1") if short else None,
            sha256=hashlib.sha256(data).hexdigest(),
        )

    def on_sent(self, conn_id, ident, uuid):
        emit("sent", peer=ident, uuid=base64.b16encode(uuid).decode("ascii"))

    def on_drop(self, ident, uuid):
        emit("dropped", peer=ident, uuid=base64.b16encode(uuid).decode("ascii"))

    def do_send(self, to, data="", ttl=0, flags=0, uuid=None, size=None):
        payload = pattern(size) if size is not None else data.encode("latin-1")
        message = Message(
            payload, ttl=ttl, flags=flags, uuid=uuid.encode("latin-1") if uuid else None
        )
        self.messaging.send_message(to, message)
        return base64.b16encode(message.uuid).decode("ascii")

    def do_send_numbers(self, to, start, stop, ttl=None, flags=0):
        for number in range(start, stop):
            data = str(number).encode("ascii")
            self.messaging.send_message(to, Message(data, ttl=ttl, flags=flags))

    do_thread_send_numbers = do_send_numbers


if __name__ == "__main__":
    Messenger(json.loads(sys.argv[1])).main()
