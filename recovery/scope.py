"""What a partial restore is about: a table, a schema, or one agent's rows. No database but for reading the catalog."""

from dataclasses import dataclass
from typing import Literal
from uuid import UUID

from psycopg import sql

from pg.errors import Refused
from recovery.server import Session

# one agent's rows, what others refer to first
OF_AGENT = {
    "agents.registry": "agent_id = {id}",
    "agents.state": "agent_id = {id}",
    "agents.checkpoints": "agent_id = {id}",
    "tasks.queue": "assigned_agent_id = {id} OR created_by_agent_id = {id} OR worker = {id}",
    "knowledge.facts": "source_agent_id = {id}",
}
# kept by the database or the bridge: neither compared nor brought back
MAINTAINED = {"updated_at", "version", "kv_epoch", "kv_revision"}
# how far a row has come in its life is today's: the state machines refuse the way back
LIFE = {
    "agents.registry": {"status", "liveness", "epoch", "last_heartbeat", "terminated_at"},
    "tasks.queue": {
        "status", "status_reason", "started_at", "completed_at", "retry_count", "attempt", "worker", "lease_until",
        "blocked_by", "progress", "scheduled_at", "task_type", "unique_key",
    },
}  # fmt: skip
RESTORABLE = ("agents", "tasks", "messages", "sessions", "knowledge")


@dataclass(frozen=True)
class Scope:
    """`name`: "agents.state", "agents", or an agent's id."""

    kind: Literal["table", "schema", "agent"]
    name: str

    def __str__(self) -> str:
        return f"{self.kind} {self.name}"

    @property
    def agent_id(self) -> UUID | None:
        return UUID(self.name) if self.kind == "agent" else None

    def condition(self, table: str) -> sql.Composable:
        """Return which of the table's rows belong to it."""
        if self.kind != "agent":
            return sql.SQL("true")
        return sql.SQL(OF_AGENT[table]).format(id=sql.Literal(self.name))


def read_scope(kind: str, name: str) -> Scope:
    """Raises Refused for what is none."""
    if kind == "agent":
        try:
            return Scope("agent", str(UUID(name)))
        except ValueError as error:
            raise Refused(f"{name}: no agent's id", "see `manage.py agents list`") from error
    if kind == "table" and name.count(".") != 1:
        raise Refused(f"{name}: which schema?", "write it with its schema: agents.state")
    return Scope("schema" if kind == "schema" else "table", name)


@dataclass(frozen=True)
class Table:
    """A table to bring rows back to. `columns` are all but generated ones, `key` is its primary key."""

    name: str
    key: tuple[str, ...]
    columns: tuple[str, ...]

    @property
    def identifier(self) -> sql.Identifier:
        return sql.Identifier(*self.name.split("."))

    @property
    def changeable(self) -> list[str]:
        """Return the columns that are compared, and set where the row is there."""
        kept = {*self.key, *MAINTAINED, *LIFE.get(self.name, ()), "created_at"}
        return [column for column in self.columns if column not in kept]


COLUMNS = """
SELECT n.nspname || '.' || c.relname,
       (SELECT array_agg(a.attname ORDER BY k.place) FROM pg_index i
        CROSS JOIN LATERAL unnest(i.indkey) WITH ORDINALITY k (number, place)
        JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = k.number
        WHERE i.indrelid = c.oid AND i.indisprimary)::text[],
       (SELECT array_agg(a.attname ORDER BY a.attnum) FROM pg_attribute a
        WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped AND a.attgenerated = '')::text[]
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE c.relkind IN ('r', 'p') AND NOT c.relispartition
  AND (n.nspname || '.' || c.relname = ANY(%(tables)s) OR n.nspname = %(schema)s)
ORDER BY 1
"""
NEEDS = """
SELECT cn.nspname || '.' || c.relname, pn.nspname || '.' || p.relname
FROM pg_constraint k
JOIN pg_class c ON c.oid = k.conrelid JOIN pg_namespace cn ON cn.oid = c.relnamespace
JOIN pg_class p ON p.oid = k.confrelid JOIN pg_namespace pn ON pn.oid = p.relnamespace
WHERE k.contype = 'f' AND k.conparentid = 0 AND c.oid <> p.oid
"""


def tables_of(session: Session, scope: Scope) -> list[Table]:
    """Return the tables of a scope, what others refer to first. Two queries. Raises Refused where there is none."""
    names = list(OF_AGENT) if scope.kind == "agent" else [scope.name] if scope.kind == "table" else []
    given = {"tables": names, "schema": scope.name if scope.kind == "schema" else None}
    rows = session.execute(COLUMNS, given).fetchall()
    if not rows:
        raise Refused(f"there is no {scope}", "see docs/schema.md for their names")
    for name, key, _ in rows:
        if not key:
            raise Refused(
                f"{name} has no primary key: its rows cannot be compared", "restore the whole database"
            )
    found = {name: Table(name, tuple(key), tuple(columns)) for name, key, columns in rows}
    return [found[name] for name in in_order(list(found), session.execute(NEEDS).fetchall())]


def in_order(names: list[str], needs: list[tuple[str, str]]) -> list[str]:
    """Return the names, each behind those that it refers to; a circle is broken anywhere."""
    ordered: list[str] = []

    def add(name: str, above: tuple[str, ...]) -> None:
        if name in ordered or name in above:
            return
        for child, parent in sorted(needs):
            if child == name and parent in names:
                add(parent, (*above, name))
        ordered.append(name)

    for name in names:
        add(name, ())
    return ordered
