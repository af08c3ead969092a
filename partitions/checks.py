"""What doctor asks of the partitions room."""

from collections.abc import Iterator
from datetime import timedelta

from django.utils import timezone

from monitoring.registry import Finding, register_check
from partitions import upload
from partitions.catalog import read_clock, read_ranges, read_rules
from partitions.health import MINIMUM_COVER_DAYS, read_health
from partitions.models import Archive, Run
from partitions.plan import Range, days_of_cover
from pg.errors import MisterSmithError

APPLY = "run `manage.py partitions apply`"
MAXIMUM_CLOCK_SKEW = timedelta(minutes=5)
RUN_EVERY = timedelta(days=2)


def look_at_cover() -> Iterator[Finding]:
    """Days ahead that have a partition; below 3 is an alarm, because an insert without one fails."""
    clock = read_clock()
    for rules in read_rules():
        cover = days_of_cover(read_ranges_that_count(rules.table), clock.latest)
        yield Finding(
            cover >= min(MINIMUM_COVER_DAYS, rules.make_ahead_days),
            f"{rules.table}: {cover} days of cover"
            if cover >= 0
            else f"{rules.table}: no partition for today",
            f"{APPLY}, and look why beat does not",
        )


def read_ranges_that_count(table: str) -> list[Range]:
    return [one for one in read_ranges(table) if one.is_attached and not one.detach_pending]


def look_for_pending_detach() -> Iterator[Finding]:
    pending = [
        found.name for rules in read_rules() for found in read_ranges(rules.table) if found.detach_pending
    ]
    yield Finding(
        not pending,
        f"interrupted detach: {', '.join(pending)}" if pending else "no interrupted detach",
        f"{APPLY}: it finalizes them",
    )


def look_at_shape() -> Iterator[Finding]:
    """Gaps, overlaps, rows in DEFAULT, leftovers, invalid indexes."""
    for health in read_health():
        problems = [line for line in health.problems if "interrupted detach" not in line]
        yield Finding(
            not problems,
            f"{health.table}: {'; '.join(problems) or 'in order'}",
            f"{APPLY}; what it keeps it names: `manage.py partitions plan {health.table}`."
            " An invalid index: REINDEX INDEX CONCURRENTLY it",
        )


def look_at_runs() -> Iterator[Finding]:
    """The last run of upkeep that ended did so without an error, and not long ago."""
    last = Run.objects.filter(finished_at__isnull=False).first()
    if last is None:
        yield Finding(True, "upkeep has not run yet")
    elif last.status == Run.Status.FAILED:
        yield Finding(
            False, f"the last run failed: {last.error}", f"{APPLY}; admin, Partitions, Runs has it all"
        )
    else:
        is_recent = timezone.now() - last.started_at < RUN_EVERY
        yield Finding(
            is_recent, f"last run {last.started_at:%Y-%m-%d %H:%M}", f"does beat run? {APPLY} meanwhile"
        )


def look_at_archives() -> Iterator[Finding]:
    damaged = list(
        Archive.objects.filter(state=Archive.State.DAMAGED).values_list("partition_name", flat=True)
    )
    yield Finding(
        not damaged,
        f"damaged archives: {', '.join(damaged)}" if damaged else "no damaged archive",
        "put the files back from the object store or a backup, then `manage.py partitions archive --check`",
    )


def look_at_store() -> Iterator[Finding]:
    """The object store takes archives, where there is one: nothing is dropped without its copy there."""
    store = upload.store()
    if store is None:
        yield Finding(True, "archives stay on this machine: ARCHIVE_S3_URL is not set")
        return
    try:
        yield Finding(True, f"{store.check()} answers")
    except (OSError, MisterSmithError) as error:
        hint = getattr(error, "hint", "") or "see ARCHIVE_S3_URL and the server's log"
        yield Finding(False, f"archives cannot be copied, so nothing is dropped: {error}", hint)


def look_at_clocks() -> Iterator[Finding]:
    clock = read_clock()
    skew = clock.latest - clock.earliest
    yield Finding(
        skew < MAXIMUM_CLOCK_SKEW,
        f"the database's clock and ours differ by {skew.total_seconds():.0f} s",
        "let both machines keep time (NTP); partitions are made by the later clock and removed by the earlier",
    )


def register() -> None:
    register_check("partitions.archives", look_at_archives)
    register_check("partitions.clocks", look_at_clocks)
    register_check("partitions.cover", look_at_cover)
    register_check("partitions.detach", look_for_pending_detach)
    register_check("partitions.runs", look_at_runs)
    register_check("partitions.shape", look_at_shape)
    register_check("partitions.store", look_at_store)
