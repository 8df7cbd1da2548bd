"""A server that speaks MongoDB's protocol, for one test module at a time.

It is the one that ``tools/mongodb_server.py`` builds, started on a free port
with its data in a temporary directory; or that of ``SNAKEMQ_TEST_MONGODB``, in
which the tests then use databases of their own, and delete them.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import secrets
import subprocess
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

__all__ = [
    "MongoDbServer",
    "mongodb",
    "mongodb_client",
    "mongodb_of_my_own",
    "mongodb_server",
]

VARIABLE = "SNAKEMQ_TEST_MONGODB"


class MongoDbServer:
    """A running server.

    :param program: what to run, or ``None`` for a server that runs elsewhere
    :param directory: for its data
    :param uri: of the one that runs elsewhere
    """

    def __init__(self, program: Path | None, directory: Path, uri: str = "") -> None:
        self._program = program
        self._directory = directory
        self._process: subprocess.Popen[bytes] | None = None
        self.uri = uri
        self.port = 0

    def start(self) -> None:
        """Start it, at the same port as the last time."""
        assert self._program is not None
        with (self._directory / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [
                    self._program,
                    *("-directory", self._directory),
                    *("-address", f"127.0.0.1:{self.port}"),
                ],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                # It is small, and a fifth faster if it collects its garbage less often.
                env={"GOGC": "800", **os.environ},
            )
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        assert line, (self._directory / "log").read_text("utf-8", "replace")
        self.port = int(line)
        self.uri = f"mongodb://127.0.0.1:{self.port}"

    def stop(self) -> None:
        """Stop it: no connection is left when this returns."""
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.wait(20)
            assert process.stdin is not None
            assert process.stdout is not None
            process.stdin.close()
            process.stdout.close()

    @contextlib.contextmanager
    def database(self) -> Iterator[Any]:
        """A database of its own, as pymongo's object; deleted at the end."""
        import pymongo

        with pymongo.MongoClient(self.uri) as client:
            database = client[f"snakemq_test_{secrets.token_hex(8)}"]
            yield database
            client.drop_database(database.name)


def _tool() -> ModuleType:
    path = Path(__file__).resolve().parent.parent.parent / "tools" / "mongodb_server.py"
    spec = importlib.util.spec_from_file_location("mongodb_server_tool", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _start(directory: Path) -> MongoDbServer:
    tool = _tool()
    program = tool.program()
    if not program.is_file():
        pytest.skip(f"no MongoDB server here: {tool.HOW_TO_GET_IT}")
    server = MongoDbServer(program, directory)
    server.start()
    return server


@pytest.fixture(scope="module")
def mongodb_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MongoDbServer]:
    """The server; a test that needs it is skipped where there is none."""
    pytest.importorskip("pymongo", reason="no pymongo here: pip install pymongo")
    directory = tmp_path_factory.mktemp("mongodb")
    uri = os.environ.get(VARIABLE, "")
    server = MongoDbServer(None, directory, uri) if uri else _start(directory)
    yield server
    server.stop()


@pytest.fixture(scope="module")
def mongodb_client(mongodb_server: MongoDbServer) -> Iterator[Any]:
    """A client of it. One for all tests, because the threads of a client take time to end."""
    import pymongo

    with pymongo.MongoClient(mongodb_server.uri) as client:
        client.admin.command("ping")  # from here on it has its connections
        yield client


@pytest.fixture
def mongodb_of_my_own(tmp_path: Path) -> Iterator[MongoDbServer]:
    """A server for one test, which may stop and start it. It is always the one that we build."""
    pytest.importorskip("pymongo", reason="no pymongo here: pip install pymongo")
    server = _start(tmp_path)
    yield server
    server.stop()


@pytest.fixture
def mongodb(mongodb_client: Any) -> Iterator[Any]:
    """A database of its own on it, as pymongo's object; deleted at the end."""
    database = mongodb_client[f"snakemq_test_{secrets.token_hex(8)}"]
    yield database
    mongodb_client.drop_database(database.name)
