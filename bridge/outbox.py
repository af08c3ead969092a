"""The outbox as the relay and the fast path use it: read, forget, set apart, send again."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

from django.db.backends.base.base import BaseDatabaseWrapper

from bridge.models import Op
from bridge.newest import Last
from bridge.session import execute_bound

COLUMNS = "outbox_id, target, key, op, base_revision, payload, strategy, expires_at"
SECONDS_LEFT = (
    "CASE WHEN isfinite(o.expires_at) THEN extract(epoch FROM o.expires_at - clock_timestamp())::float8 END"
)
NOT_HELD = "NOT EXISTS (SELECT FROM bridge.quarantine q WHERE q.target = o.target AND q.key = o.key)"
RECENT_IDS = 2_000  # how far back the fast path looks for the rows of a commit that is just over

YOUNGEST = 50  # rows that go before their turn while more wait than are read at once

READ = (
    "SELECT outbox_id, target, key, op::text, base_revision, payload::text, strategy,"
    f" {SECONDS_LEFT}, extract(epoch FROM clock_timestamp() - created_at)::float8, event FROM bridge.outbox o"
    f" WHERE {NOT_HELD}"
)
READ_OLDEST = f"{READ} ORDER BY outbox_id LIMIT %(limit)s::int"
READ_YOUNGEST = (
    f"{READ} AND op <> 'E' AND event IS NULL AND outbox_id > %(after)s::bigint"
    " AND outbox_id > (SELECT max(outbox_id) - %(recent)s::bigint FROM bridge.outbox)"
    " ORDER BY outbox_id DESC LIMIT %(limit)s::int"
)


EVENTS = "TASK_EXECUTION"  # the stream of the events that values carry along
Part = tuple[int, bool]  # outbox id, whether it is the event: what tells the messages of a row apart


class Slot(NamedTuple):
    """Where a row goes: a subject of a stream."""

    stream: str
    subject: str


@dataclass(frozen=True)
class Row:
    """What one message is made of: a row of bridge.outbox, or the value or the event of one that is both, under the
    same `outbox_id`. `payload` is JSON text; None for a delete. `strategy` None: as the rules say; `seconds_left`
    None: the value does not expire; when the row was read, by PostgreSQL's clock."""

    outbox_id: int
    target: str
    key: str
    op: str
    base_revision: int | None
    payload: str | None
    strategy: str | None = None
    seconds_left: float | None = None
    age_seconds: float = 0.0  # when it was read

    @property
    def is_event(self) -> bool:
        return self.op == Op.EVENT

    @cached_property
    def part(self) -> Part:
        return self.outbox_id, self.is_event

    @cached_property
    def slot(self) -> Slot:
        if self.is_event:
            return Slot(self.target, self.key)
        return Slot(f"KV_{self.target}", f"$KV.{self.target}.{self.key}")

    @cached_property
    def data(self) -> bytes:
        return (self.payload or "").encode()


def read_rows(db: BaseDatabaseWrapper, limit: int) -> list[Row]:
    """Return the oldest rows that no quarantined row of their key holds back; two for one that carries an event. Where
    more wait, the youngest values too: a save beside a bulk update that the fast path gave up is not to wait for all of
    it. An older row of their key is then superseded, as by the fast path."""
    rows: list[Row] = []
    found = execute_bound(db, READ_OLDEST, {"limit": limit})
    for *columns, event in found:
        row = Row(*columns)
        rows.append(row)
        if event is not None:
            rows.append(event_of(row, event))
    return rows + read_youngest(db, rows[-1].outbox_id) if len(found) == limit else rows


def read_youngest(db: BaseDatabaseWrapper, after: int) -> list[Row]:
    """Return the youngest values behind a row, in the order of their ids. Events keep their order, and stay."""
    given = {"after": after, "recent": RECENT_IDS, "limit": YOUNGEST}
    return [Row(*columns) for *columns, _ in reversed(execute_bound(db, READ_YOUNGEST, given))]


