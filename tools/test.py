"""Set up an environment of its own, and run the tests in it.

    python3 tools/test.py                      everything
    python3 tools/test.py -m "not slow"        in a minute or so
    python3 tools/test.py tests/core -k ttl    any arguments of pytest

They run in one process for each core; "-n 0" runs them in one that a debugger
can stop in. Longer runs of what is random: SNAKEMQ_SIM_SEEDS=20000 for the
simulated histories, SNAKEMQ_CRASH_ROUNDS=500 for killed processes and cut
connections.

Needs Python 3.10 or newer and nothing else. What it installs goes to .venv and
nowhere else; the second run starts at once.
"""

from __future__ import annotations

import argparse
import os
import sys

from environment import add_venv_option, require_python, run_in_environment

#: Half of the time a test waits for something. A process that has nothing left to do
#: takes tests from another one.
PROCESSES = min(2 * (os.cpu_count() or 1), 8)
IN_PARALLEL = ("-n", str(PROCESSES), "--dist", "worksteal")


def main() -> int:
    require_python()
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        usage="%(prog)s [--venv DIR] [arguments of pytest]",
        allow_abbrev=False,
    )
    add_venv_option(parser)
    options, pytest_arguments = parser.parse_known_args()
    command = ["-m", "pytest", *IN_PARALLEL, *pytest_arguments]
    return run_in_environment(options.venv, {"test"}, command)


if __name__ == "__main__":
    sys.exit(main())
