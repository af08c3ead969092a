"""What doctor asks of the recovery room."""

import shutil
from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from django.conf import settings
from django.db import connection
from django.db.migrations.recorder import MigrationRecorder
from django.db.models import Min
from django.utils import timezone
from django_celery_beat.models import PeriodicTask

from monitoring.registry import Finding, register_check, shared
from pg import demands
from recovery.contents import QUERIES
from recovery.errors import UnfitTools
from recovery.logical import expected_bytes
from recovery.models import ArchiveState, Backup, TestResult
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
