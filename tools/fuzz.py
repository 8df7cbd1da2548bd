"""Set up an environment of its own, and search in it for input that does harm.

    python3 tools/fuzz.py                               all targets, 20 seconds each
    python3 tools/fuzz.py pickles --seconds 3600        one of them for an hour
    python3 tools/fuzz.py --help                        what else there is

Needs Python 3.10 or newer and nothing else. What it installs goes to .venv and
nowhere else. The search is guided by what code is reached where there is atheris, on
Linux; elsewhere it is by chance.
"""

from __future__ import annotations

import argparse
import subprocess
import sys

from environment import ROOT, EnvironmentProblem, add_venv_option, make_environment, require_python


def main() -> int:
    require_python()
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
        add_help=False,
    )
    add_venv_option(parser)
    options, arguments = parser.parse_known_args()
    try:
        python = make_environment(options.venv, {"test", "fuzz"})
        return subprocess.run(
            [str(python), "-m", "tests.fuzz", *arguments], cwd=ROOT, check=False
        ).returncode
    except EnvironmentProblem as problem:
        print(problem, file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(main())
