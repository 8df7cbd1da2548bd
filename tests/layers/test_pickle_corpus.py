"""The published attacks on readers of pickles: nothing of them happens here."""

from __future__ import annotations

import importlib.abc
import importlib.machinery
import importlib.util
import os
import sys
import threading
import time
import tracemalloc
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from snakemq._core.rpc_records import REQUEST_PREFIX
from snakemq.message import Message
from snakemq.rpc.safe_pickle import SAFE_PICKLE
from tests.corpus.make_pickles import CORPUS, Attack, attacks
from tests.layers.test_rpc_server_calls import Side

#: Reading one of them takes far less, of the time of a processor. In seconds.
LONGEST = 2.0


class Imports(importlib.abc.MetaPathFinder):
    """Notes what is imported, also of what can't be found."""

    def __init__(self) -> None:
        self.names: list[str] = []

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        self.names.append(fullname)
        return None


class Watch:
    """Notes what Python's own audit reports, of this thread, while it is on."""

    _GROUPS = frozenset(
        {
            "builtins", "compile", "cpython", "ctypes", "exec", "ftplib", "gc", "glob", "http",
            "imaplib", "import", "marshal", "mmap", "open", "os", "pathlib", "pickle", "poplib",
            "pty", "resource", "shutil", "signal", "smtplib", "socket", "sqlite3", "subprocess",
            "sys", "syslog", "tempfile", "telnetlib", "urllib", "webbrowser",
        }
    )  # fmt: skip
    _HARMLESS = frozenset({"builtins.id", "sys._getframe"})

    def __init__(self) -> None:
        self.events: list[str] = []
        self._thread: int | None = None
        sys.addaudithook(self._note)

    def _note(self, event: str, args: tuple[Any, ...]) -> None:
        if self._thread != threading.get_ident() or event in self._HARMLESS:
            return
        if event.partition(".")[0] in self._GROUPS:
            self.events.append(f"{event} {args}")

    def __enter__(self) -> Watch:
        self._thread = threading.get_ident()
        return self

    def __exit__(self, *_: object) -> None:
        self._thread = None


#: Hooks can't be removed, so there is one.
_watch: list[Watch] = []


@pytest.fixture
def watch() -> Watch:
    if not _watch:
        _watch.append(Watch())
    _watch[0].events.clear()
    return _watch[0]


@pytest.fixture
def imports(tmp_path: Path) -> Iterator[Imports]:
    """What is imported from now on: for the first ``tmp_path`` pytest imports something, too."""
    finder = Imports()
    sys.meta_path.insert(0, finder)
    yield finder
    sys.meta_path.remove(finder)


def index() -> dict[str, tuple[str, str]]:
    """By file: what becomes of it, and where it is from."""
    lines = (CORPUS / "index.tsv").read_text("utf-8").splitlines()[1:]
    found = {}
    for line in lines:
        file, outcome, source = line.split("\t")
        assert file not in found
        found[file] = outcome, source
    return found


INDEX = index()


@pytest.mark.parametrize("family", sorted({file.partition("-")[0] for file in INDEX}))
@pytest.mark.parametrize(
    "read", [SAFE_PICKLE.loads, SAFE_PICKLE.loads_with_stand_ins], ids=["loads", "stand-ins"]
)
def test_nothing_happens(
    read: Callable[[bytes], Any],
    family: str,
    watch: Watch,
    imports: Imports,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Refused, or read as plain data; without an import, a call, growth, or much time."""
    monkeypatch.chdir(tmp_path)
    modules = set(sys.modules)
    environment = dict(os.environ)
    for file, (outcome, _) in INDEX.items():
        if file.partition("-")[0] != family:
            continue
        data = (CORPUS / file).read_bytes()
        error: Exception | None = None
        tracemalloc.start()
        try:
            begun = time.thread_time()
            with watch:
                try:
                    read(data)
                except ValueError as exc:
                    error = exc
            taken = time.thread_time() - begun
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
        assert (error is None) is (outcome == "data"), f"{file}: {error!r}"
        assert len(str(error)) < 600, file
        assert not watch.events, file
        assert not imports.names, file
        assert peak < 100_000 + 60 * len(data), file
        assert taken < LONGEST, file
    assert set(sys.modules) == modules
    assert dict(os.environ) == environment
    assert list(tmp_path.iterdir()) == []


def test_a_server_survives_all_of_them(imports: Imports) -> None:
    """In the thread of the loop, one after the other; then it serves as before."""
    side = Side()
    for file in INDEX:
        message = Message(REQUEST_PREFIX + (CORPUS / file).read_bytes())
        side.messaging.in_loop(side.server.on_recv, "c1", "mallory", message)
    side.wait_idle()
    assert side.messaging.sent == []
    assert side.server.counters["requests_unreadable"] >= len(INDEX) - 3
    side.send("note", 5)
    assert side.reply()["return"] == 5
    assert not imports.names
    assert side.server.close(10)


def test_the_files_are_those_of_their_generator() -> None:
    made = {f"{attack.name}.pkl": attack for attack in attacks()}
    assert {file: (made[file].outcome, made[file].source) for file in made} == INDEX
    assert {path.name for path in CORPUS.iterdir()} == {*made, "index.tsv"}
    for file, attack in made.items():
        assert (CORPUS / file).read_bytes() == attack.data, file


def test_the_watch_sees_what_happens(watch: Watch, imports: Imports, tmp_path: Path) -> None:
    with watch:
        (tmp_path / "file").write_bytes(b"")
        assert importlib.util.find_spec("snakemq_no_such_module") is None
        exec(compile("1", "x", "exec"))
    events = " ".join(watch.events)
    assert "open " in events
    assert "exec " in events
    assert imports.names == ["snakemq_no_such_module"]


def test_names_of_attacks_are_names_of_files() -> None:
    names = [attack.name for attack in attacks()]
    assert len({name.lower() for name in names}) == len(names), (
        "also where case makes no difference"
    )
    assert all(name.replace("-", "").replace(".", "").replace("_", "").isalnum() for name in names)
    assert isinstance(next(attacks()), Attack)
