"""What was pruned goes from the store too, in two phases: doomed by `prune`, deleted by `sweep` when the grace is over.

Until then `manage.py backup fetch` brings a doomed backup back. Deleting is ordered so that stopping anywhere leaves
what restores: a backup's index first (without it the parts are no backup), children before what they build on, WAL
last.
"""

import logging
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from uuid import UUID

from django.conf import settings
from django.db.models import QuerySet
from django.utils import timezone

from recovery.errors import Busy
from recovery.models import Upload
from recovery.store_lock import changing_store
from recovery.stores import Store, open_store
from recovery.upload_queue import is_index
from recovery.wal import Segment
from recovery.wal_archive import SEGMENT

log = logging.getLogger(__name__)
UNFINISHED_DAYS = 7


@dataclass
class Swept:
    """How many objects were deleted; `refused` ones the store keeps, with its reason."""

    deleted: int = 0
    refused: dict[str, str] = field(default_factory=dict)


# -- phase one ----------------------------------------------------------------------------------------------
def doom_backups(backup_ids: Iterable[UUID], now: datetime) -> int:
    """Let the backups' objects go after the grace; return how many. What never went is forgotten at once."""
    rows = Upload.objects.filter(backup_id__in=list(backup_ids), doomed_at=None)
    return doom(rows, now)


def doom_unknown(known: set[UUID], now: datetime) -> int:
    """The same of every backup that the catalogue has no more: pruned just now, or by a run that was killed."""
    ids = Upload.objects.filter(doomed_at=None).exclude(backup_id=None).values_list("backup_id", flat=True)
    return doom_backups({found for found in ids if found} - known, now)


def doom_wal(segments: Iterable[Segment], segment_bytes: int, now: datetime) -> int:
    """The same of WAL."""
    names = {segment.name(segment_bytes) for segment in segments}
    keys = [f"wal/{name[:16]}/{name}.gz" for name in names]
    return doom(Upload.objects.filter(backup_id=None, key__in=keys, doomed_at=None), now)


def doom(rows: QuerySet[Upload], now: datetime) -> int:
    rows.filter(uploaded_at=None).delete()
    return rows.update(doomed_at=now)


def spare(backup_id: UUID) -> None:
    """Take the doom back: the backup was fetched, or pinned."""
    Upload.objects.filter(backup_id=backup_id).update(doomed_at=None)


def stored_segments(segment_bytes: int) -> set[Segment]:
    """Return the segments in the store that nobody has doomed yet: it may have some that the archive has lost."""
    keys = Upload.objects.filter(backup_id=None, doomed_at=None).exclude(uploaded_at=None)
    names = (key.rpartition("/")[2].removesuffix(".gz") for key in keys.values_list("key", flat=True))
    return {Segment.parse(name, segment_bytes) for name in names if SEGMENT.fullmatch(name)}


# -- phase two ----------------------------------------------------------------------------------------------
def sweep(now: datetime | None = None) -> Swept:
    """Delete what was doomed before the grace. Safe twice, beside itself and when killed: a key that is gone is as
    good as deleted. While a repair or re-encryption is at work it does nothing: it is back in a minute. Raises
    Unreachable, Refused."""
    store, swept = open_store(), Swept()
    if store is not None:
        with suppress(Busy), changing_store():
            sweep_doomed(store, now or timezone.now(), swept)
    return swept


def sweep_doomed(store: Store, now: datetime, swept: Swept) -> None:
    before = now - timedelta(hours=settings.BACKUP_STORE_GRACE_HOURS)
    doomed = Upload.objects.filter(store=store.url, doomed_at__lte=before)
    backups = list(doomed.exclude(backup_id=None).order_by("-key"))  # names sort as time does: children first
    for group in (
        [row for row in backups if is_index(row)],
        [row for row in backups if not is_index(row)],
        list(doomed.filter(backup_id=None).order_by("key")),
    ):
        delete(store, group, swept)
    if swept.deleted:
        store.end_unfinished(now - timedelta(days=UNFINISHED_DAYS))


def delete(store: Store, rows: list[Upload], swept: Swept) -> None:
    """Delete the rows' objects, then the rows; what the store keeps keeps its row, with the reason."""
    if not rows:
        return
    refused = store.delete([row.key for row in rows])
    for row in rows:
        if row.key in refused:
            row.error = f"pruned, but the store keeps it: {refused[row.key]}"[:1000]
            row.save(update_fields=["error"])
    gone = [row.pk for row in rows if row.key not in refused]
    Upload.objects.filter(pk__in=gone).delete()
    swept.deleted += len(gone)
    swept.refused |= refused
    log.info("deleted %s objects from %s, %s are kept there", len(gone), store.url, len(refused))
