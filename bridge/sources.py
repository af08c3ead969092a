"""Which making of a bucket PostgreSQL's rows speak of, and how far it is flushed (bridge.sources)."""

from collections.abc import Mapping, Sequence

from django.db.backends.base.base import BaseDatabaseWrapper

from bridge import topology
from bridge.session import execute
from bridge.targets import TARGETS


def note_epochs(db: BaseDatabaseWrapper, created: Mapping[str, int]) -> None:
    """Tell PostgreSQL when the buckets were made; `created` are epochs by stream. From then on revisions of a former
    one are older than any of this one."""
    for bucket in TARGETS:
        if epoch := created.get(f"KV_{bucket}"):
            execute(
                db,
                "UPDATE bridge.sources SET kv_epoch = %s, flushed_sequence = 0, updated_at = now()"
                " WHERE bucket = %s AND kv_epoch <> %s",
                [epoch, bucket, epoch],
            )


def note_flushed(db: BaseDatabaseWrapper, bucket: str, epoch: int, sequence: int) -> None:
    """Note that all messages of the bucket's FLUSH stream up to `sequence` are committed. Never goes back."""
    execute(
        db,
        "UPDATE bridge.sources SET flushed_sequence = %s, updated_at = now()"
        " WHERE bucket = %s AND kv_epoch = %s AND flushed_sequence < %s",
        [sequence, bucket, epoch, sequence],
    )


def read_buried(db: BaseDatabaseWrapper, bucket: str, keys: Sequence[str]) -> dict[str, int]:
    """Return the revision that each key had when its row was deleted; others, and those of a former bucket, are left
    out."""
    found = execute(
        db,
        "SELECT t.key, t.kv_revision FROM bridge.tombstones t JOIN bridge.sources s USING (bucket, kv_epoch)"
        " WHERE t.bucket = %s AND t.key = ANY(%s)",
        [bucket, list(keys)],
    )
    return dict(found)


PURGE_MARGIN_SECONDS = 3_600
PURGE = """
DELETE FROM bridge.tombstones t USING (
  SELECT bucket, key FROM bridge.tombstones WHERE deleted_at < now() - make_interval(secs => %s)
  ORDER BY deleted_at LIMIT %s FOR UPDATE SKIP LOCKED) old
WHERE t.bucket = old.bucket AND t.key = old.key
"""


def purge_tombstones(db: BaseDatabaseWrapper, limit: int = 10_000) -> int:
    """Delete up to `limit` tombstones that are older than everything a FLUSH stream holds; return how many."""
    kept_seconds = max(flush.max_age_seconds for flush in topology.flushes().values())
    with db.cursor() as cursor:
        cursor.execute(PURGE, [kept_seconds + PURGE_MARGIN_SECONDS, limit])
        return int(cursor.rowcount)
