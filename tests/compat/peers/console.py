"""What both programs here share: JSON lines in and out, and the loop around them.

The programs are written against snakeMQ 1.6's documented API and nothing else,
so the very same file runs under 1.6 and under its successor. Standard output
carries events, one JSON object a line; standard input carries commands. A
command is run in the loop's thread, as 1.6's manual advises: ``wakeup_poll``
from the thread that reads, the work in ``on_loop_pass``.
"""

import collections
import json
import logging
import sys
import threading

import snakemq
import snakemq.link
import snakemq.messaging
import snakemq.packeter
import snakemq.throttle
import snakemq.version
from snakemq.storage.sqlite import SqliteQueuesStorage

_write_lock = threading.Lock()


def emit(event, **fields):
    """Print one event."""
    line = json.dumps(dict(fields, event=event))
    with _write_lock:
        sys.stdout.write(line + "\n")
        sys.stdout.flush()


def ssl_config(options):
    """An ``SSLConfig`` of the option ``tls``, or None."""
    tls = options.get("tls")
    return snakemq.link.SSLConfig(**tls) if tls else None


class Console(object):
    """A stack, driven by the commands on standard input.

    Options (one JSON object, the first argument): ``ident``; optional
    ``listen`` (address), ``connect`` (list of addresses),
    ``reconnect_interval``, ``storage`` (SQLite file), ``keepalive`` (interval
    and wait), ``tls`` (arguments of ``SSLConfig``), ``throttle`` (bytes per
    second), ``debug``.
    """

    def __init__(self, options):
        self.options = options
        self.commands = collections.deque()
        if options.get("debug"):
            snakemq.init_logging(sys.stderr)
            logging.getLogger("snakemq").setLevel(logging.DEBUG)
        self.link = snakemq.link.Link()
        below = self.link
        if options.get("throttle"):
            below = snakemq.throttle.Throttle(self.link, options["throttle"])
        self.packeter = snakemq.packeter.Packeter(below)
        # SQLite storage of 1.6 belongs to the thread that opened it: that is
        # the one which runs the loop, and every command.
        storage = SqliteQueuesStorage(options["storage"]) if options.get("storage") else None
        self.messaging = snakemq.messaging.Messaging(options["ident"], "", self.packeter, storage)
        if options.get("keepalive"):
            interval, wait = options["keepalive"]
            self.messaging.keepalive_interval = interval
            self.messaging.keepalive_wait = wait
        self.messaging.on_connect.add(self.on_connect)
        self.messaging.on_disconnect.add(self.on_disconnect)
        self.messaging.on_error.add(self.on_error)
        self.link.on_loop_pass.add(self.run_commands)

    def on_connect(self, conn_id, ident):
        emit("connected", peer=ident, conn=conn_id)

    def on_disconnect(self, conn_id, ident):
        emit("disconnected", peer=ident, conn=conn_id)

    def on_error(self, conn_id, exc):
        emit("error", type=type(exc).__name__, conn=conn_id)

    def read_commands(self):
        for line in sys.stdin:
            command = json.loads(line)
            if command["do"].startswith("thread_"):
                # Thread-safe by the manual: run right here.
                self.run(command)
            else:
                self.commands.append(command)
                self.link.wakeup_poll()
        self.commands.append({"do": "stop", "id": None})
        self.link.wakeup_poll()

    def run_commands(self):
        while self.commands:
            self.run(self.commands.popleft())

    def run(self, command):
        command = dict(command)
        number = command.pop("id")
        try:
            value = getattr(self, "do_" + command.pop("do"))(**command)
        except Exception as exc:
            emit("failed", id=number, type=type(exc).__name__, text=str(exc))
        else:
            emit("done", id=number, value=value)

    def do_stop(self):
        self.link.stop()

    def do_disconnect(self, conn):
        self.link.close(conn)

    def do_ping(self):
        """Nothing: the answer shows that the loop lives."""

    def main(self):
        config = ssl_config(self.options)
        listening = None
        if self.options.get("listen"):
            listening = self.link.add_listener(tuple(self.options["listen"]), ssl_config=config)
        for address in self.options.get("connect", ()):
            self.link.add_connector(
                tuple(address),
                reconnect_interval=self.options.get("reconnect_interval"),
                ssl_config=config,
            )
        emit("ready", listening=listening, version=snakemq.version.VERSION)
        reader = threading.Thread(target=self.read_commands)
        reader.daemon = True
        reader.start()
        self.link.loop()
        self.link.cleanup()
        self.messaging.queues_manager.close()
        emit("ended")
