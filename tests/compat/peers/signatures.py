"""Prints the arguments and defaults of callables.

Usage: ``signatures.py NAMES``, a JSON list of names like
``snakemq.link:Link.loop``. Also imported by the tests, for the same question
in their own process.
"""

import importlib
import inspect
import json
import sys

REQUIRED = "required"


def arguments(name):
    """Name, default and whether it must be given by name, of each argument but ``self``."""
    module, _, path = name.partition(":")
    found = importlib.import_module(module)
    for part in path.split("."):
        found = getattr(found, part)
    result = []
    for p in inspect.signature(found).parameters.values():
        if p.name != "self":
            result.append([p.name, plain_default(p), p.kind is p.KEYWORD_ONLY])
    return result


def plain_default(parameter):
    value = parameter.default
    if value is parameter.empty:
        return REQUIRED
    if inspect.ismodule(value):
        return value.__name__
    if isinstance(value, int):
        return int(value)  # members of enumerations too
    return value if value is None or isinstance(value, (float, str)) else repr(value)


if __name__ == "__main__":
    print(json.dumps({name: arguments(name) for name in json.loads(sys.argv[1])}))
