"""What doctor asks of the partitions room."""

from collections.abc import Iterator

from django.utils import timezone

from monitoring.registry import Finding, register_check, register_metric
from partitions.catalog import read_ranges, read_rules
from partitions.plan import days_of_cover

MINIMUM_COVER_DAYS = 3


def look_at_cover() -> Iterator[Finding]:
    """Days ahead that have a partition; below 3 is an alarm, because an insert without one fails."""
    today = timezone.now().date()
    for rules in read_rules():
        cover = days_of_cover(read_ranges(rules.table), today)
        yield Finding(
            cover >= MINIMUM_COVER_DAYS,
            f"{rules.table}: {cover} days of cover"
            if cover >= 0
            else f"{rules.table}: no partition for today",
            "run `manage.py partitions apply`, and look why beat does not",
        )


def look_for_pending_detach() -> Iterator[Finding]:
    pending = [
        found.name for rules in read_rules() for found in read_ranges(rules.table) if found.detach_pending
    ]
    yield Finding(
        not pending,
        f"interrupted detach: {', '.join(pending)}" if pending else "no interrupted detach",
        "run `manage.py partitions apply`: it finalizes them",
    )


def read_cover() -> Iterator[tuple[dict[str, str], float]]:
    today = timezone.now().date()
    for rules in read_rules():
        yield {"table": rules.table}, days_of_cover(read_ranges(rules.table), today)


def register() -> None:
    register_check("partitions.cover", look_at_cover)
    register_check("partitions.detach", look_for_pending_detach)
    register_metric("mistersmith_partition_cover_days", "Days ahead that have a partition.", read_cover)
