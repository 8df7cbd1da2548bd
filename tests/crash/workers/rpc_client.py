"""Makes calls as fast as it can, until it is killed. Usage: ``rpc_client.py OPTIONS``.

Options: ``ident``, ``connect`` (port), ``server`` (its identifier), ``records``
(path), ``incarnation``, ``first``: token of the first call.

Of each call it records that it is going to be made, and how it ended.

Commands: ``stop``: make no more, wait for those that are under way, and end.
"""

from __future__ import annotations

import threading

from control import Control
from records import ACCEPTED, ENDED, OFFERED, Recorder

from snakemq import Peer
from snakemq.rpc import CallInterrupted

#: How many calls wait for their ends.
OUTSTANDING = 12

METHODS = ("exactly", "at_least", "at_most")


class Caller:
    """Makes calls one after the other, and many at a time."""

    def __init__(self, control: Control, peer: Peer, recorder: Recorder) -> None:
        self._proxy = peer.proxy(control.options["server"], "effects")
        self._recorder = recorder
        self._lock = threading.Lock()
        self._next = control.options["first"]
        self._room = threading.Semaphore(OUTSTANDING)
        self.stop = threading.Event()

    def _token(self) -> int:
        with self._lock:
            token = self._next
            self._next += 1
        self._recorder.write(OFFERED, token)
        return token

    def _ended(self, token: int, value: object, error: BaseException | None) -> None:
        if error is None:
            number, incarnation = value
            assert number == token
            self._recorder.write(ACCEPTED, token, size=incarnation)
        else:
            assert isinstance(error, CallInterrupted), repr(error)
            self._recorder.write(ENDED, token)

    def block(self) -> None:
        while not self.stop.is_set():
            token = self._token()
            value = error = None
            try:
                value = getattr(self._proxy, METHODS[token % 3])(token)
            except CallInterrupted as exc:
                error = exc
            self._ended(token, value, error)

    def flood(self) -> None:
        def done(future) -> None:
            error = future.exception()
            self._ended(future.token, None if error else future.result(), error)
            self._room.release()

        while not self.stop.is_set():
            self._room.acquire()
            token = self._token()
            future = getattr(self._proxy, METHODS[token % 3]).future(token)
            future.token = token
            future.add_done_callback(done)
        for _ in range(OUTSTANDING):
            self._room.acquire()


def main() -> None:
    control = Control()
    options = control.options
    recorder = Recorder(options["records"], options["incarnation"])
    peer = Peer(options["ident"], connect=options["connect"], reconnect_interval=0.02)
    # Connections that are cut at once are no reason here to dial less often.
    peer.link.reconnect_interval_max = 0.02
    caller = Caller(control, peer, recorder)
    peer.start()
    threads = [threading.Thread(target=func, daemon=True) for func in (caller.block, caller.flood)]
    for thread in threads:
        thread.start()
    control.start()
    control.say(ready=None)
    while control.next() is None:
        control.changed.wait()
        control.changed.clear()
    caller.stop.set()
    for thread in threads:
        thread.join()
    assert peer.rpc_client.pending_calls() == 0
    peer.stop()
    control.say(stopped=None)


if __name__ == "__main__":
    main()
