"""Serves remote calls and makes them. Usage: ``caller.py OPTIONS`` (see console.py)."""

import json
import sys
import threading

import snakemq.messaging
import snakemq.rpc
from console import Console, emit
from laberrors import LabError


class Service(object):
    """What the other side may call."""

    def __init__(self):
        self.gate = threading.Event()

    def echo(self, *args, **kwargs):
        return {"args": args, "kwargs": kwargs}

    def join(self, first, second="?", sep="-"):
        return first + sep + second

    def size(self, data):
        return len(data)

    def divide(self, a, b):
        return a // b

    def lookup(self, key):
        return {}[key]

    def lab(self, code, text):
        raise LabError(code, text)

    def hold(self, token):
        """Answer only when the command ``release`` has come."""
        emit("holding", token=token)
        self.gate.wait()
        return token

    @snakemq.rpc.as_signal
    def note(self, *args, **kwargs):
        emit("signal", args=args, kwargs=kwargs)


class Caller(Console):
    def __init__(self, options):
        Console.__init__(self, options)
        hook = snakemq.messaging.ReceiveHook(self.messaging)
        self.server = snakemq.rpc.RpcServer(hook)
        self.client = snakemq.rpc.RpcClient(hook)
        self.service = Service()
        self.server.register_object(self.service, "service")
        self.server.transfer_exceptions = options.get("transfer_exceptions", True)
        self.proxies = {}

    def do_call(self, to, method, token, args=(), kwargs=None, name="service", timeout=None):
        thread = threading.Thread(
            target=self.call, args=(token, to, name, method, args, kwargs or {}, timeout)
        )
        thread.daemon = True
        thread.start()

    def call(self, token, to, name, method, args, kwargs, timeout):
        remote = getattr(self.client.get_proxy(to, name), method)
        if timeout is not None:
            remote.set_timeout(timeout)
        try:
            value = remote(*args, **kwargs)
        except Exception as exc:
            emit(
                "raised",
                token=token,
                type=type(exc).__name__,
                module=type(exc).__module__,
                args=[str(arg) for arg in exc.args],
                code=getattr(exc, "code", None),
                traceback=getattr(exc, "__remote_traceback__", None),
                is_call_error=isinstance(exc, snakemq.rpc.CallError),
            )
        else:
            emit("returned", token=token, value=value, repr=repr(value))

    def do_signal(self, to, method, ttl, args=(), kwargs=None):
        proxy = self.proxies.setdefault(to, self.client.get_proxy(to, "service"))
        remote = getattr(proxy, method)
        remote.as_signal(ttl)
        return remote(*args, **(kwargs or {}))

    def do_release(self):
        self.service.gate.set()

    def do_hold_again(self):
        self.service.gate.clear()


if __name__ == "__main__":
    Caller(json.loads(sys.argv[1])).main()
