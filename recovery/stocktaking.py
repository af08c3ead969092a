"""Compare the store with what our table says of it; and take up what the table has forgotten.

The table may be restored from an older day, and others may delete. A list of the store tells which objects are there, a
read tells that they are what was sent.
"""

from dataclasses import dataclass, field

from django.utils import timezone

from recovery import catalogue, packing
from recovery.adoption import adopt_backup, key_of_rekeyed
from recovery.errors import Damaged, NoKey
from recovery.models import Upload
from recovery.server import exclusive, home_server
from recovery.source import Source, inbox
from recovery.store_lock import changing_store
from recovery.stored import find_stored
from recovery.upload_queue import key_of, mark_each, whole_unmarked
from recovery.wal import open_archive


@dataclass
class Stock:
    """What was found. `missing` and `damaged` are objects that a restore might need; `unknown` are none of ours."""

    objects: int = 0
    size_bytes: int = 0
    missing: list[str] = field(default_factory=list)
    damaged: dict[str, str] = field(default_factory=dict)
    unknown: list[str] = field(default_factory=list)
    adopted: int = 0

    @property
    def problems(self) -> list[str]:
        return [f"{key} is missing" for key in self.missing] + [
            f"{key}: {why}" for key, why in self.damaged.items()
        ]


def take_stock(source: Source, read: bool = False) -> Stock:
    """List the whole store and compare; with `read` also every object's SHA-256 and key. Changes nothing."""
    return compare(source, read, Stock())


def repair_store(source: Source, read: bool = False) -> Stock:
    """The same, after what the table has forgotten is taken up; and what is missing or damaged is queued again where
    the file is here. Where it is not, a damaged object stays: it is the last there is.

    Under the recovery lock, since entries of the catalogue change, and that of the store. Safe twice and when killed: a
    damaged object is deleted before it is queued, and one that is missing is found again. Raises Busy.
    """
    with exclusive(home_server()), changing_store():
        stock = compare(source, read, Stock(adopted=adopt(source)))
        mended = that_are_here(source.store.url, {*stock.missing, *stock.damaged})
        source.store.delete(sorted(mended & stock.damaged.keys()))
        requeue(source.store.url, mended)
    return stock


def that_are_here(url: str, keys: set[str]) -> set[str]:
    """Return those of the objects that can be sent again."""
    place = open_archive().place
    here = {backup.pk for backup in catalogue.load_all()[0] if catalogue.is_stored(backup)}
    rows = Upload.objects.filter(store=url, key__in=keys)
    return {
        row.key for row in rows if (row.backup_id in here if row.backup_id else (place / row.key).exists())
    }


def compare(source: Source, read: bool, stock: Stock) -> Stock:
    rows = {row.key: row for row in Upload.objects.filter(store=source.store.url).exclude(uploaded_at=None)}
    seen = set()
    for stored in source.store.list():
        stock.objects, stock.size_bytes = stock.objects + 1, stock.size_bytes + stored.size_bytes
        row = rows.get(stored.key)
        if row is None:
            stock.unknown.append(stored.key)
            continue
        seen.add(stored.key)
        if stored.size_bytes != row.stored_bytes and not key_of_rekeyed(source, row.key):
            stock.damaged[row.key] = f"has {stored.size_bytes} bytes, not {row.stored_bytes}"
        elif read and (problem := read_one(source, row)):
            stock.damaged[row.key] = problem
    stock.missing = sorted(rows.keys() - seen)
    return stock


def read_one(source: Source, row: Upload) -> str:
    """Return what is wrong with an object, "" where nothing is."""
    with inbox() as place:
        try:
            found = source.store.get(row.key, place / "raw")
            if found.sha256 != row.sha256:
                is_ours = key_of_rekeyed(source, row.key)  # encrypted anew by a run that was killed
                return "" if is_ours else "is another object than the one that was sent"
            (place / "raw").unlink()
            if row.key_id:
                source.get(row.key, place / "opened")
        except (Damaged, NoKey, FileNotFoundError) as error:
            return str(error)
    return ""


def requeue(url: str, keys: set[str]) -> None:
    """Let objects be sent again. Without its index a backup is none, so that goes again too, last."""
    ids = set(
        Upload.objects.filter(store=url, key__in=keys)
        .exclude(backup_id=None)
        .values_list("backup_id", flat=True)
    )
    again = Upload.objects.filter(store=url, key__in=keys) | Upload.objects.filter(
        store=url, backup_id__in=ids, key__endswith=f"/{packing.INDEX}"
    )
    again.update(
        uploaded_at=None, sha256=None, stored_bytes=None, key_id=None, queued_at=timezone.now(),
        error="queued again: missing or damaged",
    )  # fmt: skip
    for backup in catalogue.load_all()[0]:
        if backup.pk in ids and backup.stored_at is not None:
            backup.stored_at = None
            catalogue.save(backup)


# -- what the table has forgotten ---------------------------------------------------------------------------
def adopt(source: Source) -> int:
    """Take up whole backups of the store that the table does not know as stored; return how many objects. Hold the
    recovery lock."""
    known = set(
        Upload.objects.filter(store=source.store.url).exclude(uploaded_at=None).values_list("key", flat=True)
    )
    adopted = 0
    for found in find_stored(source)[0]:
        keys = [
            key_of(found.backup, name) for name in (*(part.name for part in found.index.parts), packing.INDEX)
        ]
        if not known.issuperset(keys):
            adopted += adopt_backup(source, found)
    mark_each(whole_unmarked(source.store.url))
    return adopted
