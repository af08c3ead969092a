"""Load a backup's dump into a database, and the scratch databases that verification loads it into."""

import hashlib
import logging
import re
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg
from psycopg import sql

from pg.errors import Refused
from recovery import manifest
from recovery.contents import Contents, summarise
from recovery.errors import Damaged, RecoveryError, ToolFailed
from recovery.models import Backup
from recovery.server import Server, Session
from recovery.tools import Tools, run

log = logging.getLogger(__name__)
APPLICATION = "mistersmith restore"
# what a pg_restore newer than the server says of a setting that the server does not know: harmless
HARMLESS = 'unrecognized configuration parameter "transaction_timeout"'
MADE = re.compile(r"^\d+; \d+ \d+ TABLE (?!ATTACH |DATA )(.*)$")  # schema, name, owner: nothing is quoted
PROVIDERS = {"c": "libc", "i": "icu", "b": "builtin"}
LOCALE_OPTIONS = {"i": "ICU_LOCALE", "b": "BUILTIN_LOCALE"}


def load_dump(folder: Path, server: Server, database: str, tools: Tools, jobs: int) -> None:
    """Restore `<folder>/dump` into an empty database. Raises ToolFailed, Damaged where that is because the dump lacks
    tables; then the database is half full."""
    argv = [
        tools.program("pg_restore"), "--format=directory", f"--jobs={jobs}", "--no-password",
        f"--dbname={server.conninfo(database)}", str(folder / "dump"),
    ]  # fmt: skip
    try:
        run(argv, server.environment(APPLICATION))
    except ToolFailed as error:
        if error.is_only(HARMLESS):
            return
        if lacking := lacking_tables(folder, tools):
            raise Damaged(
                f"the dump lacks table {summarise(lacking)}", "choose another one: `manage.py backup list`"
            ) from error
        raise


def lacking_tables(folder: Path, tools: Tools) -> list[str]:
    """Return the tables and partitions of the backup's manifest that its dump does not make; [] where it cannot be read
    at all, which the load has told."""
    wanted = Contents.from_json(manifest.read_manifest(folder)["contents"]).tables
    names = {name for table, leaves in wanted.items() for name in (table, *leaves)}
    try:
        made = [match[1].replace(".", " ") for match in map(MADE.search, list_dump(folder, tools)) if match]
    except subprocess.CalledProcessError:
        return []
    return sorted(
        name for name in names if not any(line.startswith(f"{name.replace('.', ' ')} ") for line in made)
    )


def list_dump(folder: Path, tools: Tools) -> list[str]:
    """Return the dump's table of contents, a line per entry."""
    argv = [tools.program("pg_restore"), "--list", str(folder / "dump")]
    return subprocess.run(argv, capture_output=True, text=True, check=True).stdout.splitlines()


def create_database(session: Session, name: str, made: dict[str, Any]) -> None:
    """Create an empty database as the manifest's `database` says: encoding and locale must be the original's."""
    parts = [
        sql.SQL("CREATE DATABASE {} TEMPLATE template0 ENCODING {} LC_COLLATE {} LC_CTYPE {}").format(
            sql.Identifier(name), made["encoding"], made["lc_collate"], made["lc_ctype"]
        ),
        sql.SQL(f"LOCALE_PROVIDER {PROVIDERS[made['provider']]}"),
    ]
    if made["locale"] and made["provider"] in LOCALE_OPTIONS:
        parts.append(sql.SQL(LOCALE_OPTIONS[made["provider"]] + " {}").format(made["locale"]))
    try:
        session.execute(sql.SQL(" ").join(parts))
    except psycopg.errors.DuplicateDatabase as error:
        raise Refused(f"database {name} exists", "choose another name") from error
    except psycopg.errors.InsufficientPrivilege as error:
        raise Refused(
            f"we may not create database {name}", "let a superuser run: ALTER ROLE ... CREATEDB"
        ) from error
    except psycopg.DatabaseError as error:
        raise RecoveryError(
            f"CREATE DATABASE {name}: {str(error).strip()}",
            "restore on a server of the same version and locales",
        ) from error


def drop_database(session: Session, name: str) -> None:
    """Drop it if it exists; whoever is connected to it is thrown out."""
    session.execute(sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(name)))


def missing_roles(session: Session, made: dict[str, Any]) -> list[str]:
    """Return the roles that the backup's objects need and the server has not."""
    rows = session.execute(
        "SELECT name FROM unnest(%s::text[]) AS wanted (name)"
        " WHERE NOT EXISTS (SELECT FROM pg_roles WHERE rolname = name) ORDER BY name",
        [made["roles"]],
    )
    return [row[0] for row in rows.fetchall()]


# -- scratch databases --------------------------------------------------------------------------------------
@contextmanager
def scratch_database(server: Server, session: Session, backup: Backup, made: dict[str, Any]) -> Iterator[str]:
    """Make an empty database for one verification and drop it at the end, whatever happened; yield its name."""
    name = scratch_prefix(server) + backup.pk.hex[-12:]
    create_database(session, name, made)
    try:
        yield name
    finally:
        drop_patiently(server, name)


def drop_patiently(server: Server, name: str) -> None:
    """Drop over a connection of its own. Where that fails the next run finds it, see `drop_leftovers`."""
    try:
        with server.connect_anywhere() as session:
            drop_database(session, name)
    except (psycopg.Error, RecoveryError) as error:
        log.warning("scratch database %s is left behind, the next verification drops it: %s", name, error)


def drop_leftovers(server: Server, session: Session) -> list[str]:
    """Drop the scratch databases of killed runs; return their names. Hold the recovery lock: none is in use then."""
    rows = session.execute(
        "SELECT datname FROM pg_database WHERE datname ~ %s", [f"^{scratch_prefix(server)}[0-9a-f]{{12}}$"]
    ).fetchall()
    for (name,) in rows:
        log.warning("dropping scratch database %s, left behind by a killed run", name)
        drop_database(session, name)
    return [row[0] for row in rows]


def scratch_prefix(server: Server) -> str:
    """Return the beginning of our scratch databases' names: several installations may share the server."""
    owner = hashlib.sha256(server.database.encode()).hexdigest()[:8]
    return f"mistersmith_verify_{owner}_"
