"""The SQL servers: one of each in a process, for all modules here."""

from __future__ import annotations

from tests.servers.mariadb import mariadb, mariadb_url
from tests.servers.postgresql import postgresql, postgresql_url

__all__ = ["mariadb", "mariadb_url", "postgresql", "postgresql_url"]
