"""What the catalog says of partitioned tables. Names are never parsed."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from django.db import connection
from django.utils import timezone

from partitions import upload
from partitions.models import Policy
from partitions.plan import Clock, Range, Rules, Table
from pg.queries import Queries

QUERIES = Queries("partitions")
STRATEGIES = {"r": "range", "l": "list", "h": "hash"}
# a bound's moment, by the type of the column
MOMENTS = {
    "uuid": "partitions.uuid7_time({key})",
    "timestamp with time zone": "{key}",
    "timestamp without time zone": "{key} AT TIME ZONE 'UTC'",
    "date": "{key}::timestamp AT TIME ZONE 'UTC'",
}


@dataclass(frozen=True)
class PartitionedTable:
    """`rows` is an estimate of the last ANALYZE; `size_bytes` has indexes and TOAST in it."""

    name: str
    strategy: str
    partitions: int
    size_bytes: int
    rows: int


def read_clock() -> Clock:
    """Return now by the database's clock and by ours. One query."""
    return Clock.at(QUERIES.run("clock")[0]["now"], timezone.now())


def read_ranges(table: str) -> list[Range]:
    """Return a table's range partitions, oldest first, and those detached that are marked; empty when there is no such
    table. One query."""
    return run_by_table("ranges", [table], must_be_uploaded=upload.is_configured(), make=Range)[table]


def read_table(rules: Rules) -> Table:
    """Return all that a plan needs to know of a table: `read_each` of one."""
    return read_each([rules])[0]


def read_each(rules: Sequence[Rules]) -> list[Table]:
    """Return all that a plan needs to know of these tables, in their order. Three queries, however many tables; each
    DEFAULT partition is counted by one more."""
    names = [one.table for one in rules]
    ranges = run_by_table("ranges", names, must_be_uploaded=upload.is_configured(), make=Range)
    dropped, defaults = run_by_table("dropped", names), run_by_table("default_partition", names)
    return [
        Table(
            ranges[one.table],
            [(row["lower"], row["upper"]) for row in dropped[one.table]],
            *counted_default(defaults[one.table], one.interval),
        )
        for one in rules
    ]


def run_by_table(
    query: str, tables: Sequence[str], make: Callable[..., Any] = dict, **values: Any
) -> dict[str, list[Any]]:
    """Run a query over tables once; return what `make` makes of its rows, by table, a list for each of them."""
    found: dict[str, list[Any]] = {name: [] for name in tables}
    for row in QUERIES.run(query, {"tables": list(tables), **values}):
        found[row.pop("table_name")].append(make(**row))
    return found


def counted_default(found: list[dict[str, Any]], interval: str) -> tuple[str | None, dict[datetime, int]]:
    """Return the name of the DEFAULT partition, None without one, and its rows by interval."""
    return (found[0]["name"], count_waiting(found[0], interval)) if found else (None, {})


def count_waiting(default: dict[str, Any], interval: str) -> dict[datetime, int]:
    """Count the rows in a DEFAULT partition by the interval they belong to. Reads all of it; ids and times that are no
    dates of these centuries are left out: no partition will ever be theirs."""
    moment = MOMENTS[default["key_type"]].format(key=connection.ops.quote_name(default["key"]))
    rows = QUERIES.run("waiting", {"interval": interval}, moment=moment, default=quoted(default["name"]))
    return {row["slot"]: row["rows"] for row in rows}


def read_tables() -> list[PartitionedTable]:
    """Return every partitioned table of the database. One query."""
    return [
        PartitionedTable(**{**row, "strategy": STRATEGIES[row["strategy"]]}) for row in QUERIES.run("tables")
    ]


def read_rules() -> list[Rules]:
    """Return the policy of each time-partitioned table, by name. One query."""
    return [rules_of(policy) for policy in Policy.objects.order_by("table_name")]


def rules_of(policy: Policy) -> Rules:
    return Rules(
        policy.table_name,
        policy.make_ahead_days,
        policy.keep_days,
        policy.on_expiry,
        policy.partition_interval,
    )


def quoted(name: str) -> str:
    """Quote `schema.table`."""
    return ".".join(connection.ops.quote_name(part) for part in name.split(".", 1))
