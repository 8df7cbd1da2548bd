"""What can go wrong with a remote call.

::

    Error
    ├── NoInstanceError            nothing is registered under this name there
    ├── NoMethodError              the object there does not serve this method
    ├── RemoteError                stands for a remote exception whose class is
    │                              not known here
    ├── WrongArguments             the method takes other ones (a TypeError, too)
    ├── Unserializable             an argument or a result can't be written
    └── CallError                  the call itself failed, not the method
        ├── NotConnected           ... in time: the peer is not connected
        ├── PartialCall            ... in time: it was sent, and no reply came
        │   └── Expired            its time was over before it was begun there
        ├── UnreadableRequest      an argument can't be read there
        ├── UnreadableReply        a reply came and can't be read
        ├── WouldDeadlock          made in the thread that has to fetch the reply
        ├── ClientClosed           the RpcClient was closed
        ├── Refused                a hook on the other side does not allow it
        │   └── NotAuthorized      this peer may not call that there
        ├── Busy                   so many calls wait there that this can't
        │   └── ServerClosing      it takes no more, because it is going to end
        ├── CallInterrupted        the server was restarted while it ran
        ├── AnswerGone             it has run, and the answer was not kept
        └── StreamGone             the rest of a stream is not to be had any more

    SignalCallWarning              a signal was called as a call, or the reverse

Everything else that a remote call raises was raised by the remote method.

The names of 1.6 are known to both sides of the wire: exceptions travel by
class name, and 1.6 looks for these in ``snakemq.rpc``. The others travel as
one that 1.6 knows, and with a code beside it that says what they are.
"""

from __future__ import annotations

from typing import Any, Final

from snakemq._core.rpc_records import Code
from snakemq.exceptions import SnakeMQException

__all__ = [
    "AnswerGone",
    "Busy",
    "CallError",
    "CallInterrupted",
    "ClientClosed",
    "Error",
    "Expired",
    "NoInstanceError",
    "NoMethodError",
    "NotAuthorized",
    "NotConnected",
    "PartialCall",
    "Refused",
    "RemoteError",
    "ServerClosing",
    "SignalCallWarning",
    "StreamGone",
    "UnreadableReply",
    "UnreadableRequest",
    "Unserializable",
    "WouldDeadlock",
    "WrongArguments",
    "error_of",
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


class WrongArguments(Error, TypeError):
    """The method does not take these arguments; it has not run.

    A ``TypeError`` that is none of these was raised inside the method.
    """

    __module__ = _PUBLIC

    def __reduce__(self) -> tuple[Any, ...]:
        # An unknown class would break a 1.6 peer.
        return TypeError, self.args


class Unserializable(Error):
    """An argument or a result can't be written as bytes.

    Raised on the side that made it; the caller gets it if it is the result.

    :ivar path: where in the value it is, such as ``args[0]['lock']``; empty if
        that is not known
    """

    __module__ = _PUBLIC

    path = ""

    def __reduce__(self) -> tuple[Any, ...]:
        return Error, self.args


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


class Expired(PartialCall):
    """The time of the call was over when the server came to it: it has not run."""

    __module__ = _PUBLIC

    def __reduce__(self) -> tuple[Any, ...]:
        return PartialCall, self.args


class _SinceVersion2(CallError):
    """Travels as a CallError: an unknown class would break a 1.6 peer."""

    def __reduce__(self) -> tuple[Any, ...]:
        return CallError, self.args


class UnreadableRequest(_SinceVersion2):
    """The server can't read the request; the method has not run.

    Most often because of an argument whose class the server has not registered.
    """

    __module__ = _PUBLIC


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


class Refused(_SinceVersion2):
    """The server does not allow this call; it has not run."""

    __module__ = _PUBLIC


class NotAuthorized(Refused):
    """This peer may not call that on the other side; it has not run.

    Whether there is such a method at all is not said.
    """

    __module__ = _PUBLIC


class Busy(_SinceVersion2):
    """So many calls wait there already that the server takes no more; it has not run."""

    __module__ = _PUBLIC


class ServerClosing(Busy):
    """The server takes no more calls, because it is about to end; it has not run."""

    __module__ = _PUBLIC


class CallInterrupted(_SinceVersion2):
    """The server was restarted while the method ran, and does not run it again.

    It may have run in part. Raised only for methods that are marked as
    :func:`at_most_once`; others run again.
    """

    __module__ = _PUBLIC


class AnswerGone(_SinceVersion2):
    """The method has run, but its answer was not kept until it was asked for again."""

    __module__ = _PUBLIC


class StreamGone(_SinceVersion2):
    """The rest of a stream is not to be had any more: the server was restarted."""

    __module__ = _PUBLIC


class SignalCallWarning(Warning):
    """A method marked as a signal was called as a regular one, or the reverse.

    Shown on the side of the server, where the method runs all the same.
    """

    __module__ = _PUBLIC


_CLASSES: Final[dict[str, type[Error]]] = {
    code.value: cls
    for code, cls in {
        Code.NO_INSTANCE: NoInstanceError,
        Code.NO_METHOD: NoMethodError,
        Code.ARGUMENTS: WrongArguments,
        Code.UNREADABLE: UnreadableRequest,
        Code.UNSERIALIZABLE: Unserializable,
        Code.BUSY: Busy,
        Code.CLOSING: ServerClosing,
        Code.EXPIRED: Expired,
        Code.REFUSED: Refused,
        Code.NOT_AUTHORIZED: NotAuthorized,
        Code.INTERRUPTED: CallInterrupted,
        Code.ANSWER_GONE: AnswerGone,
        Code.STREAM_GONE: StreamGone,
    }.items()
}


def error_of(code: str, exception: object) -> Error | None:
    """The exception that a code in a reply stands for; ``None`` if it is not known here.

    :param exception: what came with it, for the message
    """
    cls = _CLASSES.get(code)
    if cls is None:
        return None
    if isinstance(exception, BaseException):
        return cls(*exception.args)
    return cls(str(exception))
