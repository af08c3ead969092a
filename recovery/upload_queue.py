"""What is to go to the store: found in the backup folder each minute, kept in recovery.uploads until it is there.

The archive and the backups know nothing of it: archive_command ends when the segment is on our disk, whether the store
answers or not, so an outage fills this queue and never pg_wal.
"""

import logging
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

from django.db.models import Count, Min, Q, Sum
from django.utils import timezone

from recovery import catalogue, packing
from recovery.catalogue import Status
from recovery.errors import Busy, Damaged
from recovery.models import Backup, Upload
from recovery.server import exclusive, home_server
from recovery.stores import Store
from recovery.wal import open_archive
from recovery.wal_archive import OWNER

log = logging.getLogger(__name__)
FINISHED = (Status.COMPLETE, Status.VERIFIED)


@dataclass(frozen=True)
class Waiting:
    """What waits: `since` None where nothing does. `refused` objects were tried and not taken."""

    objects: int
    size_bytes: int
    since: datetime | None
    refused: int


def waiting(url: str) -> Waiting:
    """Return how long the queue of a store is. One query."""
    found = Upload.objects.filter(store=url, uploaded_at=None).aggregate(
        objects=Count("pk"),
        size=Sum("size_bytes"),
        since=Min("queued_at"),
        refused=Count("pk", Q(attempts__gt=0)),
    )
    return Waiting(found["objects"], found["size"] or 0, found["since"], found["refused"])


def enqueue(store: Store) -> int:
    """Queue what is new; return how many objects. Safe twice and beside itself: a key is queued once."""
    return enqueue_wal(store.url) + enqueue_backups(store.url)


# -- WAL ----------------------------------------------------------------------------------------------------
def enqueue_wal(url: str) -> int:
    here = dict(wal_files())
    rows = Upload.objects.filter(store=url, backup_id=None)
    known = set(rows.values_list("key", flat=True))
    gone = [row.pk for row in rows.filter(uploaded_at=None) if row.key not in here]
    Upload.objects.filter(pk__in=gone).delete()  # pruned before it ever went
    new = [
        Upload(store=url, key=key, size_bytes=path.stat().st_size)
        for key, path in here.items()
        if key not in known
    ]
    return insert(new)


def insert(rows: list[Upload]) -> int:
    """Queue rows in their order, each a microsecond after the one before."""
    now = timezone.now()
    for number, row in enumerate(rows):
        row.queued_at = now + timedelta(microseconds=number)
    return len(Upload.objects.bulk_create(rows, ignore_conflicts=True))


def wal_files() -> Iterator[tuple[str, Path]]:
    """Yield what lies in the archive by its key: whose it is first, then histories, then segments by their names."""
    folder = open_archive().place / "wal"
    paths = [
        folder / OWNER,
        *sorted(folder.glob("history/[0-9A-F]*.gz")),
        *sorted(folder.glob("0*/[0-9A-F]*.gz")),
    ]
    for path in paths:
        if path.is_file():
            yield f"wal/{path.relative_to(folder)}", path


# -- backups ------------------------------------------------------------------------------------------------
def enqueue_backups(url: str) -> int:
    """Queue the parts of finished backups, what the newest needs first and parents before children."""
    queued = set(Upload.objects.filter(store=url).exclude(backup_id=None).values_list("backup_id", flat=True))
    new = 0
    for backup in in_order(catalogue.load_all()[0]):
        if backup.pk in queued or backup.status not in FINISHED or not catalogue.is_stored(backup):
            continue
        try:
            rows = list(rows_of(backup, url))
        except (Damaged, OSError) as error:
            log.warning("backup %s does not go to the store: %s", backup.pk, error)
            continue
        new += insert(rows)
    return new


def in_order(backups: list[Backup]) -> list[Backup]:
    """Return the backups, given newest first, so that each chain is whole before the next one begins."""
    by_id, ordered = {backup.pk: backup for backup in backups}, dict[Backup, None]()
    for newest in backups:
        chain: list[Backup] = []
        found: Backup | None = newest
        while found is not None and found not in chain:
            chain.insert(0, found)
            found = by_id.get(found.parent_id) if found.parent_id else None
        ordered |= dict.fromkeys(chain)
    return list(ordered)


def rows_of(backup: Backup, url: str) -> Iterator[Upload]:
    """Yield a row per part, and the index's, which comes last."""
    for part in packing.plan_parts(catalogue.folder_of(backup)):
        yield Upload(
            store=url, key=key_of(backup, part.name), backup_id=backup.pk, size_bytes=part.size_bytes
        )
    yield Upload(store=url, key=key_of(backup, packing.INDEX), backup_id=backup.pk, size_bytes=0)


def key_of(backup: Backup, name: str) -> str:
    return f"{backup.location}/{name}"


def is_index(row: Upload) -> bool:
    return row.key.endswith(f"/{packing.INDEX}")


def mark_all_stored(url: str) -> None:
    """Note it of every backup that is whole there: a run may be killed before, or an older entry saved later.

    Under the recovery lock, for whoever has that saves entries too; while it is taken the next run does it.
    """
    found = whole_unmarked(url)
    if not found:
        return
    try:
        with exclusive(home_server()):
            mark_each(found)
    except Busy as error:
        log.info("backups are in the store, which is noted later: %s", error)


def whole_unmarked(url: str) -> list[Backup]:
    unmarked = Backup.objects.filter(stored_at=None).values("backup_id")
    rows = Upload.objects.filter(store=url, backup_id__in=unmarked).order_by().values("backup_id")
    whole = rows.annotate(left=Count("pk", Q(uploaded_at=None))).filter(left=0)
    return list(Backup.objects.filter(pk__in=whole.values("backup_id")))


def mark_each(backups: list[Backup]) -> None:
    """Note of each that it is whole in the store. Hold the recovery lock."""
    for backup in backups:
        mark_stored(backup)


def mark_stored(backup: Backup) -> None:
    """Note in the catalogue, as it is now, that all of the backup is in the store."""
    fresh = catalogue.find(str(backup.pk))[0]
    if fresh.stored_at is None and fresh.completed_at is not None:
        fresh.stored_at = timezone.now()
        catalogue.save(fresh)
        log.info("%s is in the store", fresh)
