"""Databases for tests: one migrated template per run, and clones of it.

A clone takes a fraction of a second and holds all that a fresh installation holds: schemas, partitions made ahead,
rows that migrations write. So no test has to put anything back.
"""

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from psycopg.sql import SQL, Identifier

TEMPLATE = "mistersmith_template"


@dataclass(frozen=True)
class Database:
    """A database of one test's own. `url` is for DATABASE_URL, `dsn` for psycopg."""

    name: str
    url: str

    @property
    def dsn(self) -> str:
        return self.url

    @property
    def environ(self) -> dict[str, str]:
        """What a process started by the test needs besides its own environment."""
        return {"DATABASE_URL": self.url}

    def connect(self, **options: Any) -> psycopg.Connection[Any]:
        """Open an autocommit connection; close it (or use it in a `with` block)."""
        return psycopg.connect(self.url, autocommit=True, **options)


class Clones:
    """Makes and drops databases on the server of `url`."""

    def __init__(self, url: str) -> None:
        self.url = url

    def url_of(self, name: str) -> str:
        return self.url.rpartition("/")[0] + f"/{name}"

    def create(self, name: str, template: str = TEMPLATE) -> Database:
        """Make database `name` anew as a copy of `template`."""
        self.drop(name)
        self.execute(
            SQL("CREATE DATABASE {} TEMPLATE {} STRATEGY FILE_COPY").format(
                Identifier(name), Identifier(template)
            )
        )
        return Database(name, self.url_of(name))

    def drop(self, name: str) -> None:
        """Drop the database; whoever is still connected is thrown out."""
        self.execute(SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(Identifier(name)))

    def exists(self, name: str) -> bool:
        with self.connect() as connection:
            query = "SELECT true FROM pg_database WHERE datname = %s"
            return connection.execute(query, [name]).fetchone() is not None

    def execute(self, statement: Any) -> None:
        with self.connect() as connection:
            connection.execute(statement)

    def connect(self) -> psycopg.Connection[Any]:
        return psycopg.connect(
            make_conninfo(**{**conninfo_to_dict(self.url), "dbname": "postgres"}), autocommit=True
        )


@contextmanager
def lock_file(path: Path) -> Iterator[None]:
    with path.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
