"""The layers put together by hand, as in a program for snakeMQ 1.6: remote calls.

Prints::

    fo value
    the server got a signal
    LookupError: nothing here
"""

from __future__ import annotations

import threading

import snakemq.link
import snakemq.messaging
import snakemq.packeter
import snakemq.rpc


class Stack:
    def __init__(self, identifier: str) -> None:
        self.link = snakemq.link.Link()
        self.packeter = snakemq.packeter.Packeter(self.link)
        self.messaging = snakemq.messaging.Messaging(identifier, "", self.packeter)
        self.hook = snakemq.messaging.ReceiveHook(self.messaging)
        self.thread = threading.Thread(target=self.link.loop)


got_signal = threading.Event()


class MyClass:
    def get_fo(self) -> str:
        return "fo value"

    def fail(self) -> None:
        raise LookupError("nothing here")

    @snakemq.rpc.as_signal  # mark method as a signal
    def mysignal(self) -> None:
        print("the server got a signal")
        got_signal.set()


server = Stack("server")
srpc = snakemq.rpc.RpcServer(server.hook)
srpc.register_object(MyClass(), "myinstance")
address = server.link.add_listener(("127.0.0.1", 0))

client = Stack("client")
crpc = snakemq.rpc.RpcClient(client.hook)
proxy = crpc.get_proxy("server", "myinstance")
proxy.mysignal.as_signal(10)  # 10 seconds TTL
client.link.add_connector(address)

for stack in (server, client):
    stack.thread.start()

print(proxy.get_fo())  # blocks until the server responds
proxy.mysignal()  # does not block
got_signal.wait()
try:
    proxy.fail()
except LookupError as exc:
    print(f"LookupError: {exc}")

for stack in (client, server):
    stack.link.stop()
    stack.thread.join()
    stack.link.cleanup()
srpc.close()
