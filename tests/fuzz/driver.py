"""Runs one target in a process of its own: coverage-guided by atheris, or by chance.

::

    python -m tests.fuzz.driver atheris TARGET arguments of libFuzzer...
    python -m tests.fuzz.driver chance TARGET SECONDS WHERE_CRASHES_GO DIRECTORY...

``python -m tests.fuzz`` starts it.
"""

from __future__ import annotations

import hashlib
import logging
import random
import shlex
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path

__all__ = ["CRASHED"]

#: The exit status when the target raised something.
CRASHED = 77

#: Each so many times the memory is measured, which takes a while.
_MEASURED = 64

#: How long one input may take, in seconds.
_TIME = 10.0


def _checked(name: str) -> Callable[[bytes], None]:
    """The target, with its memory measured now and then."""
    from tests.fuzz.targets import TARGETS

    target = TARGETS[name]
    count = 0

    def run(data: bytes) -> None:
        nonlocal count
        count += 1
        (target.run if count % _MEASURED else target.measure)(data)

    target.run(b"")
    return run


def _with_atheris(name: str, arguments: list[str]) -> None:
    import atheris

    # What is to be covered is what is imported here for the first time.
    with atheris.instrument_imports(include=["snakemq"]):
        target = _checked(name)
    # libFuzzer starts this again, by way of a shell, to merge a corpus.
    again = shlex.join([sys.executable, "-m", "tests.fuzz.driver", "atheris", name])
    atheris.Setup([again, *arguments], target)
    atheris.Fuzz()


def _by_chance(name: str, seconds: float, crashes: str, directories: list[str]) -> int:
    """Inputs that are known, changed by chance. The seed is printed, and nothing is kept."""
    from tests.fuzz.targets import TARGETS

    target = _checked(name)
    known = [file.read_bytes() for path in directories for file in sorted(Path(path).iterdir())]
    seed = random.randrange(1 << 32)
    print(f"seed {seed}", flush=True)
    chance = random.Random(seed)
    end = time.monotonic() + seconds
    count = 0
    while (start := time.monotonic()) < end:
        data = _changed(chance, known)[: TARGETS[name].max_size]
        count += 1
        try:
            target(data)
            took = time.monotonic() - start
            assert took < _TIME, f"it took {took:.0f} seconds"
        except Exception:
            traceback.print_exc()
            path = Path(crashes + "crash-" + hashlib.sha1(data).hexdigest())
            path.write_bytes(data)
            print(f"Test unit written to {path}", flush=True)
            return CRASHED
    print(f"stat::number_of_executed_units: {count}")
    return 0


_TELLING = [b"", b"\0", b"\xff", b"\0" * 4, b"\xff" * 4, b"\x7f\xff\xff\xff", b"\x80\0\0\0"]


def _changed(chance: random.Random, known: list[bytes]) -> bytes:
    data = bytearray(chance.choice(known))
    for _ in range(chance.choice((1, 1, 2, 4, 8))):
        start = chance.randrange(len(data) + 1)
        end = min(len(data), start + chance.choice((0, 0, 1, 1, 2, 4, 16)))
        what = chance.randrange(4)
        if what == 0:
            new = chance.randbytes(chance.choice((1, 1, 2, 4)))
        elif what == 1:
            new = chance.choice(_TELLING)
        elif what == 2:
            other = chance.choice(known)
            begin = chance.randrange(len(other) + 1)
            new = other[begin : begin + chance.choice((1, 4, 16, 64, 256))]
        else:
            new = bytes(data[start:end]) * chance.choice((0, 2, 3, 20))
        data[start:end] = new
    return bytes(data)


def main(arguments: list[str]) -> int:
    # Handlers that others have set up would write down every refusal.
    logging.lastResort = None
    how, name, *more = arguments
    if how == "atheris":
        _with_atheris(name, more)
        return 0
    return _by_chance(name, float(more[0]), more[1], more[2:])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
