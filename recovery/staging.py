"""Rows of a backup in staging tables beside today's: `staged_<time>.<schema>.<table>`, one schema per partial restore.

From a logical backup only the wanted tables' data is loaded, into a scratch database; from base backups a scratch
server is brought to the moment. Neither touches today's tables.
"""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from django.utils import timezone
from psycopg import sql

from pg.errors import Refused
from recovery.drill import scratch_folder
from recovery.loading import loaded
from recovery.models import Backup
from recovery.pitr import plan_recovery
from recovery.recover import recovered
from recovery.scope import Scope, Table, read_scope, tables_of
from recovery.server import Server, Session, exclusive, home_server, require_database
from recovery.target import Target
from recovery.tidying import tidy
from recovery.verify import choose

PREFIX = "staged_"
BEFORE = "before."  # what an application replaced


@dataclass(frozen=True)
class Staged:
    """One staging schema. `moment`: as of when its rows are, in words."""

    name: str
    scope: Scope
    backup_id: str
    moment: str
    staged_at: datetime


def stage(scope: Scope, wanted: str = "", target: Target | None = None) -> Staged:
    """Bring the scope's rows out of a backup into staging tables; return the schema.

    `wanted` is a backup's id or its beginning; by default the newest finished logical one, or with a `target` the one
    that reaches it. Safe twice: each makes a schema of its own; killed, none is left. Raises Busy, Refused,
    UnknownBackup, NotReachable, Damaged, NoSpace.
    """
    server = home_server()
    with exclusive(server) as session:
        require_database(server, session)
        tidy()
        tables = tables_of(session, scope)
        with source_of(server, session, tables, wanted, target) as (source, backup, moment):
            return copy_over(session, source, scope, tables, backup, moment)


@contextmanager
def source_of(
    server: Server, session: Session, tables: list[Table], wanted: str, target: Target | None
) -> Iterator[tuple[Session, Backup, str]]:
    """Give a session on a database that holds the rows, the backup, and its moment in words."""
    chosen = None if target is not None and not wanted else choose(wanted, (Backup.Kind.LOGICAL,))
    if chosen is not None and chosen.kind == Backup.Kind.LOGICAL:
        if target is not None:
            raise Refused(f"backup {chosen.pk} is logical: it has one moment", "leave the target out")
        with loaded(server, session, chosen, tables) as inside:
            yield inside, chosen, f"{chosen.started_at:%Y-%m-%d %H:%M:%S} UTC"
        return
    plan = plan_recovery(target or Target("end"), str(chosen.pk) if chosen else "")
    with (
        scratch_folder() as folder,
        recovered(plan, folder / "data", sync=False) as (cluster, proof),
        cluster.server.connect(server.database) as inside,
    ):
        yield (
            inside,
            plan.backup,
            f"{plan.target}, last commit {proof.last_commit_at or 'that of the backup'}",
        )


# -- into the staging tables --------------------------------------------------------------------------------
def copy_over(
    session: Session, source: Session, scope: Scope, tables: list[Table], backup: Backup, moment: str
) -> Staged:
    """Make the staging schema with all its rows, in one transaction."""
    now = timezone.now()
    staged = Staged(f"{PREFIX}{now:%Y%m%d_%H%M%S_%f}", scope, str(backup.pk), moment, now)
    with session.transaction():
        session.execute(sql.SQL("CREATE SCHEMA {}").format(sql.Identifier(staged.name)))
        about = sql.SQL("COMMENT ON SCHEMA {} IS {}").format(sql.Identifier(staged.name), describe(staged))
        session.execute(about)
        rows = sum(copy_table(session, source, scope, table, staged) for table in tables)
        if not rows:
            raise Refused(f"the backup has no rows of {scope}", "choose another backup, or an earlier moment")
    return staged


def describe(staged: Staged) -> str:
    body = {
        "kind": staged.scope.kind, "name": staged.scope.name, "backup_id": staged.backup_id, "moment": staged.moment,
        "staged_at": staged.staged_at.isoformat(),
    }  # fmt: skip
    return json.dumps(body)


def copy_table(session: Session, source: Session, scope: Scope, table: Table, staged: Staged) -> int:
    """Copy the rows that belong to the scope; return how many. Columns that the backup lacks stay NULL."""
    there = columns_in(source, table)
    columns = sql.SQL(", ").join(sql.Identifier(column) for column in table.columns if column in there)
    target = sql.Identifier(staged.name, table.name)
    session.execute(
        sql.SQL("CREATE TABLE {} AS SELECT {} FROM {} WITH NO DATA").format(
            target, sql.SQL(", ").join(map(sql.Identifier, table.columns)), table.identifier
        )
    )
    read = sql.SQL("COPY (SELECT {} FROM {} WHERE {}) TO STDOUT").format(
        columns, table.identifier, scope.condition(table.name)
    )
    write = sql.SQL("COPY {} ({}) FROM STDIN").format(target, columns)
    with source.cursor().copy(read) as out, session.cursor() as cursor:
        with cursor.copy(write) as into:
            for block in out:
                into.write(block)
        rows = cursor.rowcount
    keys = sql.SQL(", ").join(map(sql.Identifier, table.key))
    session.execute(sql.SQL("ALTER TABLE {} ADD PRIMARY KEY ({})").format(target, keys))
    session.execute(sql.SQL("ANALYZE {}").format(target))
    return rows


def columns_in(source: Session, table: Table) -> set[str]:
    rows = source.execute(
        "SELECT attname FROM pg_attribute WHERE attrelid = to_regclass(%s) AND attnum > 0 AND NOT attisdropped",
        [table.name],
    ).fetchall()
    if not rows:
        raise Refused(f"the backup has no table {table.name}", "choose another backup")
    return {name for (name,) in rows}


# -- what is staged -----------------------------------------------------------------------------------------
def list_staged(session: Session) -> list[Staged]:
    """Return the staging schemas, the newest first. One query."""
    rows = session.execute(
        "SELECT nspname, obj_description(oid, 'pg_namespace') FROM pg_namespace"
        " WHERE starts_with(nspname, %s) ORDER BY 1 DESC",
        [PREFIX],
    ).fetchall()
    return [read_staged(name, json.loads(text)) for name, text in rows if text]


def read_staged(name: str, body: dict[str, Any]) -> Staged:
    scope = read_scope(body["kind"], body["name"])
    return Staged(name, scope, body["backup_id"], body["moment"], datetime.fromisoformat(body["staged_at"]))


def find_staged(session: Session, name: str) -> Staged:
    """Return the one of this name, or the newest for "". Raises Refused."""
    found = [staged for staged in list_staged(session) if name in ("", staged.name)]
    if not found:
        raise Refused(
            f"nothing is staged{f' as {name}' if name else ''}", "stage something: `manage.py backup stage`"
        )
    return found[0]


def unstage(session: Session, staged: Staged) -> None:
    """Drop a staging schema. Raises psycopg's errors."""
    session.execute(sql.SQL("DROP SCHEMA {} CASCADE").format(sql.Identifier(staged.name)))


@contextmanager
def home_session() -> Iterator[Session]:
    """Give a session on our own database. Raises Unreachable, Refused where it is gone."""
    server = home_server()
    with server.connect_anywhere() as session:
        require_database(server, session)
        yield session
