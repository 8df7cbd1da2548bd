"""Remote calls: results, keyword arguments, exceptions, signals.

Prints::

    2 + 40 = 42
    hello, hello, hello
    remote ZeroDivisionError: division by zero
    the traceback names divide: True
    a signal returns None
    bob has noted: tea is ready
"""

from __future__ import annotations

import queue

from snakemq import Peer, as_signal


class Service:
    """Its public methods can be called by other peers."""

    def __init__(self) -> None:
        # Methods run in threads of their own, several at the same time.
        self.notes: queue.Queue[str] = queue.Queue()

    def add(self, a: int, b: int) -> int:
        return a + b

    def repeat(self, word: str, times: int = 2, separator: str = " ") -> str:
        return separator.join([word] * times)

    def divide(self, a: int, b: int) -> float:
        return a / b

    @as_signal
    def note(self, text: str) -> None:
        self.notes.put(text)


service = Service()
with (
    Peer("bob", listen=0, serve={"service": service}) as bob,
    Peer("alice", connect=bob.addresses) as alice,
):
    proxy = alice.proxy("bob", "service")

    # Waits until bob is there and has answered, if need be for ever ...
    print("2 + 40 =", proxy.add(2, 40))
    # ... or so many seconds.
    proxy.repeat.set_timeout(30)
    print(proxy.repeat("hello", times=3, separator=", "))

    try:
        proxy.divide(1, 0)
    except ZeroDivisionError as exc:
        print(f"remote {type(exc).__name__}: {exc}")
        print("the traceback names divide:", "in divide" in exc.__remote_traceback__)

    # Nobody waits for a signal. It may wait 10 seconds for bob to be there.
    proxy.note.as_signal(10)
    print("a signal returns", proxy.note("tea is ready"))
    print("bob has noted:", service.notes.get())
