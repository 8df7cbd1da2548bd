"""Serves calls whose effects can be counted, until it is killed. Usage: ``rpc_server.py OPTIONS``.

Options: ``ident``, ``storage`` (path), ``records`` (path), ``incarnation``.

Each method returns its token and the number of this process, and has recorded
both: ``transactional`` in a table of the storage, the others in the records.

Commands: ``die``: kill yourself in the method that is called after so many
more, before or after its effect; ``drain``: finish what was taken, close
everything and end.
"""

from __future__ import annotations

import contextlib
import sqlite3
import threading

from control import Control, die
from records import RECEIVED, Recorder

from snakemq.link import Link
from snakemq.messaging import Messaging, ReceiveHook
from snakemq.packeter import Packeter
from snakemq.rpc import RpcServer, at_most_once, current_call, transactional
from snakemq.storage.sqlite import SqliteQueuesStorage


class Effects:
    """What is served."""

    def __init__(self, recorder: Recorder, incarnation: int) -> None:
        self._recorder = recorder
        self._incarnation = incarnation
        self._lock = threading.Lock()
        self._calls_left: int | None = None
        self._effect_first = False

    def plan_death(self, count: int, effect_first: bool) -> None:
        with self._lock:
            self._effect_first = effect_first
            self._calls_left = count

    @contextlib.contextmanager
    def _dangerous(self):
        with self._lock:
            dying = False
            if self._calls_left is not None:
                self._calls_left -= 1
                dying = self._calls_left <= 0
        if dying and not self._effect_first:
            die()
        yield
        if dying:
            die()

    @transactional
    def exactly(self, token: int) -> tuple[int, int]:
        db = current_call().transaction.db
        with self._dangerous():
            db.execute("INSERT INTO effects VALUES (?, ?)", (token, self._incarnation))
            db.execute("UPDATE counter SET value = value + 1")
        return token, self._incarnation

    def at_least(self, token: int) -> tuple[int, int]:
        with self._dangerous():
            self._recorder.write(RECEIVED, token)
        return token, self._incarnation

    @at_most_once
    def at_most(self, token: int) -> tuple[int, int]:
        with self._dangerous():
            self._recorder.write(RECEIVED, token)
        return token, self._incarnation


def main() -> None:
    control = Control()
    options = control.options
    with contextlib.closing(sqlite3.connect(options["storage"], timeout=20)) as db, db:
        db.execute("CREATE TABLE IF NOT EXISTS effects (token INTEGER, incarnation INTEGER)")
        db.execute("CREATE TABLE IF NOT EXISTS counter (value INTEGER)")
        db.execute("INSERT INTO counter SELECT 0 WHERE NOT EXISTS (SELECT * FROM counter)")
    recorder = Recorder(options["records"], options["incarnation"])
    link = Link()
    storage = SqliteQueuesStorage(options["storage"])
    messaging = Messaging(options["ident"], "", Packeter(link), storage)
    messaging.takeover_wait = 0.05
    server = RpcServer(ReceiveHook(messaging), durable=True)
    effects = Effects(recorder, options["incarnation"])
    server.register_object(effects, "effects")
    port = link.add_listener(("127.0.0.1", 0))[1]
    loop = threading.Thread(target=link.loop, daemon=True)
    loop.start()
    control.at_once("die", effects.plan_death)
    control.start()
    control.say(ready=port)
    while control.next() is None:
        control.changed.wait()
        control.changed.clear()
    drained = server.drain(20)
    link.stop()
    loop.join()
    closed = server.close(20)
    link.cleanup()
    messaging.close()
    control.say(drained=[drained, closed])


if __name__ == "__main__":
    main()
