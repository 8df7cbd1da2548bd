"""What can go wrong with a remote call.

::

    Error
    ├── NoInstanceError            nothing is registered under this name there
    ├── NoMethodError              the object there does not serve this method
    ├── RemoteError                stands for a remote exception whose class is
    │                              not known here
    └── CallError                  the call itself failed, not the method
        ├── NotConnected           ... in time: the peer is not connected
        ├── PartialCall            ... in time: it was sent, and no reply came
        ├── UnreadableReply        a reply came and can't be read
        ├── WouldDeadlock          made in the thread that has to fetch the reply
        └── ClientClosed           the RpcClient was closed

    SignalCallWarning              a signal was called as a call, or the reverse

Everything else that a remote call raises was raised by the remote method.

The names of 1.6 are known to both sides of the wire: exceptions travel by
class name, and 1.6 looks for these in ``snakemq.rpc``.
"""

from __future__ import annotations

from typing import Any, Final

from snakemq.exceptions import SnakeMQException

__all__ = [
    "CallError",
    "ClientClosed",
    "Error",
    "NoInstanceError",
    "NoMethodError",
    "NotConnected",
    "PartialCall",
    "RemoteError",
    "SignalCallWarning",
    "UnreadableReply",
    "WouldDeadlock",
]

#: Where 1.6 has these classes, and so by which name it pickles them.
_PUBLIC: Final = "snakemq.rpc"


class Error(SnakeMQException):
    """Base of the exceptions of remote calls.

    As such, what a remote method returned or raised and could not be
    serialized; the message says what it was and why not.
    """

    __module__ = _PUBLIC


class NoInstanceError(Error):
    """No object is registered under this name on the remote side."""

    __module__ = _PUBLIC


class NoMethodError(Error):
    """The remote object does not serve such a method.

    There is no such attribute, it can't be called, or its name begins with an
    underscore.
    """

    __module__ = _PUBLIC


class RemoteError(Error):
    """Stands for a remote exception that can't be itself here.

    Most often because its class is defined in a module that this program does
    not have, such as the ``__main__`` of the other one. Then it is an instance
    of a class made up for it, with the same name, arguments and attributes.

    :ivar class_name: full name of the class of the remote exception; empty if
        the serializer passes on no more than a text
    """

    __module__ = _PUBLIC

    class_name = ""

    def __reduce__(self) -> tuple[Any, ...]:
        # To the next peer it travels as something that every peer knows.
        name = self.class_name
        return Error, ((name + repr(self.args),) if name else self.args)


class CallError(Error):
    """The call itself failed, not the method. Passes by ``exception_handler``."""

    __module__ = _PUBLIC


class NotConnected(CallError):
    """The timeout of the call is over and the peer is not connected.

    :ivar request_sent: whether the request was sent earlier, on a connection
        that is gone: then the method may have run
    """

    __module__ = _PUBLIC

    request_sent = False


class PartialCall(CallError):
    """The timeout of the call is over: the request was sent and no reply came.

    The method may have run, may still run, or may run later.
    """

    __module__ = _PUBLIC


class _SinceVersion2(CallError):
    """Travels as a CallError: an unknown class would break a 1.6 peer."""

    def __reduce__(self) -> tuple[Any, ...]:
        return CallError, self.args


class UnreadableReply(_SinceVersion2):
    """A reply to this call came and can't be read; the method has run."""

    __module__ = _PUBLIC


class WouldDeadlock(_SinceVersion2, RuntimeError):
    """The call was made in the thread of the loop, inside a callback.

    It would wait for a reply that nobody can receive, because the loop waits
    for the callback. Signals can be sent from there, calls can't.
    """

    __module__ = _PUBLIC


class ClientClosed(_SinceVersion2):
    """:meth:`RpcClient.close` was called before or during the call."""

    __module__ = _PUBLIC


class SignalCallWarning(Warning):
    """A method marked as a signal was called as a regular one, or the reverse.

    Shown on the side of the server, where the method runs all the same.
    """

    __module__ = _PUBLIC
