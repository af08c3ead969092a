"""A database in which everything is out of order that upkeep puts right. For plain sessions, outside of Django."""

from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
import pytest

DAY = timedelta(days=1)
ROWS = 40
TABLES = ["app.events", "app.visits"]
CREATE = """
CREATE SCHEMA app;
CREATE TABLE app.sources (source_id int PRIMARY KEY);
INSERT INTO app.sources VALUES (1), (2);
CREATE TABLE app.events (
  event_id uuid PRIMARY KEY DEFAULT partitions.uuid7(),
  source_id int REFERENCES app.sources,
  note text
) PARTITION BY RANGE (event_id);
CREATE TABLE app.visits (at timestamptz NOT NULL, page text) PARTITION BY RANGE (at);
CREATE TABLE app.visits_default PARTITION OF app.visits DEFAULT;
CREATE SCHEMA other;
CREATE TABLE other.events_2001_01_01 (kept int);
CREATE TABLE app.events_2001_01_01 (kept int);
INSERT INTO partitions.policies (table_name, make_ahead_days, keep_days)
VALUES ('app.events', 2, 5), ('app.visits', 2, 5);
"""


def midnight(offset: int = 0) -> datetime:
    return datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0) + offset * DAY


def make_world(session: psycopg.Connection[Any], dsn: str) -> None:
    """app.events: two expired partitions, one in the middle of a detach, and a gap; app.visits: rows in DEFAULT, of
    yesterday and out of retention. Beside them two strangers with fitting names."""
    session.execute(CREATE)
    for offset in (-9, -8, -3, -1, 0, 1):
        make(session, "app.events", offset)
        session.execute(
            "INSERT INTO app.events (event_id, source_id, note)"
            " SELECT partitions.uuid7_at(%s + n * interval '1 s'), 1 + n %% 2, n::text FROM generate_series(1, %s) n",
            [midnight(offset), ROWS],
        )
    for offset in (-20, -1):
        session.execute(
            "INSERT INTO app.visits SELECT %s + n * interval '1 s', n::text FROM generate_series(1, %s) n",
            [midnight(offset), ROWS],
        )
    interrupt_detach(session, dsn, "app.events", f"app.events_{midnight(-8):%Y_%m_%d}")


def make(session: psycopg.Connection[Any], table: str, offset: int) -> str:
    row = session.execute(
        "SELECT partitions.create_range_partition(%s, %s, %s)",
        [table, midnight(offset), midnight(offset + 1)],
    ).fetchone()
    assert row
    return str(row[0])


def interrupt_detach(session: psycopg.Connection[Any], dsn: str, table: str, partition: str) -> None:
    """A reader's snapshot holds the detach up; cancelling it leaves the partition pending."""
    with psycopg.connect(dsn) as reader:
        reader.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
        reader.execute(f"SELECT count(*) FROM {table}")
        session.execute("SET statement_timeout = '300ms'")
        with pytest.raises(psycopg.errors.QueryCanceled):
            session.execute(f"ALTER TABLE {table} DETACH PARTITION {partition} CONCURRENTLY")
        session.execute("RESET statement_timeout")


def rows_anywhere(session: psycopg.Connection[Any]) -> int:
    """Count the rows in the tables and in the archives of what was dropped."""
    total = 0
    for table in TABLES:
        total += session.execute(f"SELECT count(*) FROM {table}").fetchone()[0]  # type: ignore[index]
    archived = session.execute(
        "SELECT COALESCE(sum(row_count), 0)::int FROM partitions.archives WHERE dropped_at IS NOT NULL"
    ).fetchone()
    return total + archived[0]  # type: ignore[index]


def strangers(session: psycopg.Connection[Any]) -> int:
    row = session.execute(
        "SELECT num_nonnulls(to_regclass('other.events_2001_01_01'), to_regclass('app.events_2001_01_01'))"
    ).fetchone()
    return int(row[0])  # type: ignore[index]


ALL_ROWS = 8 * ROWS
STEPS = 16  # of its plan, and of putting it in order
