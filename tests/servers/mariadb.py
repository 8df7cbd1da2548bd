"""A private MariaDB server, or the one that SNAKEMQ_TEST_MARIADB points to."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from tests.servers._process import PrivateServer, find_program

__all__ = ["Mariadb", "mariadb", "mariadb_url"]

VARIABLE = "SNAKEMQ_TEST_MARIADB"


class Mariadb(PrivateServer):
    """MariaDB on a free port, which lets root in without a password."""

    def __init__(self) -> None:
        self._pymysql = pytest.importorskip("pymysql", reason="there is no PyMySQL")
        self._program = find_program("mariadbd", "/usr/sbin")
        install = find_program("mariadb-install-db")
        super().__init__("mysql")
        try:
            self.run(
                [
                    install,
                    "--no-defaults",
                    f"--datadir={self.directory / 'data'}",
                    "--auth-root-authentication-method=normal",
                    "--skip-test-db",
                    "--innodb-flush-log-at-trx-commit=0",
                ]
            )
            self.start()
            connection = self._connect()
            connection.cursor().execute("CREATE DATABASE snakemq")
            connection.close()
        except BaseException:
            self.close()
            raise

    @property
    def url(self) -> str:
        return f"mysql+pymysql://root@127.0.0.1:{self.port}/snakemq"

    def command(self) -> list[str]:
        return [
            self._program,
            "--no-defaults",
            f"--datadir={self.directory / 'data'}",
            f"--socket={self.directory / 'socket'}",
            f"--pid-file={self.directory / 'pid'}",
            f"--port={self.port}",
            "--bind-address=127.0.0.1",
            # It has to survive kill -9, not a power failure.
            "--innodb-flush-log-at-trx-commit=2",
            "--innodb-buffer-pool-size=32M",
            "--skip-performance-schema",
        ]

    def answers(self) -> bool:
        try:
            self._connect().close()
        except self._pymysql.OperationalError:
            return False
        return True

    def _connect(self):  # type: ignore[no-untyped-def]
        return self._pymysql.connect(host="127.0.0.1", port=self.port, user="root")


@pytest.fixture(scope="session")
def mariadb() -> Iterator[Mariadb]:
    """The server of this process. A test that stops it starts it again."""
    server = Mariadb()
    yield server
    server.close()


@pytest.fixture(scope="session")
def mariadb_url(request: pytest.FixtureRequest) -> str:
    """The URL of a database for tests that do not stop the server."""
    given = os.environ.get(VARIABLE)
    if given:
        return given
    server: Mariadb = request.getfixturevalue("mariadb")
    return server.url
