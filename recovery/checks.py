"""What doctor asks of the recovery room, and its figures for /metrics."""

import shutil
from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from django.conf import settings
from django.db import connection
from django.db.migrations.recorder import MigrationRecorder
from django.db.models import Count, Min
from django.utils import timezone
from django_celery_beat.models import PeriodicTask

from monitoring.registry import Finding, register_check, register_metric, shared
from pg import demands
from recovery.contents import QUERIES
from recovery.errors import UnfitTools
from recovery.logical import expected_bytes
from recovery.models import ArchiveState, Backup, TestResult, WalSegment
from recovery.tools import find_tools

SCHEDULE = "recovery: daily backup"
LONGEST_AGE = timedelta(hours=26)  # a day, and two hours for the backup itself
LONGEST_DRILL_AGE = timedelta(hours=50)  # drilled each night
STALE = timedelta(minutes=5)  # looked at each minute
MINUTE_SECONDS, HOUR_SECONDS = 60, 3600
Sample = tuple[dict[str, str], float]


def register() -> None:
    register_check("recovery.backup", look_at_newest)
    register_check("recovery.tools", look_at_tools)
    register_check("recovery.space", look_at_space)
    register_check("recovery.wal", look_at_wal)
    register_check("recovery.drill", look_at_drill)
    register_metric(
        "mistersmith_backup_verified_age_seconds", "Age of the newest verified backup's data.", read_age
    )
    register_metric("mistersmith_backup_size_bytes", "Size of the newest verified backup.", read_size)
    register_metric("mistersmith_backups", "Backups by kind and status.", read_numbers)
    register_metric(
        "mistersmith_recovery_rpo_seconds", "Age of the newest archived commit.", read_rpo_seconds
    )
    register_metric("mistersmith_recovery_rpo_bytes", "WAL that is not archived yet.", read_rpo_bytes)
    register_metric("mistersmith_recovery_rto_seconds", "What the last passed drill took.", read_rto)
    register_metric("mistersmith_recovery_drill_age_seconds", "Since the last passed drill.", read_drill_age)
    register_metric("mistersmith_wal_archive_gaps", "WAL segments missing or damaged.", read_gaps)
    register_metric("mistersmith_wal_archive_failures_total", "Failed archive_command runs.", read_failures)
    register_metric(
        "mistersmith_replication_slot_lag_bytes", "WAL kept for a replication slot.", read_slot_lag
    )


@shared
def newest_verified() -> Backup | None:
    """Return the newest verified backup; None where there is none. One indexed query."""
    found = Backup.objects.filter(status=Backup.Status.VERIFIED).order_by("-completed_at")
    return found.first()


def look_at_newest() -> Iterator[Finding]:
    """A verified backup is at most 26 hours old, or the installation itself is."""
    newest, now = newest_verified(), timezone.now()
    since = newest.started_at if newest else installed_at() or now
    is_recent = now - since <= LONGEST_AGE
    if newest:
        said = f"the newest verified backup is {in_words(now - since)} old ({newest.size_bytes} bytes)"
    else:
        said = f"none verified yet, {next_run(now)}"
    yield Finding(
        is_recent,
        said if is_recent or not (last := last_trouble()) else f"{said}; the last one {last}",
        "run `manage.py backup daily` and see what it says; is beat running, and its schedule on?",
    )


def last_trouble() -> str:
    """Return what is wrong with the newest backup, '' when nothing is known."""
    last = Backup.objects.order_by("-backup_id").first()
    return f"is {last.status}: {last.error}"[:300] if last and last.error else ""


def installed_at() -> datetime | None:
    """Return when the first migration ran here; None before that."""
    moment: datetime | None = MigrationRecorder(connection).migration_qs.aggregate(first=Min("applied"))[
        "first"
    ]
    return moment


def next_run(now: datetime) -> str:
    task = PeriodicTask.objects.filter(name=SCHEDULE).select_related("crontab", "interval").first()
    if task is None or not task.enabled:
        return "and its schedule is switched off"
    remaining: timedelta = task.schedule.remaining_estimate(task.last_run_at or now)
    due = now + max(remaining, timedelta(0)) + timedelta(seconds=30)  # to the nearest minute
    return f"the first is due at {due:%Y-%m-%d %H:%M} UTC"


def in_words(age: timedelta) -> str:
    seconds = int(age.total_seconds())
    if seconds < 2 * HOUR_SECONDS:
        return f"{seconds // MINUTE_SECONDS} min"
    return f"{seconds // HOUR_SECONDS} h"


def look_at_tools() -> Iterator[Finding]:
    server_major = demands.server_major(connection)
    try:
        tools = find_tools(server_major)
        yield Finding(True, f"pg_dump {tools.version} in {tools.folder}")
    except UnfitTools as error:
        yield Finding(False, str(error), error.hint)