def event_of(row: Row, subject: str) -> Row:
    """Return the event of a row that is a value too."""
    return Row(row.outbox_id, EVENTS, subject, Op.EVENT, None, row.payload, age_seconds=row.age_seconds)


def read_newest(db: BaseDatabaseWrapper, keys: Iterable[tuple[str, str]]) -> list[Row]:
    """Return the newest row of each (bucket, key), where it is among the latest RECENT_IDS and not held back."""
    targets, names = zip(*keys, strict=True)
    with db.cursor() as cursor:
        cursor.execute(
            "SELECT DISTINCT ON (o.target, o.key)"
            " o.outbox_id, o.target, o.key, o.op::text, o.base_revision, o.payload::text, o.strategy,"
            f" {SECONDS_LEFT}"
            " FROM bridge.outbox o JOIN unnest(%s::text[], %s::text[]) w (target, key) USING (target, key)"
            f" WHERE o.outbox_id > (SELECT max(outbox_id) - %s FROM bridge.outbox) AND o.op <> 'E' AND {NOT_HELD}"
            " ORDER BY o.target, o.key, o.outbox_id DESC",
            [list(targets), list(names), RECENT_IDS],
        )
        return [Row(*row) for row in cursor.fetchall()]


def delete_rows(db: BaseDatabaseWrapper, ids: Sequence[int]) -> None:
    """Forget rows by id, with their events; those that are gone already do not matter."""
    with db.cursor() as cursor:
        cursor.execute("SELECT bridge.forget(%s::bigint[])", [list(ids)])


QUARANTINE_VALUE = f"""
WITH gone AS (
  DELETE FROM bridge.outbox WHERE target = %(target)s AND key = %(key)s AND outbox_id <= %(outbox_id)s RETURNING *
)
INSERT INTO bridge.quarantine ({COLUMNS}, created_at, error, attempts)
SELECT {COLUMNS}, created_at, %(error)s, %(attempts)s FROM gone WHERE outbox_id = %(outbox_id)s ON CONFLICT DO NOTHING
"""
# An event that was refused for good was never stored: it may have another id, where its value has this one.
QUARANTINE_EVENT = """
WITH apart AS (
  UPDATE bridge.outbox SET event = NULL WHERE outbox_id = %(outbox_id)s AND event = %(key)s
  RETURNING payload, created_at
), gone AS (
  DELETE FROM bridge.outbox WHERE outbox_id = %(outbox_id)s AND op = 'E' RETURNING payload, created_at
), found AS (
  SELECT true AS is_taken, a.* FROM apart a UNION ALL
  SELECT EXISTS (SELECT FROM bridge.quarantine q WHERE q.outbox_id = %(outbox_id)s), g.* FROM gone g
)
INSERT INTO bridge.quarantine (outbox_id, target, key, op, payload, created_at, error, attempts)
SELECT CASE WHEN is_taken THEN nextval(pg_get_serial_sequence('bridge.outbox', 'outbox_id')) ELSE %(outbox_id)s END,
       %(target)s, %(key)s, 'E', payload, created_at, %(error)s, %(attempts)s FROM found
"""


def quarantine_row(db: BaseDatabaseWrapper, row: Row, error: str, attempts: int) -> None:
    """Set a row apart, and forget the older ones of a bucket's key that it had replaced; their events stay, as rows of
    their own. Of a row that is both, only the value or only the event. One statement."""
    parameters: dict[str, str | int] = {
        "outbox_id": row.outbox_id,
        "target": row.target,
        "key": row.key,
        "error": error,
        "attempts": attempts,
    }
    with db.cursor() as cursor:
        cursor.execute(QUARANTINE_EVENT if row.is_event else QUARANTINE_VALUE, parameters)


