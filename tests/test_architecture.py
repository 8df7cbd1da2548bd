"""The tower, enforced: every module stays on its floor, and on its floor's diet.

The source is read, not imported: an import inside a function or under
``TYPE_CHECKING`` is knowledge of that module like any other.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Literal, NamedTuple

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "snakemq"

#: What a part of the package may import of the package, besides itself. A
#: module belongs to the longest name here that it is under; nothing reaches
#: around the layer below, and nothing at all may import snakemq.testing.
LEAVES = {
    "exceptions", "version", "callbacks", "message", "contracts", "limits", "counters", "_peer_log",
    "_longest_wait", "_sleepers", "_wakes",
}  # fmt: skip
SHARED = LEAVES | {"_core"}
#: What a facade puts together.
STACK = {
    "authentication", "link", "throttle", "packeter", "storage", "queues", "messaging", "rpc",
}  # fmt: skip
FLOORS: dict[str, set[str]] = {
    "version": set(),
    "exceptions": set(),
    "message": set(),
    "callbacks": set(),
    "limits": set(),
    "counters": set(),
    "_longest_wait": set(),
    "_sleepers": {"_longest_wait"},
    "_wakes": {"_sleepers"},
    "_peer_log": set(),
    "contracts": LEAVES,
    "_core": LEAVES,
    "_io": SHARED,
    "link": SHARED | {"_io"},
    "throttle": SHARED | {"_io"},
    "packeter": SHARED,
    # A server that is away is waited for in real time.
    "storage": SHARED | {"_io.clock"},
    # What queues and messaging tell of a storage.
    "_failures": LEAVES,
    # The default clock of queues that were made without a link, as in 1.6.
    "queues": SHARED | {"_failures", "storage", "_io.clock"},
    # What users write down, and messaging checks.
    "authentication": SHARED,
    "messaging": SHARED | {"_failures", "authentication", "packeter", "queues", "storage"},
    # The pool of threads that remote calls run in is all it may know of _io.
    "rpc": SHARED | {"messaging", "_io.workers"},
    "peer": SHARED | STACK | {"_io"},
    "cli": SHARED | STACK | {"peer"},
    "__main__": {"cli"},
    "testing": SHARED | STACK - {"authentication"} | {"_io", "peer"},
    # The top level names what users import from it.
    "": SHARED | STACK | {"peer"},
}

#: Private modules beside a layer that are a part of it: same floor, and nobody
#: else knows them.
PARTS = {
    "_attendant": "messaging",
    "_drops": "messaging",
    "_expiry_timers": "messaging",
    "_gatekeeper": "messaging",
    "_holding": "messaging",
    "_inbox": "messaging",
    "_incoming": "messaging",
    "_keepalive_timers": "messaging",
    "_outgoing": "messaging",
    "_ledger": "queues",
    "_pushing": "queues",
    "_queue": "queues",
    "_room": "queues",
    "_stored": "queues",
    "_writer": "queues",
    "_peer_connection": "messaging",
    "_pongs": "messaging",
    "_receive_hook": "messaging",
    "_receiving": "messaging",
    "_refusals": "messaging",
    "_takeover": "messaging",
    "_shortcut": "messaging",
    "_strangers": "messaging",
    "_transaction": "messaging",
    "_upkeep": "messaging",
}

#: These use the package as its users do, by the names at the top level.
USERS = {"cli", "testing"}

#: Bytes and numbers in, bytes and numbers out.
NOT_IN_CORE = {
    "_thread", "asyncio", "concurrent", "multiprocessing", "os", "random", "secrets", "select",
    "selectors", "signal", "socket", "sqlite3", "ssl", "subprocess", "threading", "time", "uuid",
}  # fmt: skip

#: Above the link, time is ``link.time()`` and ``call_later()``, so that a whole
#: stack can run on a virtual clock.
TIMELESS = ("throttle", "packeter", "queues", "messaging", "rpc", "storage")
CLOCKS = {"time", "random", "sched"}

#: Third-party drivers, imported when their storage is asked for.
DRIVERS = {
    **{
        f"storage.{name}": {"sqlalchemy"}
        for name in (
            "sqla",
            "_sqla_change",
            "_sqla_holder",
            "_sqla_inbox",
            "_sqla_legacy",
            "_sqla_outbox",
            "_sqla_received",
            "_sqla_servers",
            "_sqla_session",
            "_sqla_tables",
        )
    },
    **{f"storage.{name}": {"pymongo", "bson"} for name in ("mongodb", "_mongodb_server")},
}

#: Lines of code in a module, and its lines with docstrings, comments and all.
MAX_CODE_LINES = 500
MAX_LINES = 750


#: Not needed to run; mypy brings it along.
ONLY_FOR_TYPES = {"typing_extensions"}


class Import(NamedTuple):
    """One imported module."""

    name: str
    line: int
    when: Literal["start", "later", "never"]  # "never": for the type checker


class Module(NamedTuple):
    path: Path
    name: str  # within the package: "" for its __init__, "storage.sqlite"
    tree: ast.Module

    @property
    def floor(self) -> str:
        return floor_of(self.name)

    def where(self, line: int) -> str:
        return f"{self.path.relative_to(ROOT).as_posix()}:{line}"


def floor_of(name: str) -> str:
    name = PARTS.get(name, name)
    parts = name.split(".")
    for length in range(len(parts), 0, -1):
        candidate = ".".join(parts[:length])
        if candidate in FLOORS:
            return candidate
    pytest.fail(f"snakemq.{name} has no floor yet: add it to FLOORS")


def parse(path: Path) -> ast.Module:
    return ast.parse(path.read_text("utf-8"), str(path))


@cache
def modules() -> list[Module]:
    found = []
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = list(path.relative_to(PACKAGE).with_suffix("").parts)
        if parts[-1] == "__init__":
            parts.pop()
        found.append(Module(path, ".".join(parts), parse(path)))
    assert found
    return found


def imports(tree: ast.Module) -> Iterator[Import]:
    """Every import in ``tree``; a name out of a package counts as a module if it is one."""
    later: set[ast.AST] = set()
    never: set[ast.AST] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            later.update(ast.walk(node))
        elif isinstance(node, ast.If) and ast.unparse(node.test) in (
            "TYPE_CHECKING",
            "typing.TYPE_CHECKING",
        ):
            never.update(child for statement in node.body for child in ast.walk(statement))
    for node in ast.walk(tree):
        when: Literal["start", "later", "never"] = (
            "never" if node in never else "later" if node in later else "start"
        )
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield Import(alias.name, node.lineno, when)
        elif isinstance(node, ast.ImportFrom):
            assert node.module, f"line {node.lineno}: a relative import"
            assert node.level == 0, f"line {node.lineno}: a relative import"
            for alias in node.names:
                submodule = ROOT.joinpath(*node.module.split("."), alias.name)
                if submodule.is_dir() or submodule.with_suffix(".py").is_file():
                    yield Import(f"{node.module}.{alias.name}", node.lineno, when)
                else:
                    yield Import(node.module, node.lineno, when)


def within(name: str, prefix: str) -> bool:
    return name == prefix or name.startswith(prefix + ".")


def test_every_module_imports_only_the_floors_below() -> None:
    wrong = []
    for module in modules():
        for imported in imports(module.tree):
            if not within(imported.name, "snakemq"):
                continue
            target = imported.name.removeprefix("snakemq").removeprefix(".")
            if not target and module.floor in USERS:
                continue
            if target and (
                within(target, module.floor)
                or PARTS.get(target) == module.floor
                or any(within(target, allowed) for allowed in FLOORS[module.floor])
                or (not module.name and within(target, "version"))
            ):
                continue
            wrong.append(f"{module.where(imported.line)} imports {imported.name}")
    assert not wrong, "\n".join(wrong)


def test_nothing_imports_testing() -> None:
    wrong = [
        module.where(imported.line)
        for module in modules()
        if module.floor != "testing"
        for imported in imports(module.tree)
        if within(imported.name, "snakemq.testing")
    ]
    assert not wrong, "\n".join(wrong)


def test_core_is_pure() -> None:
    wrong = [
        f"{module.where(imported.line)} imports {imported.name}"
        for module in modules()
        if module.floor == "_core"
        for imported in imports(module.tree)
        if imported.name.split(".")[0] in NOT_IN_CORE
    ]
    assert not wrong, "\n".join(wrong)


def test_time_comes_from_the_link() -> None:
    wrong = [
        f"{module.where(imported.line)} imports {imported.name}"
        for module in modules()
        if module.floor in TIMELESS
        for imported in imports(module.tree)
        if imported.name.split(".")[0] in CLOCKS
    ]
    assert not wrong, "\n".join(wrong)


def test_nothing_but_the_standard_library() -> None:
    wrong = []
    for module in modules():
        for imported in imports(module.tree):
            top = imported.name.split(".")[0]
            if top == "snakemq" or top in sys.stdlib_module_names:
                continue
            if top in DRIVERS.get(module.name, ()) and imported.when != "start":
                continue
            if top in ONLY_FOR_TYPES and imported.when == "never":
                continue
            wrong.append(f"{module.where(imported.line)} imports {imported.name}")
    assert not wrong, "\n".join(wrong)


def code_lines(source: str) -> int:
    """Lines that are left without docstrings, comments and blank lines."""
    lines = source.split("\n")
    prose: set[int] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            prose.update(range(node.lineno, (node.end_lineno or node.lineno) + 1))
    return sum(
        bool(line.strip()) and not line.lstrip().startswith("#") and number not in prose
        for number, line in enumerate(lines, 1)
    )


def test_every_module_is_short_enough_to_be_read() -> None:
    long = {}
    for module in modules():
        source = module.path.read_text("utf-8")
        size = (code_lines(source), source.count("\n"))
        if size[0] > MAX_CODE_LINES or size[1] > MAX_LINES:
            long[module.path.relative_to(PACKAGE).as_posix()] = size
    assert not long, f"over {MAX_CODE_LINES} lines of code, or {MAX_LINES} in all"


def test_every_module_has_a_docstring() -> None:
    wrong = [
        module.path.relative_to(ROOT).as_posix()
        for module in modules()
        if not ast.get_docstring(module.tree)
    ]
    assert not wrong, "\n".join(wrong)


def calls(tree: ast.Module) -> Iterator[tuple[str, int]]:
    """The dotted names that are called, as they are written, and where."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name | ast.Attribute):
            yield ast.unparse(node.func), node.lineno


