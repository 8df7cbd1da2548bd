"""One of the two processes of the demo: a peer that does as it is told.

Commands come in on standard input and reports go out on standard output, a
JSON object in each line. When standard input ends, so does the process: it
does not outlive the demo, however that ends.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import threading
from typing import Any

from snakemq.peer import Peer, ReceivedMessage
from snakemq.rpc import as_signal

#: How long a call may take, in seconds.
CALL_TIMEOUT = 20.0

_output_lock = threading.Lock()


def report(event: str, **fields: object) -> None:
    """Write a report. From any thread."""
    line = json.dumps({"event": event, **fields})
    with _output_lock:
        print(line, flush=True)


class Calculator:
    """What bob serves. It reports each call, so that the demo knows that it happened there."""

    def add(self, a: int, b: int) -> int:
        report("called", method="add", args=[a, b])
        return a + b

    def divide(self, a: int, b: int) -> float:
        report("called", method="divide", args=[a, b])
        return a / b

    @as_signal
    def note(self, text: str) -> None:
        report("called", method="note", args=[text])


def on_message(received: ReceivedMessage) -> None:
    report("message", ident=received.ident, text=received.text, uuid=received.uuid.hex())


def obey(peer: Peer, command: dict[str, Any]) -> None:
    """Do what a command says."""
    match command:
        case {"do": "send", "to": ident, "text": text}:
            uuid = peer.send(ident, text)
            report("queued", uuid=uuid.hex(), count=peer.queued(ident))
        case {"do": "call", "to": ident, "method": name, "args": args}:
            method = getattr(peer.proxy(ident, "calculator"), name)
            method.set_timeout(CALL_TIMEOUT)
            try:
                result = method(*args)
            except Exception as exc:
                report(
                    "exception",
                    type=type(exc).__name__,
                    text=str(exc),
                    traceback=getattr(exc, "__remote_traceback__", None),
                )
            else:
                report("result", value=result)
        case {"do": "signal", "to": ident, "text": text}:
            note = peer.proxy(ident, "calculator").note
            note.as_signal(CALL_TIMEOUT)
            report("signalled", value=note(text))
        case _:
            raise ValueError(f"unknown command: {command!r}")


def main() -> None:
    """Run until standard input ends or says so."""
    parser = argparse.ArgumentParser()
    parser.add_argument("identifier")
    parser.add_argument("--listen")
    parser.add_argument("--connect")
    parser.add_argument("--storage")
    args = parser.parse_args()
    peer = Peer(
        args.identifier,
        listen=args.listen,
        connect=args.connect,
        storage=args.storage,
        serve={"calculator": Calculator()},
        on_message=on_message,
    )
    peer.on_peer_connect.add(lambda ident: report("connect", ident=ident))
    peer.on_peer_disconnect.add(lambda ident: report("disconnect", ident=ident))
    with peer:
        report("ready", pid=os.getpid(), addresses=peer.addresses, queued=peer.queued())
        for line in sys.stdin:
            command = json.loads(line)
            if command == {"do": "stop"}:
                break
            obey(peer, command)


if __name__ == "__main__":
    main()
