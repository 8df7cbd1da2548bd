"""Runs histories one after the other, as many as you like, or tells one of them.

::

    python -m tests.simulation 0-1000000         what is wrong with any of these seeds
    python -m tests.simulation 1234              the story of this one
    python -m tests.simulation 1234 --shrink     with all steps left out that it does not need

One process does about a hundred histories in a second; for a million give ranges
to as many processes as there are cores. The exit status is 1 if anything is wrong.
"""

from __future__ import annotations

import argparse
import logging
import sys
import time

from tests.simulation.plan import make_plan
from tests.simulation.shrink import shrink
from tests.simulation.world import World, problems_of


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.simulation", description=__doc__)
    parser.add_argument("seeds", help="a seed, or FIRST-END")
    parser.add_argument("--shrink", action="store_true", help="make the story shorter")
    parser.add_argument("--like", default="", help="what has to stay wrong, part of the text")
    parser.add_argument("--log", action="store_true", help="with what the stacks log")
    options = parser.parse_args(arguments)
    if not options.log:
        logging.disable(logging.CRITICAL)  # histories misbehave on purpose
    else:
        logging.basicConfig(level=logging.DEBUG, format="%(levelname)s %(name)s %(message)s")
    first, dash, end = options.seeds.partition("-")
    try:
        if dash:
            return _run(range(int(first), int(end)))
        return _tell(int(first), shrunk=options.shrink, like=options.like)
    finally:
        logging.disable(logging.NOTSET)


def _run(seeds: range) -> int:
    failures = 0
    start = time.monotonic()
    for count, seed in enumerate(seeds, 1):
        problems = problems_of(make_plan(seed))
        if problems:
            failures += 1
            print(f"seed {seed}: {problems[0]}", flush=True)
        if count % 10_000 == 0 or count == len(seeds):
            seconds = time.monotonic() - start
            print(f"{count} histories in {seconds:.0f} s, {failures} wrong", flush=True)
    return 1 if failures else 0


def _tell(seed: int, *, shrunk: bool, like: str) -> int:
    plan = make_plan(seed)
    if shrunk:
        plan = shrink(plan, like)
    world = World(plan)
    problems = problems_of(plan, world)
    print(plan)
    print(world.story())
    print("\n".join(problems) or "nothing is wrong")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
