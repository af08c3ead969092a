"""The PostgreSQL server as backups see it: our database may be gone while the server is there."""

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

import psycopg
from django.db import connections
from psycopg.conninfo import make_conninfo

from pg.errors import Refused, Unreachable
from recovery.errors import Busy

MAINTENANCE_DATABASES = ("postgres", "template1")
LIBPQ_KEYWORDS = {option.keyword.decode() for option in psycopg.pq.Conninfo.get_defaults()}
LIBPQ_KEYWORDS -= {"application_name", "options"}  # of the pools; what recovery does has its own
Session = psycopg.Connection[Any]
# values must have one text form wherever they are read, and no limit of the role may end a long read
SESSION_SETTINGS = {
    "application_name": "mistersmith recovery",
    "search_path": "pg_catalog",
    "row_security": "off",
    "DateStyle": "ISO, YMD",
    "IntervalStyle": "postgres",
    "TimeZone": "UTC",
    "extra_float_digits": "1",
    "bytea_output": "hex",
    "statement_timeout": "0",
    "idle_in_transaction_session_timeout": "0",
    "transaction_timeout": "0",  # since 17
    "lock_timeout": "60s",
}


@dataclass(frozen=True)
class Server:
    """How to reach the server. `database` is the control plane's own, whether it exists or not."""

    database: str
    parameters: dict[str, str] = field(hash=False)  # libpq's, without the database
    password: str = field(default="", repr=False)

    def connect(self, database: str | None = None) -> Session:
        """Open an autocommit session with SESSION_SETTINGS on `database`, by default our own."""
        secret = {"password": self.password} if self.password else {}
        conninfo = make_conninfo(self.conninfo(database or self.database), **secret)
        session = psycopg.connect(conninfo, autocommit=True)
        session.execute(
            "SELECT set_config(name, value, false) FROM unnest(%s::text[], %s::text[]) AS wanted (name, value)"
            " WHERE EXISTS (SELECT FROM pg_settings s WHERE lower(s.name) = lower(wanted.name))",
            [list(SESSION_SETTINGS), list(SESSION_SETTINGS.values())],
        )
        return session

    def connect_anywhere(self) -> Session:
        """Open a session on our database or, where that is gone, on one that every server has.

        Raises Unreachable when none of them answers.
        """
        errors = []
        for database in dict.fromkeys((self.database, *MAINTENANCE_DATABASES)):
            try:
                return self.connect(database)
            except psycopg.OperationalError as error:
                errors.append(error)
        raise Unreachable(
            f"PostgreSQL: {str(errors[0]).strip()}",
            "start it with `make up`, or correct DATABASE_URL; `backup list` works without it",
        ) from errors[0]

    def conninfo(self, database: str) -> str:
        """Return what PostgreSQL's programs take for --dbname: never the password."""
        return make_conninfo(**{**self.parameters, "dbname": database})

    def environment(self, application_name: str) -> dict[str, str]:
        """Return the environment for PostgreSQL's programs."""
        secret = {"PGPASSWORD": self.password} if self.password else {}
        return {**os.environ, **secret, "PGAPPNAME": application_name, "LC_ALL": "C"}


def home_server() -> Server:
    """Return the server of the control plane's own database, as the settings name it."""
    settings = connections["default"].settings_dict
    given = {"host": settings["HOST"], "port": settings["PORT"], "user": settings["USER"]}
    options = {name: value for name, value in settings["OPTIONS"].items() if name in LIBPQ_KEYWORDS}
    parameters = {name: str(value) for name, value in {**options, **given}.items() if value}
    return Server(str(settings["NAME"]), parameters, str(settings["PASSWORD"] or ""))


@contextmanager
def exclusive(server: Server) -> Iterator[Session]:
    """Hold the recovery lock of this database for as long as the session lives, which is yielded.

    Backup, verification and pruning exclude each other by it. Raises Busy at once when somebody has it. A killed
    holder's lock goes with its connection.
    """
    with server.connect_anywhere() as session:
        row = session.execute(
            "SELECT pg_try_advisory_lock(hashtext('recovery'), hashtext(%s))", [server.database]
        ).fetchone()
        if not row or not row[0]:
            raise Busy(
                f"a backup, verification or pruning of {server.database} is running",
                "try again when it is done: `manage.py backup list` shows it",
            )
        try:
            yield session
        finally:  # not left to the end of the session, which the server notices a moment later
            with suppress(psycopg.Error):
                session.execute(
                    "SELECT pg_advisory_unlock(hashtext('recovery'), hashtext(%s))", [server.database]
                )


def server_version(session: Session) -> str:
    """Return the server's version, for instance "18.6"."""
    number = session.info.server_version
    return f"{number // 10000}.{number % 10000}"


def require_database(server: Server, session: Session) -> None:
    """Raise Refused when the session is on another database than our own, which is gone then."""
    if session.info.dbname != server.database:
        raise Refused(
            f"database {server.database} does not exist",
            f"restore it: `manage.py backup restore --target-database {server.database}`",
        )
