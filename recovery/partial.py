"""Compare staged rows with today's, and bring them back on request.

Rows are matched by primary key. What the database or the bridge keeps (versions, positions in KV) is not compared; how
far an agent or task has come in its life stays today's where it is there. All goes through the ordinary tables: their
triggers check it, and the outbox carries it to JetStream.
"""

from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import psycopg
from django.db import connection, transaction
from psycopg import sql

from agents.errors import UnknownAgent
from agents.rollback import raise_epoch
from operators.audit import Actor, record, require_reason
from pg.errors import Refused
from recovery.scope import RESTORABLE, Table, tables_of
from recovery.server import Session
from recovery.staging import BEFORE, Staged

SHOWN = 20
# what a row that comes back begins anew with: it has seen nothing of KV, and nobody works on it
ANEW = {"kv_epoch", "kv_revision", "version", "worker", "lease_until", "blocked_by"}
REQUEUED = {
    "status": "CASE WHEN status = 'running' THEN 'queued' ELSE status END",
    "started_at": "CASE WHEN status <> 'running' THEN started_at END",
}


@dataclass
class Difference:
    """One table. `missing`: staged and not there today; `changed`: other values; `extra`: there today and not staged.
    `examples` are the first keys of each."""

    table: str
    staged: int = 0
    missing: int = 0
    changed: int = 0
    extra: int = 0
    examples: list[str] = field(default_factory=list)

    def as_item(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in ("table", "staged", "missing", "changed", "extra")}


def compare_staged(session: Session, staged: Staged) -> list[Difference]:
    """Return how the staged rows differ from today's, table by table. Reads both."""
    return [compare_table(session, staged, table) for table in tables_of(session, staged.scope)]


def compare_table(session: Session, staged: Staged, table: Table) -> Difference:
    judged = verdicts(staged, table)
    counts = session.execute(
        sql.SQL("SELECT verdict, count(*) FROM ({}) v GROUP BY 1").format(judged)
    ).fetchall()
    found = dict(counts)
    difference = Difference(table.name, sum(found.values()) - found.get("extra", 0))
    for verdict in ("missing", "changed", "extra"):
        setattr(difference, verdict, found.get(verdict, 0))
    key = sql.SQL(" || ' ' || ").join(sql.SQL("{}::text").format(sql.Identifier(name)) for name in table.key)
    rows = session.execute(
        sql.SQL("SELECT verdict || ' ' || {} FROM ({}) v WHERE verdict <> 'same' ORDER BY 1 LIMIT {}").format(
            key, judged, SHOWN
        )
    )
    difference.examples = [f"{table.name} {text}" for (text,) in rows.fetchall()]
    return difference


def verdicts(staged: Staged, table: Table) -> sql.Composed:
    """Return the query that gives each key's verdict: missing, changed, extra, same."""
    return sql.SQL(
        "SELECT {keys}, CASE WHEN t.is_there IS NULL THEN 'missing' WHEN s.is_there IS NULL THEN 'extra'"
        " WHEN {differ} THEN 'changed' ELSE 'same' END AS verdict"
        " FROM (SELECT *, true AS is_there FROM {staged}) s"
        " FULL JOIN (SELECT *, true AS is_there FROM {today} WHERE {scope}) t USING ({keys})"
    ).format(
        keys=names(table.key),
        differ=differ(table),
        staged=sql.Identifier(staged.name, table.name),
        today=table.identifier,
        scope=staged.scope.condition(table.name),
    )


def differ(table: Table) -> sql.Composable:
    """Return whether staged row `s` has other values than today's `t`."""
    if not table.changeable:
        return sql.SQL("false")
    return sql.SQL("ROW({}) IS DISTINCT FROM ROW({})").format(
        names(table.changeable, "s"), names(table.changeable, "t")
    )


def names(columns: Any, side: str = "") -> sql.Composed:
    parts = ((side, column) if side else (column,) for column in columns)
    return sql.SQL(", ").join(sql.Identifier(*part) for part in parts)


def same(table: Table) -> sql.Composed:
    return sql.SQL(" AND ").join(sql.SQL("s.{0} = t.{0}").format(sql.Identifier(name)) for name in table.key)


# -- bringing them back -------------------------------------------------------------------------------------
@dataclass
class Applied:
    """How many rows of one table came back, were set, or went."""

    table: str
    inserted: int = 0
    updated: int = 0
    deleted: int = 0