def look_at_space() -> Iterator[Finding]:
    """The backup folder's disk has room for one more backup."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_database_size(current_database())")
        database_bytes = cursor.fetchone()[0]
    needed = expected_bytes(
        database_bytes, list(Backup.objects.filter(kind=Backup.Kind.LOGICAL).exclude(size_bytes=None)[:1])
    )
    folder = existing(Path(settings.BACKUP_DIR))
    free = shutil.disk_usage(folder).free
    yield Finding(
        free >= needed,
        f"{free >> 20} MB free at {folder}, the next backup may need {needed >> 20} MB",
        "free some room, or set MISTERSMITH_BACKUP_DIR to a folder on a larger disk",
    )


def existing(folder: Path) -> Path:
    """Return the folder, or the nearest one above it that exists: the first backup makes the rest."""
    return folder if folder.exists() else existing(folder.parent)


# -- the archive and drills ---------------------------------------------------------------------------------
def look_at_wal() -> Iterator[Finding]:
    """Nothing is missing between the oldest kept backup and now, and archiving goes on."""
    state, archiver = newest_state(), read_archiver()
    if archiver["is_failing"]:
        yield Finding(
            False,
            f"archiving fails since {archiver['last_archived_time'] or 'ever'}: {archiver['failed_count']} times",
            "the server's log says why (wal_archive: ...); until that is mended pg_wal grows",
        )
    if state is None:
        yield Finding(True, "no WAL archive is known: restores go back to the backups' own ends only")
        return
    for problem in state.problems:
        yield Finding(
            False, problem, "make a base backup now: `manage.py backup base`; then look for the cause"
        )
    age = timezone.now() - state.checked_at
    yield Finding(
        age <= STALE,
        f"WAL is archived up to {state.last_commit_at or 'no commit yet'}, looked at {in_words(age)} ago",
        "is beat running, and the schedule `recovery: WAL archive` on?",
    )


def look_at_drill() -> Iterator[Finding]:
    """The newest drill passed, and is at most two days old where there is something to drill."""
    last, newest = newest_drill(), Backup.objects.filter(kind="base").exclude(completed_at=None).first()
    if newest is None or newest.completed_at is None:
        yield Finding(True, "no base backup yet: nothing to drill")
        return
    if last is None:
        age = timezone.now() - newest.completed_at
        yield Finding(age <= LONGEST_DRILL_AGE, "no restore was drilled yet", "run `manage.py backup drill`")
        return
    age = timezone.now() - last.test_started_at
    passed = last.test_status == TestResult.Status.PASSED
    yield Finding(
        passed and age <= LONGEST_DRILL_AGE,
        f"last drilled {in_words(age)} ago: {drill_in_words(last)}",
        "run `manage.py backup drill` and see what it says; is the schedule `recovery: restore drill` on?",
    )


def drill_in_words(drill: TestResult) -> str:
    seconds = drill.performance_metrics.get("rto_seconds")
    if drill.test_status == TestResult.Status.PASSED and seconds is not None:
        return f"proven, {seconds:g} s"
    return f"{drill.test_status}: {' '.join(drill.error_messages or ['no reason'])}"[:300]


@shared
def newest_drill() -> TestResult | None:
    """Return the newest finished drill of the whole server. One query."""
    drills = TestResult.objects.filter(
        performance_metrics__has_key="rto_seconds", test_type__in=("full_restore", "pitr")
    )
    return drills.exclude(test_completed_at=None).order_by("-test_started_at").first()


@shared
def newest_state() -> ArchiveState | None:
    return ArchiveState.objects.order_by("-checked_at").first()


@shared
def read_archiver() -> dict[str, Any]:
    """Return pg_stat_archiver's row; `is_failing`: the last try failed. One query."""
    [row] = QUERIES.run("archiver")
    return row


# -- figures ------------------------------------------------------------------------------------------------
def read_age() -> Iterator[Sample]:
    """No sample while nothing is verified: an alarm on its absence is the right one."""
    if newest := newest_verified():
        yield {"kind": newest.kind}, (timezone.now() - newest.started_at).total_seconds()


def read_size() -> Iterator[Sample]:
    if newest := newest_verified():
        yield {"kind": newest.kind}, newest.size_bytes or 0


def read_numbers() -> Iterator[Sample]:
    rows = Backup.objects.order_by().values("kind", "status").annotate(number=Count("pk"))
    for row in rows:
        yield {"kind": row["kind"], "status": row["status"]}, row["number"]


def read_rpo_seconds() -> Iterator[Sample]:
    """What a disaster now would lose, in time. No sample without an archive."""
    if (state := newest_state()) and state.last_commit_at:
        yield {}, (timezone.now() - state.last_commit_at).total_seconds()


def read_rpo_bytes() -> Iterator[Sample]:
    if state := newest_state():
        with connection.cursor() as cursor:
            cursor.execute("SELECT pg_current_wal_lsn() - '0/0'")
            yield {}, max(0.0, float(cursor.fetchone()[0]) - state.archived_lsn)


def read_rto() -> Iterator[Sample]:
    if (drill := newest_drill()) and drill.test_status == TestResult.Status.PASSED:
        yield {"type": drill.test_type}, float(drill.performance_metrics["rto_seconds"])


def read_drill_age() -> Iterator[Sample]:
    drills = TestResult.objects.filter(performance_metrics__has_key="rto_seconds", test_status="passed")
    if drill := drills.order_by("-test_started_at").first():
        yield {}, (timezone.now() - drill.test_started_at).total_seconds()


def read_gaps() -> Iterator[Sample]:
    if newest_state():
        yield {}, WalSegment.objects.exclude(problem=None).count()


def read_failures() -> Iterator[Sample]:
    yield {}, read_archiver()["failed_count"]


def read_slot_lag() -> Iterator[Sample]:
    """A receiver that is gone keeps WAL until the disk is full: see max_slot_wal_keep_size."""
    for row in QUERIES.run("slots"):
        yield {"slot": row["slot_name"]}, float(row["lag_bytes"])
