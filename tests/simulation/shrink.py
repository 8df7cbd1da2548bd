"""Makes the plan of a history that goes wrong as short as it gets."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import replace

from tests.simulation.plan import Burst, Plan
from tests.simulation.world import problems_of


def essence(problem: str) -> str:
    """What a problem has in common with others of its kind."""
    return re.sub(r"\(.*?\)|b'.*?'|\b[abc]\b|[\d.]+", "", problem)


def shrink(plan: Plan, like: str = "", fails: Callable[[Plan], bool] | None = None) -> Plan:
    """Leave out what is not needed for something to go wrong.

    :param like: what has to be wrong, part of the text; by default the same as
        is wrong first with the plan as it is
    :param fails: whether a plan goes wrong; by default, whether its history does
    """
    if fails is None:
        problems = problems_of(plan)
        wanted = {essence(problem) for problem in problems[:1]}

        def fails(plan: Plan) -> bool:
            return any(
                like in problem if like else essence(problem) in wanted
                for problem in problems_of(plan)
            )

    if not fails(plan):
        return plan
    found = True
    while found:
        found = False
        for shorter in _shorter(plan):
            if fails(shorter):
                plan = shorter
                found = True
                break
    return plan


def _shorter(plan: Plan) -> Iterator[Plan]:
    """Plans with a little less, the largest cuts first."""
    steps = plan.steps
    size = len(steps)
    while size:
        for start in range(0, len(steps), size):
            yield replace(plan, steps=steps[:start] + steps[start + size :])
        size //= 2
    for index, step in enumerate(steps):
        if isinstance(step, Burst) and len(step.messages) > 1:
            half = len(step.messages) // 2
            for messages in (step.messages[:half], step.messages[half:]):
                less = replace(step, messages=messages)
                yield replace(plan, steps=(*steps[:index], less, *steps[index + 1 :]))
    for index, peer in enumerate(plan.peers):
        for what in ("raises", "closes", "dies", "replies", "pauses", "throttle", "keepalive"):
            if getattr(peer, what):
                none = None if what in ("throttle", "keepalive") else 0.0
                calmer = replace(peer, **{what: none})
                yield replace(plan, peers=(*plan.peers[:index], calmer, *plan.peers[index + 1 :]))
