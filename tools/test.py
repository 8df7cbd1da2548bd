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
import subprocess
import sys

from environment import ROOT, EnvironmentProblem, add_venv_option, make_environment, require_python

#: A process that has nothing left to do takes tests from another one.
IN_PARALLEL = ("-n", "auto", "--maxprocesses", "8", "--dist", "worksteal")


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
    try:
        python = make_environment(options.venv, {"test"})
        return subprocess.run(
            [str(python), "-m", "pytest", *IN_PARALLEL, *pytest_arguments], cwd=ROOT, check=False
        ).returncode
    except EnvironmentProblem as problem:
        print(problem, file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(main())
