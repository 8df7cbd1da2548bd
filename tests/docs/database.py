"""A database server for documents; they import it in blocks that are not shown."""

from __future__ import annotations

from tests.servers.postgresql import Postgresql

__all__ = ["Database"]


class Database(Postgresql):
    """A PostgreSQL server as a document has it; without one the document is skipped.

    :param port: where it listens
    :param user: who may connect, without a password
    :param database: that this user owns
    """

    def __init__(self, port: int, user: str, database: str) -> None:
        self._documented_port = port
        super().__init__()
        with self._psycopg.connect(
            host="127.0.0.1", port=port, user="snakemq", dbname="postgres", autocommit=True
        ) as connection:
            connection.execute(f"CREATE ROLE {user} LOGIN")
            connection.execute(f"CREATE DATABASE {database} OWNER {user}")
        connection.close()

    def start(self) -> None:
        self.port = self._documented_port
        super().start()
