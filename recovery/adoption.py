"""Take up a backup that is whole in the store but not in our table, which may have been restored from an older day."""

from recovery import packing
from recovery.errors import Damaged, NoKey
from recovery.models import Upload
from recovery.sealing import is_sealed, unseal
from recovery.source import Source, inbox
from recovery.stored import Found
from recovery.upload_queue import key_of


def adopt_backup(source: Source, found: Found) -> int:
    """Make the rows of one backup, all of whose objects must be there as its index says; return how many."""
    backup, rows = found.backup, []
    parts = {key_of(backup, part.name): part for part in found.index.parts}
    for key in (*parts, key_of(backup, packing.INDEX)):
        stored = source.store.head(key)
        if stored is None or stored.sha256 is None:
            return 0
        key_id = parts[key].key_id if key in parts else None
        if key in parts and stored.sha256 != parts[key].sha256:
            key_id = key_of_rekeyed(source, key)
            if key_id is None:
                return 0
        rows.append(
            Upload(
                store=source.store.url, key=key, backup_id=backup.pk, size_bytes=stored.size_bytes,
                stored_bytes=stored.size_bytes, sha256=stored.sha256, uploaded_at=stored.modified_at,
                key_id=key_id,
            )
        )  # fmt: skip
    Upload.objects.bulk_create(
        rows, update_conflicts=True, unique_fields=["store", "key"],
        update_fields=["stored_bytes", "sha256", "uploaded_at", "key_id", "backup_id"],
    )  # fmt: skip
    return len(rows)


def key_of_rekeyed(source: Source, key: str) -> str | None:
    """Return the key of an object that was encrypted anew, which its index or our table does not know yet; None for
    somebody else's."""
    with inbox() as place:
        try:
            source.store.get(key, place / "raw")
            return (
                unseal(place / "raw", place / "opened", key, source.keys)
                if is_sealed(place / "raw")
                else None
            )
        except (Damaged, NoKey):
            return None
