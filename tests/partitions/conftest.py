"""A table of this test's own beside the rooms' tables, and partitions of any age with rows in them."""

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from django.conf import settings
from django.db import connection

from partitions.models import Policy

DAY = timedelta(days=1)
TABLE = "app.events"
CREATE = """
CREATE SCHEMA app;
CREATE TABLE app.sources (source_id int PRIMARY KEY);
INSERT INTO app.sources VALUES (1), (2);
CREATE TABLE app.events (
  event_id uuid PRIMARY KEY DEFAULT partitions.uuid7(),
  source_id int REFERENCES app.sources,
  payload jsonb NOT NULL DEFAULT '{}',
  note text,
  happened_at timestamptz GENERATED ALWAYS AS (partitions.uuid7_time(event_id)) STORED
) PARTITION BY RANGE (event_id);
CREATE INDEX events_source ON app.events (source_id) WHERE source_id IS NOT NULL;
"""


def sql(statement: str, *params: Any) -> list[tuple[Any, ...]]:
    with connection.cursor() as cursor:
        cursor.execute(statement, params or None)
        return cursor.fetchall() if cursor.description else []


def midnight(offset: int = 0) -> datetime:
    """The beginning of today in UTC, or of a day `offset` days from it."""
    return datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0) + offset * DAY


def make_partition(offset: int, rows: int = 0, table: str = TABLE) -> str:
    """Make the partition of that day, with rows all over it; return its name."""
    lower = midnight(offset)
    name: str = sql("SELECT partitions.create_range_partition(%s, %s, %s)", table, lower, lower + DAY)[0][0]
    if rows:
        fill(lower, rows)
    return name


def fill(lower: datetime, rows: int) -> None:
    sql(
        "INSERT INTO app.events (event_id, source_id, payload, note)"
        " SELECT partitions.uuid7_at(%s + n * interval '1 day' / %s), 1 + n %% 2, jsonb_build_object('n', n),"
        " CASE n %% 3 WHEN 0 THEN E'tab\\t, \\\\ and ''quote'' \\n' WHEN 1 THEN 'grüß' END"
        " FROM generate_series(0, %s - 1) n",
        lower,
        rows,
        rows,
    )


@pytest.fixture
def archive_dir(own_home: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(settings, "PARTITIONS_ARCHIVE_DIR", own_home / "archive")
    return own_home / "archive"


@pytest.fixture
def events(transactional_db: None, archive_dir: Path) -> Policy:
    """The policy of app.events: two days ahead, five kept, archived. Its partitions are there."""
    from partitions.maintenance import apply_all

    sql(CREATE)
    policy = Policy.objects.create(table_name=TABLE, make_ahead_days=2, keep_days=5)
    assert not [one.error for one in apply_all(tables=[TABLE]) if one.error]
    return policy


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Give up on a lock at once instead of after 20 s."""
    monkeypatch.setattr(settings, "PARTITIONS_LOCK_TIMEOUT_MS", 100)
    monkeypatch.setattr("partitions.locks.PATIENCE_SECONDS", 0)
