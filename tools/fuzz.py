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
import sys

from environment import add_venv_option, require_python, run_in_environment


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
    return run_in_environment(options.venv, {"test", "fuzz"}, ["-m", "tests.fuzz", *arguments])


if __name__ == "__main__":
    sys.exit(main())
