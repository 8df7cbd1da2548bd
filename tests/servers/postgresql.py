"""A private PostgreSQL server, or the one that SNAKEMQ_TEST_POSTGRESQL points to."""

from __future__ import annotations

import glob
import os
import signal
from collections.abc import Iterator

import pytest

from tests.servers._process import PrivateServer, find_program

__all__ = ["Postgresql", "postgresql", "postgresql_url"]

VARIABLE = "SNAKEMQ_TEST_POSTGRESQL"


class Postgresql(PrivateServer):
    """PostgreSQL on a free port, which lets everybody in."""

    def __init__(self) -> None:
        self._psycopg = pytest.importorskip("psycopg", reason="there is no psycopg")
        directories = sorted(glob.glob("/usr/lib/postgresql/*/bin"), reverse=True)
        self._program = find_program("postgres", *directories)
        initdb = find_program("initdb", *directories)
        super().__init__("postgres", signal.SIGQUIT)
        try:
            self.run(
                [
                    initdb,
                    *("--pgdata", self.directory / "data"),
                    *("--username", "snakemq"),
                    *("--auth", "trust"),
                    *("--encoding", "UTF8"),
                    *("--locale", "C"),
                    "--no-sync",
                    "--no-instructions",
                ]
            )
            self.start()
        except BaseException:
            self.close()
            raise

    @property
    def url(self) -> str:
        return f"postgresql+psycopg://snakemq@127.0.0.1:{self.port}/postgres"

    def command(self) -> list[str]:
        settings = {
            # It has to survive kill -9, not a power failure.
            "fsync": "off",
            "listen_addresses": "127.0.0.1",
            "unix_socket_directories": "",
            "port": str(self.port),
            "max_connections": "30",
            "shared_buffers": "16MB",
        }
        options = [f"--{name}={value}" for name, value in settings.items()]
        return [self._program, "-D", str(self.directory / "data"), *options]

    def answers(self) -> bool:
        try:
            self._psycopg.connect(
                host="127.0.0.1", port=self.port, user="snakemq", dbname="postgres"
            ).close()
        except self._psycopg.OperationalError:
            return False
        return True


@pytest.fixture(scope="session")
def postgresql() -> Iterator[Postgresql]:
    """The server of this process. A test that stops it starts it again."""
    server = Postgresql()
    yield server
    server.close()


@pytest.fixture(scope="session")
def postgresql_url(request: pytest.FixtureRequest) -> str:
    """The URL of a database for tests that do not stop the server."""
    given = os.environ.get(VARIABLE)
    if given:
        return given
    server: Postgresql = request.getfixturevalue("postgresql")
    return server.url
