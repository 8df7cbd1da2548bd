"""``__all__`` tells the truth, and what it names is documented."""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import pkgutil
from types import ModuleType

import pytest

import snakemq


def module_names() -> list[str]:
    found = pkgutil.walk_packages(snakemq.__path__, "snakemq.")
    return ["snakemq", *sorted(info.name for info in found if info.name != "snakemq.__main__")]


def is_private(module_name: str) -> bool:
    return any(part.startswith("_") for part in module_name.split("."))


def load(name: str) -> ModuleType:
    return importlib.import_module(name)


@pytest.mark.parametrize("name", module_names())
def test_all_names_what_is_there(name: str) -> None:
    module = load(name)
    exported = getattr(module, "__all__", [])
    assert len(exported) == len(set(exported))
    missing = [item for item in exported if not hasattr(module, item)]
    assert not missing


@pytest.mark.parametrize("name", module_names())
def test_all_names_all_of_it(name: str) -> None:
    """What a module defines itself without an underscore is for others: so it is in __all__."""
    module = load(name)
    if is_private(name) and not hasattr(module, "__all__"):
        return  # a program, not a module to import from
    defined = {
        item
        for item, value in vars(module).items()
        if not item.startswith("_")
        and (inspect.isclass(value) or inspect.isfunction(value))
        and value.__module__ == name
    }
    assert defined <= set(getattr(module, "__all__", [])), "public, but not in __all__"


@pytest.mark.parametrize("name", [name for name in module_names() if not is_private(name)])
def test_what_is_public_is_documented(name: str) -> None:
    module = load(name)
    undocumented = [] if module.__doc__ else [name]
    for item in getattr(module, "__all__", []):
        value = getattr(module, item)
        if not (inspect.isclass(value) or inspect.isfunction(value)):
            continue
        if not value.__module__.startswith("snakemq"):
            continue
        if not inspect.getdoc(value):
            undocumented.append(f"{name}.{item}")
        if inspect.isclass(value):
            undocumented += [
                f"{name}.{item}.{member}"
                for member, what in vars(value).items()
                # The names of the tests in a contract suite say it all.
                if not member.startswith(("_", "test_"))
                and (inspect.isfunction(what) or isinstance(what, property))
                # getdoc: an override may inherit its docstring
                and not inspect.getdoc(getattr(value, member))
            ]
    assert not undocumented


def test_the_top_level_names_come_from_public_modules() -> None:
    """Each has a home that a program may import it from, however it is kept in there."""
    homeless = []
    for item in snakemq.__all__:
        value = getattr(snakemq, item)
        if not (inspect.isclass(value) or inspect.isfunction(value)):
            continue
        home = value.__module__
        while is_private(home):
            home = home.rpartition(".")[0]
        if item not in getattr(load(home), "__all__", ()):
            homeless.append(f"{item}, of {value.__module__}")
    assert not homeless


def test_star_import_works() -> None:
    namespace: dict[str, object] = {}
    exec("from snakemq import *", namespace)
    assert set(snakemq.__all__) <= set(namespace)
