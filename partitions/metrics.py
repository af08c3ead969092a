"""Figures of the partitions room for /metrics."""

import time
from collections.abc import Callable, Iterable, Iterator
from functools import lru_cache

from django.db.models import Count, Max, Sum
from django.utils import timezone

from monitoring.registry import register_metric
from partitions.catalog import read_clock, read_rules
from partitions.health import Health, Sizes, read_sizes, survey
from partitions.models import Archive, Run

FRESH_SECONDS, SIZES_FRESH_SECONDS = 60, 900
Samples = Iterable[tuple[dict[str, str], float]]


@lru_cache(maxsize=1)
def sizes_at(quarter: int, tables: tuple[str, ...]) -> Sizes:
    return read_sizes(tables)


@lru_cache(maxsize=1)
def health_at(minute: int) -> list[Health]:
    rules, clock = read_rules(), read_clock()
    sizes = sizes_at(minute * FRESH_SECONDS // SIZES_FRESH_SECONDS, tuple(one.table for one in rules))
    return [one.judged(clock) for one in survey(rules, sizes)]


def recent_health() -> list[Health]:
    """Return the health, read at most once a minute, sizes once in fifteen: each figure of a scrape asks for it."""
    return health_at(int(time.monotonic() // FRESH_SECONDS))


def per_table(value: Callable[[Health], float | None]) -> Callable[[], Samples]:
    def read() -> Samples:
        for health in recent_health():
            number = value(health)
            if number is not None:
                yield {"table": health.table}, number

    return read


def read_problems() -> Iterator[tuple[dict[str, str], float]]:
    for health in recent_health():
        yield {"table": health.table, "kind": "gap"}, len(health.gaps)
        yield {"table": health.table, "kind": "default_row"}, health.default_rows
        yield {"table": health.table, "kind": "leftover"}, len(health.leftovers)
        yield {"table": health.table, "kind": "interrupted_detach"}, len(health.pending)
        yield {"table": health.table, "kind": "invalid_index"}, len(health.invalid_indexes)


def read_run_age() -> Iterator[tuple[dict[str, str], float]]:
    newest = Run.objects.filter(status=Run.Status.DONE).aggregate(at=Max("finished_at"))["at"]
    if newest is not None:
        yield {}, (timezone.now() - newest).total_seconds()


def read_lock_wait() -> Iterator[tuple[dict[str, str], float]]:
    yield {}, (Run.objects.aggregate(ms=Sum("lock_wait_ms"))["ms"] or 0) / 1000


def read_archives() -> Iterator[tuple[dict[str, str], float]]:
    for row in Archive.objects.order_by("state").values("state").annotate(number=Count("pk")):
        yield {"state": row["state"]}, row["number"]


def register() -> None:
    register_metric(
        "mistersmith_partition_cover_days",
        "Days ahead that have a partition.",
        per_table(lambda health: health.cover_days),
    )
    register_metric(
        "mistersmith_partition_bytes",
        "Size of a partitioned table, indexes included.",
        per_table(lambda health: health.size_bytes),
    )
    register_metric(
        "mistersmith_partition_growth_bytes_per_day",
        "Growth of a partitioned table, over the last 7 whole days.",
        per_table(lambda health: health.growth_bytes),
    )
    register_metric(
        "mistersmith_partition_forecast_bytes",
        "Size of a partitioned table in 30 days, retention applied.",
        per_table(lambda health: health.forecast_bytes),
    )
    register_metric("mistersmith_partitions", "Partitions that take rows.", per_table(lambda h: h.partitions))
    register_metric("mistersmith_partition_problems", "Gaps, rows in DEFAULT and the like.", read_problems)
    register_metric(
        "mistersmith_partition_run_age_seconds", "Since the last upkeep without an error.", read_run_age
    )
    register_metric(
        "mistersmith_partition_lock_wait_seconds",
        "Time that upkeep stood in line, all kept runs.",
        read_lock_wait,
    )
    register_metric("mistersmith_partition_archives", "Archived partitions by state.", read_archives)
