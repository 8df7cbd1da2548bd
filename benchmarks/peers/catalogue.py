"""The peers by name. A new one is a module in this package and an entry here."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from benchmarks.environments import Environment, importable, installed, this_tree
from benchmarks.servers import Server, mosquitto, nats, rabbitmq

__all__ = ["PEERS", "US", "Peer"]

_ONE_WAY: Final = ("small", "large")
_CALLS: Final = ("rpc", "rpc16")
_MANY_CALLERS: Final = (*_CALLS, "connections")
_IN_MEMORY: Final = (*_ONE_WAY, *_CALLS)
_DURABLE: Final = ("durable", "durable256", "durable16")
_ALL: Final = (
    *(*_IN_MEMORY, "tls-small", "tls-large", "huge"),
    *("connections", "transient", "idle"),
)


@dataclass(frozen=True)
class Peer:
    """Somebody who is measured.

    :param module: what to import in the processes
    :param environment: gives the Python and the packages of the processes,
        installs what is missing in the directory that it gets
    :param workloads: in which it takes part
    :param server: runs what the processes need, while it is entered, with its
        data in the directory that it gets
    """

    module: str
    environment: Callable[[Path], Environment]
    workloads: tuple[str, ...]
    server: Callable[[Path], AbstractContextManager[Server]] | None = None


def _client_of(
    find_server: Callable[[], str], client: Callable[[Path], Environment]
) -> Callable[[Path], Environment]:
    """What installs a client only where its server is."""

    def prepare(cache: Path) -> Environment:
        find_server()
        return client(cache)

    return prepare


#: In the order of the table.
PEERS: Final[dict[str, Peer]] = {
    "snakemq": Peer("benchmarks.peers.layers", this_tree, _ALL),
    "snakemq-peer": Peer("benchmarks.peers.facade", this_tree, (*_ALL, *_DURABLE, "backlog")),
    "snakemq-1.6": Peer(
        "benchmarks.peers.release_16",
        installed(
            "snakeMQ==1.6",
            check="from benchmarks.peers import release_16; release_16.receive(print).close()",
        ),
        # It has no batches, and its storage can be used by one thread only.
        (*_ALL, "durable"),
    ),
    "pyzmq": Peer(
        "benchmarks.peers.pyzmq",
        importable("zmq", "pyzmq>=26"),
        (*_IN_MEMORY, "huge", "connections", "transient"),
    ),
    "nng": Peer(
        "benchmarks.peers.nng",
        importable("pynng", "pynng>=0.8"),
        (*_IN_MEMORY, "huge", "connections"),
    ),
    "multiprocessing": Peer(
        "benchmarks.peers.multiprocessing_connection",
        this_tree,
        (*_IN_MEMORY, "huge", "connections"),
    ),
    "nats": Peer(
        "benchmarks.peers.nats",
        _client_of(nats.find_server, importable("nats.js", "nats-py>=2.9")),
        (*_IN_MEMORY, *_DURABLE),
        nats.nats,
    ),
    "rabbitmq": Peer(
        "benchmarks.peers.rabbitmq",
        _client_of(rabbitmq.find_server, importable("pika", "pika>=1.3")),
        _DURABLE,
        rabbitmq.rabbitmq,
    ),
    "mosquitto": Peer(
        "benchmarks.peers.mosquitto",
        _client_of(mosquitto.find_server, importable("paho.mqtt.enums", "paho-mqtt>=2")),
        _ONE_WAY,
        mosquitto.mosquitto,
    ),
    "rpyc": Peer("benchmarks.peers.rpyc", importable("rpyc", "rpyc>=6"), _MANY_CALLERS),
    "pyro5": Peer("benchmarks.peers.pyro5", importable("Pyro5", "Pyro5>=5.15"), _MANY_CALLERS),
    "zerorpc": Peer(
        "benchmarks.peers.zerorpc",
        importable("zerorpc", "zerorpc>=0.6.3"),
        # A process can't have a thousand clients: ZeroMQ has 1023 sockets at most.
        _CALLS,
    ),
    "grpc": Peer("benchmarks.peers.grpc", importable("grpc", "grpcio>=1.66"), _MANY_CALLERS),
    "xmlrpc": Peer("benchmarks.peers.xmlrpc", this_tree, _MANY_CALLERS),
    "raw": Peer("benchmarks.peers.raw", this_tree, _ALL),
    "sqlite": Peer("benchmarks.peers.sqlite", this_tree, _DURABLE),
}

#: Whom the others are compared with, besides the limit of a workload.
US: Final = "snakemq-peer"
