"""What doctor, alarms and /metrics ask about the store and its queue."""

from collections.abc import Iterator
from datetime import timedelta

from django.conf import settings
from django.utils import timezone

from monitoring.defaults import declare_alarm
from monitoring.registry import Finding, register_check, register_metric
from recovery.errors import NoKey
from recovery.models import Backup, Upload
from recovery.sealing import keys_of_settings
from recovery.upload_queue import waiting

STALE = timedelta(minutes=15)  # WAL goes each minute; a backup of hours keeps its own rows waiting
SLOWEST = timedelta(hours=24)
Sample = tuple[dict[str, str], float]


def register() -> None:
    register_check("recovery.store", look_at_store)
    register_metric("mistersmith_backup_upload_waiting", "Objects that wait for the store.", read_waiting)
    register_metric(
        "mistersmith_backup_upload_waiting_bytes", "Their size before packing.", read_waiting_bytes
    )
    register_metric(
        "mistersmith_backup_upload_oldest_seconds",
        "How long the oldest WAL file waits for the store.",
        read_oldest,
    )
    register_metric(
        "mistersmith_backup_upload_failed", "Waiting objects that were tried in vain.", read_failed
    )
    register_metric(
        "mistersmith_backup_stored_age_seconds", "Age of the newest backup in the store.", read_stored_age
    )
    declare_alarm(
        "upload queue is stale",
        "mistersmith_backup_upload_oldest_seconds",
        warning=STALE.total_seconds(),
        critical=4 * 3600,
        description="WAL does not reach the store: a disaster now costs what waits.",
        hint="manage.py backup upload says why; the archive itself goes on meanwhile",
    )
    declare_alarm(
        "replication slot holds WAL",
        "mistersmith_replication_slot_lag_bytes",
        warning=1 << 30,
        critical=10 << 30,
        hold_seconds=60,
        description="A receiver is slow or gone; the server keeps WAL for it until its disk is full.",
        hint="does `manage.py backup receive` run? else pg_drop_replication_slot; see max_slot_wal_keep_size",
    )


def look_at_store() -> Iterator[Finding]:
    """What is archived reaches the store within minutes, and backups within a day; keys can be read."""
    url = settings.BACKUP_STORE_URL
    if not url:
        yield Finding(True, "no store is set: backups lie in MISTERSMITH_BACKUP_DIR alone")
        return
    try:
        current = keys_of_settings().current
    except NoKey as error:
        yield Finding(False, str(error), error.hint)
        return
    found, oldest = waiting(url), oldest_wal(url)
    backups = oldest_backup(url)
    in_time = oldest <= STALE.total_seconds() and backups <= SLOWEST.total_seconds()
    said = f"{found.objects} objects wait for {url} ({found.size_bytes >> 20} MB), WAL for {int(oldest) // 60} min"
    yield Finding(
        in_time,
        f"{said}, encrypted with {current}" if current else f"{said}, not encrypted by us",
        "run `manage.py backup upload` and see what it says; is beat running?",
    )
    for row in Upload.objects.filter(store=url, uploaded_at=None, attempts__gt=1)[:3]:
        yield Finding(
            False, f"{row.key} does not go to the store: {row.error}", "see `manage.py backup upload`"
        )


def oldest_wal(url: str) -> float:
    return age_of(
        Upload.objects.filter(store=url, uploaded_at=None, backup_id=None).order_by("queued_at").first()
    )


def oldest_backup(url: str) -> float:
    waiting_rows = Upload.objects.filter(store=url, uploaded_at=None).exclude(backup_id=None)
    return age_of(waiting_rows.order_by("queued_at").first())


def age_of(row: Upload | None) -> float:
    return (timezone.now() - row.queued_at).total_seconds() if row else 0.0


# -- figures: none without a store ----------------------------------------------------------------------------
def read_waiting() -> Iterator[Sample]:
    if url := settings.BACKUP_STORE_URL:
        yield {}, waiting(url).objects


def read_waiting_bytes() -> Iterator[Sample]:
    if url := settings.BACKUP_STORE_URL:
        yield {}, waiting(url).size_bytes


def read_oldest() -> Iterator[Sample]:
    if url := settings.BACKUP_STORE_URL:
        yield {}, oldest_wal(url)


def read_failed() -> Iterator[Sample]:
    if url := settings.BACKUP_STORE_URL:
        yield {}, waiting(url).refused


def read_stored_age() -> Iterator[Sample]:
    newest = Backup.objects.exclude(stored_at=None).order_by("-started_at").first()
    if settings.BACKUP_STORE_URL and newest:
        yield {"kind": newest.kind}, (timezone.now() - newest.started_at).total_seconds()