def apply_staged(staged: Staged, by: Actor, reason: str, delete_extra: bool = False) -> list[Applied]:
    """Insert what is missing and set what has changed, with `delete_extra` also delete what is not staged; all in one
    transaction, with its entry in the audit. What is replaced or deleted is kept beside, as `before.<table>`.

    Of an agent's rows the epoch is raised: its running incarnation, which knows nothing of this, is shut out. Running
    it again changes nothing more. Raises Refused for what may not be written, or what a rule of the tables forbids:
    then nothing was changed.
    """
    reason = require_reason(reason)
    try:
        with transaction.atomic():
            connection.ensure_connection()
            return apply_in(connection.connection, staged, by, reason, delete_extra)
    except (psycopg.IntegrityError, psycopg.errors.RaiseException) as error:
        raise Refused(
            f"{staged.scope}: {error.diag.message_primary or error}",
            "bring back what it refers to as well (its schema); a missing partition: `manage.py partitions apply`",
        ) from error


def apply_in(session: Session, staged: Staged, by: Actor, reason: str, delete_extra: bool) -> list[Applied]:
    tables = tables_of(session, staged.scope)
    if outside := [table.name for table in tables if table.name.split(".")[0] not in RESTORABLE]:
        raise Refused(
            f"{', '.join(outside)}: not of the domains", "read the staging tables, and write by hand"
        )
    if (agent_id := staged.scope.agent_id) is not None:
        with suppress(UnknownAgent):
            raise_epoch(agent_id)
    done = {table.name: Applied(table.name) for table in tables}
    for table in tables:
        keep_before(session, staged, table)
        done[table.name].inserted = insert_missing(session, staged, table)
        done[table.name].updated = update_changed(session, staged, table)
    for table in reversed(tables if delete_extra else []):
        done[table.name].deleted = delete_extra_rows(session, staged, table)
    rows = {each.table: [each.inserted, each.updated, each.deleted] for each in done.values()}
    details = {"backup": staged.backup_id, "moment": staged.moment, "staged": staged.name, "rows": rows}
    record(by, "recovery.partial_restore", [staged.scope], reason=reason, details=details)
    return list(done.values())


def keep_before(session: Session, staged: Staged, table: Table) -> None:
    """Keep today's rows that may be replaced or deleted; of a second application what that one finds."""
    place = sql.Identifier(staged.name, BEFORE + table.name)
    session.execute(sql.SQL("DROP TABLE IF EXISTS {}").format(place))
    session.execute(
        sql.SQL(
            "CREATE TABLE {} AS SELECT t.* FROM {} t JOIN ({}) v USING ({}) WHERE verdict IN ('changed', 'extra')"
        ).format(place, table.identifier, verdicts(staged, table), names(table.key))
    )


def insert_missing(session: Session, staged: Staged, table: Table) -> int:
    columns = [name for name in table.columns if name not in ANEW]
    special = REQUEUED if table.name == "tasks.queue" else {}
    values = [sql.SQL(special[name]) if name in special else sql.Identifier("s", name) for name in columns]
    return session.execute(
        sql.SQL(
            "INSERT INTO {today} ({columns}) OVERRIDING SYSTEM VALUE SELECT {values} FROM {staged} s"
            " WHERE NOT EXISTS (SELECT FROM {today} t WHERE {same})"
        ).format(
            today=table.identifier, columns=names(columns), values=sql.SQL(", ").join(values),
            staged=sql.Identifier(staged.name, table.name), same=same(table),
        )
    ).rowcount  # fmt: skip


def update_changed(session: Session, staged: Staged, table: Table) -> int:
    if not table.changeable:
        return 0
    sets = sql.SQL(", ").join(
        sql.SQL("{0} = s.{0}").format(sql.Identifier(name)) for name in table.changeable
    )
    return session.execute(
        sql.SQL("UPDATE {} t SET {} FROM {} s WHERE {} AND {}").format(
            table.identifier, sets, sql.Identifier(staged.name, table.name), same(table), differ(table)
        )
    ).rowcount


def delete_extra_rows(session: Session, staged: Staged, table: Table) -> int:
    return session.execute(
        sql.SQL("DELETE FROM {} t WHERE ({}) AND NOT EXISTS (SELECT FROM {} s WHERE {})").format(
            table.identifier,
            staged.scope.condition(table.name),
            sql.Identifier(staged.name, table.name),
            same(table),
        )
    ).rowcount