def redrive(db: BaseDatabaseWrapper, ids: Sequence[int]) -> int:
    """Put quarantined rows back under their ids, before the later rows of their keys; return how many. One whose event
    is still on its way under the same id waits for that: it stays."""
    with db.cursor() as cursor:
        cursor.execute(
            "WITH back AS (DELETE FROM bridge.quarantine q WHERE outbox_id = ANY(%s)"
            " AND NOT EXISTS (SELECT FROM bridge.outbox o WHERE o.outbox_id = q.outbox_id) RETURNING *)"
            f" INSERT INTO bridge.outbox ({COLUMNS}, created_at) OVERRIDING SYSTEM VALUE"
            f" SELECT {COLUMNS}, created_at FROM back",
            [list(ids)],
        )
        return int(cursor.rowcount)


def forget_past(db: BaseDatabaseWrapper, ids: Sequence[int]) -> int:
    """Forget quarantined rows of agents' state whose key has an agent's later write in PostgreSQL; return how many."""
    with db.cursor() as cursor:
        cursor.execute(
            "DELETE FROM bridge.quarantine q USING agents.state s, bridge.sources c"
            " WHERE q.outbox_id = ANY(%s) AND q.target = 'AGENT_STATE' AND c.bucket = q.target"
            " AND q.key = s.agent_id || '.' || bridge.encode_key(s.state_key)"
            " AND s.agent_id::text = split_part(q.key, '.', 1)"
            " AND s.kv_epoch = c.kv_epoch AND s.kv_revision > q.base_revision",
            [list(ids)],
        )
        return int(cursor.rowcount)


def record_conflicts(db: BaseDatabaseWrapper, lost: Sequence[tuple[Row, Last]]) -> None:
    """Keep the agents' values that these rows are about to replace. Recording one twice keeps the first."""
    with db.cursor() as cursor:
        cursor.executemany(
            "INSERT INTO bridge.conflict (outbox_id, target, key, base_revision, kv_revision, kv_value, pg_value)"
            " VALUES (%s, %s, %s, %s, %s, %s, %s::jsonb) ON CONFLICT DO NOTHING",
            [
                (r.outbox_id or None, r.target, r.key, r.base_revision, last.revision, shown(last), r.payload)
                for r, last in lost
            ],
        )


def shown(last: Last) -> str | None:
    """Return a KV value as text that PostgreSQL takes; None for a deleted key."""
    if last.is_deleted:
        return None
    return last.data.decode(errors="backslashreplace").replace("\x00", "\\x00")


@dataclass(frozen=True)
class Depth:
    """How much waits. `rows` stops counting at `COUNT_AT_MOST`; `oldest_seconds` is 0 when nothing waits."""

    rows: int
    oldest_seconds: float
    quarantined: int
    conflicts: int
    dead_letters: int


COUNT_AT_MOST = 100_000


def read_depth(db: BaseDatabaseWrapper) -> Depth:
    """Return what waits, in one query."""
    counts = ", ".join(
        f"(SELECT count(*) FROM (SELECT FROM bridge.{table} LIMIT {COUNT_AT_MOST}) x)"
        for table in ("outbox", "quarantine", "conflict", "dead_letters")
    )
    oldest = (
        "(SELECT COALESCE(extract(epoch FROM clock_timestamp() - created_at), 0)::float8"
        " FROM bridge.outbox ORDER BY outbox_id LIMIT 1)"
    )
    with db.cursor() as cursor:
        cursor.execute(f"SELECT {counts}, {oldest}")
        rows, quarantined, conflicts, dead_letters, seconds = cursor.fetchone()
    return Depth(rows, max(0.0, seconds or 0.0), quarantined, conflicts, dead_letters)


def pending_keys(db: BaseDatabaseWrapper, bucket: str, keys: Sequence[str]) -> Mapping[str, bool]:
    """Return those of `keys` that have a row waiting; the value says whether it is in quarantine."""
    with db.cursor() as cursor:
        cursor.execute(
            "SELECT key, bool_or(held) FROM ("
            "  SELECT key, false AS held FROM bridge.outbox WHERE target = %s AND key = ANY(%s) UNION ALL"
            "  SELECT key, true FROM bridge.quarantine WHERE target = %s AND key = ANY(%s)) w GROUP BY key",
            [bucket, list(keys), bucket, list(keys)],
        )
        return dict(cursor.fetchall())
