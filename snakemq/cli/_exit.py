"""How a command ends."""

from __future__ import annotations

import enum

__all__ = ["CommandError", "ExitCode", "UsageError"]


class ExitCode(enum.IntEnum):
    """What a command returns to the shell. Scripts rely on these numbers."""

    OK = 0
    #: something failed here: a file, an address, a command that was run
    FAILED = 1
    #: wrong arguments
    USAGE = 2
    #: not in time: not connected, not delivered, no answer
    NOT_IN_TIME = 3
    #: the called method raised an exception, or there is no such method
    REMOTE_EXCEPTION = 4
    #: the other side did not take the call, and nothing was run
    NOT_TAKEN = 5
    #: Ctrl-C: 128 + SIGINT
    INTERRUPTED = 130
    #: whoever read the output went away: 128 + SIGPIPE
    BROKEN_PIPE = 141
    #: SIGTERM: 128 + SIGTERM
    TERMINATED = 143


EXIT_CODES_HELP = """\
exit status:
  0    done
  1    failed here: a file, an address, a command that was run
  2    wrong arguments
  3    not in time: not connected, not delivered, no answer
  4    the remote method raised an exception, or does not exist
  5    the call was not taken: the peer is busy or does not allow it
  130  ended by Ctrl-C
  141  whoever read the output went away
  143  ended by SIGTERM
"""


class CommandError(Exception):
    """Ends a command with a message on standard error.

    :param code: exit status
    """

    def __init__(self, message: str, code: ExitCode = ExitCode.FAILED) -> None:
        super().__init__(message)
        self.code = code


class UsageError(CommandError):
    """The arguments make no sense together."""

    def __init__(self, message: str) -> None:
        super().__init__(message, ExitCode.USAGE)
