"""What the catalog says of partitioned tables. Names are never parsed."""

from dataclasses import dataclass

from django.db import connection

from partitions.models import Policy
from partitions.plan import Range, Rules

RANGES = """
SELECT schema_name || '.' || partition_name, lower_time, upper_time, detach_pending FROM partitions.ranges
WHERE parent_oid = to_regclass(%s) AND NOT is_default ORDER BY lower_time
"""

TABLES = """
SELECT n.nspname || '.' || c.relname, t.partstrat::text, count(i.inhrelid),
       COALESCE(sum(pg_total_relation_size(i.inhrelid)), 0)::bigint,
       COALESCE(sum(greatest(l.reltuples, 0)), 0)::bigint
FROM pg_partitioned_table t
JOIN pg_class c ON c.oid = t.partrelid
JOIN pg_namespace n ON n.oid = c.relnamespace
LEFT JOIN pg_inherits i ON i.inhparent = c.oid
LEFT JOIN pg_class l ON l.oid = i.inhrelid
WHERE n.nspname !~ '^pg_'
GROUP BY 1, 2 ORDER BY 1
"""


@dataclass(frozen=True)
class PartitionedTable:
    """`rows` is an estimate of the last ANALYZE; `size_bytes` has indexes and TOAST in it."""

    name: str
    strategy: str
    partitions: int
    size_bytes: int
    rows: int


def read_ranges(table: str) -> list[Range]:
    """Return a table's range partitions, oldest first; empty when there is no such table. One query."""
    with connection.cursor() as cursor:
        cursor.execute(RANGES, [table])
        return [Range(*row) for row in cursor.fetchall()]


def read_tables() -> list[PartitionedTable]:
    """Return every partitioned table of the database. One query."""
    strategies = {"r": "range", "l": "list", "h": "hash"}
    with connection.cursor() as cursor:
        cursor.execute(TABLES)
        return [
            PartitionedTable(name, strategies[strategy], partitions, size_bytes, rows)
            for name, strategy, partitions, size_bytes, rows in cursor.fetchall()
        ]


def read_rules() -> list[Rules]:
    """Return the policy of each time-partitioned table, by name. One query."""
    return [
        Rules(policy.table_name, policy.make_ahead_days, policy.keep_days, policy.on_expiry)
        for policy in Policy.objects.order_by("table_name")
    ]
