"""The command line: ``snakemq VERB ...`` or ``python3 -m snakemq VERB ...``.

One module for each verb; :func:`main` is the entry point.
"""

from __future__ import annotations

from collections.abc import Sequence

from snakemq.cli._exit import ExitCode

__all__ = ["main"]


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command.

    :param argv: its arguments; those of this process if they are not given
    :return: exit status; ``snakemq --help`` lists them
    """
    try:
        # Here, because Ctrl-C may come while the rest is still being loaded.
        from snakemq.cli._main import run_command

        return run_command(argv)
    except KeyboardInterrupt:
        return ExitCode.INTERRUPTED
