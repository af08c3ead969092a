"""What doctor asks of the recovery room, and its figures for /metrics."""

import shutil
from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path

from django.conf import settings
from django.db import connection
from django.db.migrations.recorder import MigrationRecorder
from django.db.models import Count, Min
from django.utils import timezone
from django_celery_beat.models import PeriodicTask

from monitoring.registry import Finding, register_check, register_metric
from pg import demands
from recovery.errors import UnfitTools
from recovery.logical import expected_bytes
from recovery.models import Backup
from recovery.tools import find_tools

SCHEDULE = "recovery: daily backup"
LONGEST_AGE = timedelta(hours=26)  # a day, and two hours for the backup itself
MINUTE_SECONDS, HOUR_SECONDS = 60, 3600
Sample = tuple[dict[str, str], float]


def register() -> None:
    register_check("recovery.backup", look_at_newest)
    register_check("recovery.tools", look_at_tools)
    register_check("recovery.space", look_at_space)
    register_metric(
        "mistersmith_backup_verified_age_seconds", "Age of the newest verified backup's data.", read_age
    )
    register_metric("mistersmith_backup_size_bytes", "Size of the newest verified backup.", read_size)
    register_metric("mistersmith_backups", "Backups by kind and status.", read_numbers)


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
    needed = expected_bytes(database_bytes, list(Backup.objects.exclude(size_bytes=None)[:1]))
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
