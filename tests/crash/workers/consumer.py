"""Takes messages one by one, and none without permission. Usage: ``consumer.py OPTIONS``.

Options: ``ident``; ``how``: ``callback`` (it waits for permission in the
callback, and the loop with it) or ``receive``; optional ``storage`` (path),
``keywords`` for ``Peer``.

Commands: ``permit``: take so many more; when they are taken it tells how many
it has had in all, and whether they were all, in order.
"""

from __future__ import annotations

import struct
import threading

from control import Control

from snakemq import Peer


class Consumer:
    def __init__(self, control: Control) -> None:
        self._control = control
        self._changed = threading.Condition()
        self._permitted = 0
        self._count = 0
        self._complete = True
        control.at_once("permit", self._permit)

    def _permit(self, count: int) -> None:
        with self._changed:
            self._permitted += count
            self._changed.notify()

    def wait(self) -> None:
        """Until one more may be taken."""
        with self._changed:
            self._changed.wait_for(lambda: self._count < self._permitted)

    def take(self, data: bytes) -> None:
        with self._changed:
            self._complete &= struct.unpack_from("!Q", data)[0] == self._count
            self._count += 1
            done = self._count == self._permitted
        if done:
            self._control.say(taken=[self._count, self._complete])


def main() -> None:
    control = Control()
    consumer = Consumer(control)
    in_callback = control.options["how"] == "callback"

    def on_message(received: object) -> None:
        consumer.wait()
        consumer.take(received.data)

    with Peer(
        control.options["ident"],
        listen=0,
        storage=control.options.get("storage"),
        on_message=on_message if in_callback else None,
        **control.options.get("keywords", {}),
    ) as peer:
        if not in_callback:
            # From now on it counts as a program that reads, and does not lose
            # what comes before it has permission.
            peer.receive(timeout=0)
        control.start()
        control.say(ready=peer.addresses[0][1])
        while not in_callback:
            consumer.wait()
            consumer.take(peer.receive().data)
        threading.Event().wait()


if __name__ == "__main__":
    main()
