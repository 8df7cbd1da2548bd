"""Parses the command line, runs a verb, and turns what happens into an exit status."""

from __future__ import annotations

import argparse
import os
import signal
import sys
import threading
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from types import FrameType

from snakemq.cli import call, demo, keygen, listen, ping, queues, send, version
from snakemq.cli._exit import EXIT_CODES_HELP, CommandError, ExitCode
from snakemq.cli._options import IntermixedParser
from snakemq.exceptions import SnakeMQException

__all__ = ["run_command"]

_VERBS = (demo, listen, send, call, ping, queues, keygen, version)

_EXAMPLES = """\
examples:
  snakemq demo                                      see it work
  snakemq listen --ident bob --listen 4000          receive, in one terminal ...
  snakemq send bob "hello" --connect 4000           ... and send from another
  snakemq call bob calc.add 2 40 --connect 4000     call a method, get JSON
  snakemq ping bob --connect 4000 -c 3              measure round trips
  snakemq queues bob.db dead                        what could not be handled
  snakemq keygen peer bob                           key and certificate for TLS

'snakemq VERB --help' tells more about a verb.

"""


def run_command(argv: Sequence[str] | None) -> int:
    """Run one command. Ctrl-C comes out of here.

    :param argv: its arguments; ``None``: those of this process
    :return: exit status, see :class:`snakemq.cli._exit.ExitCode`
    """
    try:
        args = _parser().parse_args(argv)
    except SystemExit as exc:  # argparse has said what there was to say
        return exc.code if isinstance(exc.code, int) else ExitCode.USAGE
    try:
        with _terminated_by_sigterm():
            code = int(args.run(args))
        _flush_stdout()
        return code
    except CommandError as exc:
        _complain(args.verb, exc)
        return exc.code
    except (OSError, SnakeMQException) as exc:
        if isinstance(exc, BrokenPipeError):
            _forget_stdout()
            return ExitCode.BROKEN_PIPE
        _complain(args.verb, exc)
        return ExitCode.FAILED
    except _TerminatedError:
        return ExitCode.TERMINATED


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="snakemq",
        description="Brokerless messaging and RPC between peers.",
        epilog=_EXAMPLES + EXIT_CODES_HELP,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    verbs = parser.add_subparsers(
        dest="verb", metavar="VERB", required=True, parser_class=IntermixedParser
    )
    for verb in _VERBS:
        verb.add_parser(verbs)
    return parser


def _complain(verb: str, exc: Exception) -> None:
    text = str(exc)
    if isinstance(exc, OSError) and exc.strerror:
        # Without the number that only programmers know.
        text = f"{exc.filename}: {exc.strerror}" if exc.filename else exc.strerror
    print(f"snakemq {verb}: {text}", file=sys.stderr)


def _flush_stdout() -> None:
    """Notice here and not at exit that something can't be written."""
    if sys.stdout is None:
        return
    try:
        sys.stdout.flush()
    except OSError:
        _forget_stdout()
        raise


def _forget_stdout() -> None:
    """Keep the interpreter from complaining, at exit, that it can't write what is left."""
    devnull = os.open(os.devnull, os.O_WRONLY)
    os.dup2(devnull, sys.stdout.fileno())
    os.close(devnull)


class _TerminatedError(BaseException):
    """SIGTERM came."""


@contextmanager
def _terminated_by_sigterm() -> Generator[None, None, None]:
    """Let SIGTERM unwind like Ctrl-C, so that everything is closed."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def handler(signum: int, frame: FrameType | None) -> None:
        raise _TerminatedError

    previous = signal.signal(signal.SIGTERM, handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous)
