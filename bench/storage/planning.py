"""Planning and execution of an id look-up and of a one-day window: 400 partitions against 4.

Asked are random days of all, and the newest four: there the number of partitions alone differs, where random days also
need a hundred times as many of the session's catalog entries in the processor's cache.
"""

from datetime import UTC, datetime, timedelta
from random import Random
from statistics import median
from typing import Any

from bench.frame import Report
from bench.storage.sql import SCHEMA, Session, explain_ms, one

ROWS_A_DAY = 500
PEER = "4 partitions"
BY_ID = "SELECT * FROM {table} WHERE message_id = %s::uuid"
BY_DAY = """
SELECT * FROM {table} WHERE message_id >= %s::uuid AND message_id < %s::uuid ORDER BY message_id DESC LIMIT 50
"""


def measure(report: Report, session: Session, runs: int, look_ups: int) -> None:
    (few, few_ids), (many, many_ids) = make_log(session, 4), make_log(session, 400)
    newest = sorted(many_ids)[-len(few_ids) :]
    asked = {"": (many_ids, "any of 400 days"), "_newest": (newest, "the newest four days")}
    for run in range(runs):
        for metric, look_up in (("id_lookup_400", by_id), ("day_window_400", by_day)):
            beside = typical_ms(session, few, few_ids, look_up, look_ups, run)
            for kind, (ids, note) in asked.items():
                ours = typical_ms(session, many, ids, look_up, look_ups, run)
                report.add(metric + kind, ours, "ms", look_ups, note)
                report.add_peer(metric + kind, PEER, beside)


def make_log(session: Session, days: int) -> tuple[str, list[Any]]:
    """Make a log of so many daily partitions, all with rows; return its name and some ids of each day."""
    table = f"{SCHEMA}.log_{days}"
    session.execute(f"CREATE TABLE {table} (LIKE messages.log INCLUDING ALL) PARTITION BY RANGE (message_id)")
    today = datetime.now(UTC).date()
    for first in range(0, days, 50):
        session.execute(
            "SELECT partitions.create_time_partition(%s, %s::date - n) FROM generate_series(%s::int, %s::int) n",
            [table, today, first, min(first + 49, days - 1)],
        )
    session.execute(
        f"INSERT INTO {table} (message_id, message_type, sent_at, payload)"
        " SELECT partitions.uuid7_at(t), 'heartbeat', t, jsonb_build_object('n', n)"
        " FROM generate_series(0, %s) d, generate_series(1, %s) n,"
        " LATERAL (SELECT (%s::date - d)::timestamp AT TIME ZONE 'UTC' + n * interval '1 minute' AS t) m",
        [days - 1, ROWS_A_DAY, today],
    )
    session.execute(f"VACUUM ANALYZE {table}")
    ids = session.execute(f"SELECT message_id::uuid FROM {table} TABLESAMPLE SYSTEM (50)").fetchall()
    assert one(session, "SELECT count(*) FROM pg_inherits WHERE inhparent = %s::regclass", [table]) == days
    return table, [row[0] for row in ids]


def by_id(session: Session, table: str, wanted: Any) -> float:
    return explain_ms(session, BY_ID.format(table=table), [wanted])


def by_day(session: Session, table: str, wanted: Any) -> float:
    from pg.uuid7 import uuid7_floor, uuid7_time

    start = uuid7_time(wanted).replace(hour=0, minute=0, second=0, microsecond=0)
    bounds = [uuid7_floor(start), uuid7_floor(start + timedelta(days=1))]
    return explain_ms(session, BY_DAY.format(table=table), bounds)


def typical_ms(session: Session, table: str, ids: list[Any], look_up: Any, number: int, seed: int) -> float:
    """Return the median of `number` look-ups of random days in one session, after as many that warm its caches."""
    random = Random(seed)
    for wanted in random.choices(ids, k=number):
        look_up(session, table, wanted)
    return median(look_up(session, table, wanted) for wanted in random.choices(ids, k=number))
