"""Remote calls in JSON: values, exceptions, and a caller in another language.

With a port as its argument it serves until Ctrl-C, for examples/rpc_client.js.

Prints::

    2 + 40 = 42
    b'\\x00\\xff' (1, 2) 2024-05-17
    ZeroDivisionError: division by zero
    on the wire: {"$tuple":[1,{"$bytes":"AP8="}]}
"""

from __future__ import annotations

import datetime
import sys
from typing import Any

from snakemq import Peer
from snakemq.messaging import ReceiveHook
from snakemq.rpc import RpcClient, RpcServer
from snakemq.rpc.json_serializer import JSON


class Calculator:
    def add(self, a: int, b: int) -> int:
        return a + b

    def divide(self, a: int, b: int) -> float:
        return a / b

    def echo(self, *args: Any) -> tuple[Any, ...]:
        return args


port = int(sys.argv[1]) if len(sys.argv) > 1 else 0
bob = Peer("bob", listen=port)
server = RpcServer(ReceiveHook(bob.messaging), JSON)
server.register_object(Calculator(), "calc")

if port:
    bob.run_forever()
else:
    with bob, Peer("alice", connect=bob.addresses) as alice:
        calc = RpcClient(ReceiveHook(alice.messaging), JSON).get_proxy("bob", "calc")
        print("2 + 40 =", calc.add(2, 40))
        print(*calc.echo(b"\x00\xff", (1, 2), datetime.date(2024, 5, 17)))
        try:
            calc.divide(1, 0)
        except ZeroDivisionError as exc:
            print(f"ZeroDivisionError: {exc}")
        print("on the wire:", JSON.dumps((1, b"\x00\xff")).decode())

server.close()