def test_nothing_but_the_command_line_prints() -> None:
    wrong = [
        module.where(line)
        for module in modules()
        if module.floor not in ("cli", "__main__")
        for name, line in calls(module.tree)
        if name in ("print", "sys.stdout.write", "sys.stderr.write")
    ]
    assert not wrong, "\n".join(wrong)


def test_nothing_sleeps() -> None:
    wrong = [
        module.where(line)
        for module in modules()
        # The first gives its reader the time to read, the second sleeps for 0 seconds.
        if module.name not in ("cli.demo", "_wakes")
        for name, line in calls(module.tree)
        if name in ("sleep", "time.sleep")
    ]
    assert not wrong, "\n".join(wrong)


def test_no_test_sleeps() -> None:
    """A test waits for a condition; tests/helpers.py knows how."""
    wrong = [
        f"{path.relative_to(ROOT).as_posix()}:{line}"
        for path in sorted((ROOT / "tests").rglob("*.py"))
        if path != ROOT / "tests" / "helpers.py"
        for name, line in calls(parse(path))
        if name in ("sleep", "time.sleep")
    ]
    assert not wrong, "\n".join(wrong)


def test_the_reader_sees_imports_in_every_shape() -> None:
    tree = ast.parse(
        "import os.path, snakemq.link\n"
        "from snakemq import message, Peer\n"
        "def f():\n"
        "    from snakemq.storage import base\n"
        "if TYPE_CHECKING:\n"
        "    import typing_extensions\n"
        "else:\n"
        "    import json\n"
    )
    assert sorted(imports(tree), key=lambda imported: imported.line) == [
        ("os.path", 1, "start"),
        ("snakemq.link", 1, "start"),
        ("snakemq.message", 2, "start"),
        ("snakemq", 2, "start"),
        ("snakemq.storage.base", 4, "later"),
        ("typing_extensions", 6, "never"),
        ("json", 8, "start"),
    ]


def test_the_reader_sees_calls() -> None:
    assert list(calls(ast.parse("time.sleep(1)\nprint()"))) == [("time.sleep", 1), ("print", 2)]


def test_code_is_counted_without_prose() -> None:
    assert code_lines('"""Doc.\n\nMore."""\n\nx = 1  # why\n# why\ny = """\n\n"""\n') == 3


def test_the_floor_of_a_module_is_the_longest_name_that_it_is_under() -> None:
    assert floor_of("storage.sqlite") == "storage"
    assert floor_of("_core.framing") == "_core"
    assert floor_of("_takeover") == "messaging"
    assert floor_of("") == ""
