"""``snakemq call``: call a method of a remote object."""

from __future__ import annotations

import argparse
import json
import textwrap
from typing import TYPE_CHECKING, Any, Final

from snakemq.cli._call_list import list_served
from snakemq.cli._exit import CommandError, ExitCode, UsageError
from snakemq.cli._options import (
    add_peer_parser,
    add_timeout,
    not_connected,
    require_way,
    running_peer,
)
from snakemq.peer import Peer
from snakemq.rpc import (
    REMOTE_TRACEBACK_ATTR,
    Busy,
    CallError,
    NotConnected,
    PartialCall,
    Refused,
    RemoteStream,
    UnreadableRequest,
)

if TYPE_CHECKING:
    from snakemq.cli._options import Verbs

__all__ = ["add_parser", "run"]

_DESCRIPTION = """\
Call a method or a function that a peer serves, and print the result as JSON. The
items of a stream are printed as they come, each in a line.

An argument is JSON; what is none is taken as text, so that 'hello' needs no
quotes in quotes ('"1"' is the text, '1' the number). NAME=VALUE is a keyword
argument; a text that looks like one is written as JSON: '"a=b"'.
"""

_EXAMPLES = """\
  snakemq call bob --list --connect 4000               what is there to call?
  snakemq call bob calc.add 2 40 --connect 4000
  snakemq call bob now --connect 4000                  a function
  snakemq call bob store.put key '{"a": [1, 2]}' overwrite=true --connect 4000
  snakemq call bob lamp.on --signal --connect 4000     nobody waits for a result
  snakemq call bob log.follow --connect 4000           a stream, until Ctrl-C

the result: what JSON does not know (bytes, dates ...) is printed as text that
looks as in Python. An exception is printed on standard error, with the remote
traceback.
"""

#: How long to wait until the other side knows that nobody waits any more, in seconds.
_FAREWELL: Final = 1.0


def add_parser(verbs: Verbs) -> None:
    """Add the verb to the command line."""
    parser = add_peer_parser(
        verbs,
        "call",
        summary="call a method of a remote object, or list what there is to call",
        description=_DESCRIPTION,
        examples=_EXAMPLES,
    )
    parser.add_argument("receiver", metavar="IDENT", help="identifier of the peer that serves it")
    parser.add_argument(
        "method", metavar="NAME", nargs="?", help="what to call: OBJECT.METHOD, or FUNCTION"
    )
    parser.add_argument("args", metavar="ARG", nargs="*", help="JSON, text, or NAME=VALUE")
    what = parser.add_mutually_exclusive_group()
    what.add_argument(
        "--signal", action="store_true", help="do not wait for a result, there is none"
    )
    what.add_argument("--list", action="store_true", help="list what the peer serves")
    parser.add_argument(
        "--json", action="store_true", help="with --list: one JSON object in each line"
    )
    add_timeout(parser, 10.0, "how long to wait for the result; of a stream, for each item")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> ExitCode:
    """Call, and print what comes back."""
    require_way(args)
    if args.list:
        if args.method is not None:
            raise UsageError("--list lists everything; it takes no NAME")
        with running_peer(args) as peer:
            list_served(peer, args)
        return ExitCode.OK
    if args.json:
        raise UsageError("--json is for --list; results are always JSON")
    if args.method is None:
        raise UsageError("say what to call: OBJECT.METHOD or FUNCTION; --list tells what there is")
    if not all(part.isidentifier() for part in args.method.split(".")):
        raise UsageError(f"{args.method!r} is not OBJECT.METHOD or FUNCTION")
    obj, _, name = args.method.rpartition(".")
    positional, named = _arguments(args.args)
    with running_peer(args) as peer:
        if args.signal:
            _signal(peer, args, getattr(peer.proxy(args.receiver, obj), name), positional, named)
            return ExitCode.OK
        try:
            _call(peer, args, obj, name, tuple(positional), named)
        except Exception:
            raise
        except BaseException:
            # Ctrl-C, most often. The peer is about to end, and was not told yet
            # that nobody waits for the method any more.
            peer.flush(args.receiver, _FAREWELL)
            raise
    return ExitCode.OK


def _call(
    peer: Peer,
    args: argparse.Namespace,
    obj: str,
    name: str,
    positional: tuple[Any, ...],
    named: dict[str, Any],
) -> None:
    try:
        result = peer.rpc_client.call(args.receiver, obj, name, positional, named, args.timeout)
        if isinstance(result, RemoteStream):
            with result:
                for item in result:
                    _print(item)
        else:
            _print(result)
    except NotConnected:
        raise not_connected(peer, args) from None
    except PartialCall:
        raise CommandError(
            f"{args.receiver} did not answer within {args.timeout:g} seconds",
            ExitCode.NOT_IN_TIME,
        ) from None
    except (Busy, Refused, UnreadableRequest) as exc:
        raise CommandError(
            f"{args.receiver} did not take the call: {exc}", ExitCode.NOT_TAKEN
        ) from exc
    except (CallError, OSError) as exc:
        if isinstance(exc, CallError) or not hasattr(exc, REMOTE_TRACEBACK_ATTR):
            raise  # of the call itself, or of standard output
        raise _remote_exception(exc) from exc
    except Exception as exc:
        # Whatever the method raised, or that there is no such method.
        raise _remote_exception(exc) from exc


def _print(value: Any) -> None:
    print(json.dumps(_jsonable(value), ensure_ascii=False), flush=True)


def _signal(
    peer: Peer,
    args: argparse.Namespace,
    method: Any,
    positional: list[Any],
    named: dict[str, Any],
) -> None:
    if not peer.wait_connected(args.receiver, args.timeout):
        raise not_connected(peer, args)
    method.as_signal(args.timeout)
    method(*positional, **named)
    if not peer.flush(args.receiver, args.timeout):
        peer.stop(drain=0)  # it was waited for long enough
        raise CommandError(
            f"{args.receiver} did not acknowledge it within {args.timeout:g} seconds",
            ExitCode.NOT_IN_TIME,
        )


def _remote_exception(exc: Exception) -> CommandError:
    remote = getattr(exc, REMOTE_TRACEBACK_ATTR, None)
    text = f"{type(exc).__name__}: {exc}"
    if remote:
        text += "\n" + textwrap.indent(str(remote).rstrip(), "  | ")
    return CommandError(text, ExitCode.REMOTE_EXCEPTION)


def _arguments(words: list[str]) -> tuple[list[Any], dict[str, Any]]:
    positional: list[Any] = []
    named: dict[str, Any] = {}
    for word in words:
        name, equals, value = word.partition("=")
        if equals and name.isidentifier():
            if name in named:
                raise UsageError(f"{name} is given twice")
            named[name] = _value(value)
        elif named:
            raise UsageError(f"{word!r}: positional arguments come before NAME=VALUE")
        else:
            positional.append(_value(word))
    return positional, named


def _value(word: str) -> Any:
    try:
        return json.loads(word)
    except ValueError as exc:
        # What begins like JSON was meant to be JSON: better a complaint here
        # than a surprise there.
        if word[:1] in ("[", "{", '"'):
            raise UsageError(f"{word!r} is not JSON: {exc}") from exc
        return word


def _jsonable(value: Any) -> Any:
    """The value, with whatever JSON can't express as text."""
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, (list, tuple)):
        return [_jsonable(item) for item in value]
    if isinstance(value, dict):
        return {
            key if isinstance(key, str) else repr(key): _jsonable(item)
            for key, item in value.items()
        }
    return repr(value)
