"""Encrypt what lies in the store anew with the first of our keys: then the others are needed no more.

One object at a time is read, opened, sealed under the new key and put in place of itself. A store replaces an object at
once and whole, so at any moment each is under the old key or the new one, and both open it. Our table is written after
that: killed in between, the next run finds the object done. A backup's index goes after its parts.
"""

import logging
import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

from django.db.models import Count, Q, QuerySet, Sum

from pg.errors import MisterSmithError
from recovery import catalogue, packing
from recovery.errors import Damaged, NoKey
from recovery.manifest import sha256_of
from recovery.models import Upload
from recovery.sealing import SETTING, is_sealed, seal, unseal
from recovery.sending import OUTBOX, reconnect, stage
from recovery.source import Source, open_source
from recovery.store_lock import changing_store
from recovery.upload_queue import is_index

log = logging.getLogger(__name__)
KIND = "rekey"


@dataclass
class Rekeyed:
    """What one run did. `refused` objects stay as they were, with the reason; `stopped` is why it ended early."""

    objects: int = 0
    size_bytes: int = 0
    refused: dict[str, str] = field(default_factory=dict)
    stopped: str = ""


@dataclass(frozen=True)
class Group:
    """Objects of one key that are not under the first one; `key_id` None: not encrypted."""

    key_id: str | None
    objects: int
    size_bytes: int


def plan_rekey() -> list[Group]:
    """Return what is to be encrypted anew. One query. Raises Refused where no store is set, NoKey without a key."""
    source = open_source()
    rows = outdated(source.store.url, current_key(source))
    groups = rows.order_by("key_id").values("key_id").annotate(n=Count("pk"), size=Sum("stored_bytes"))
    return [Group(row["key_id"], row["n"], row["size"] or 0) for row in groups]


def doomed_under(url: str, current: str) -> int:
    """Return how many objects wait for their end under other keys: they are not worth the work."""
    return (
        Upload.objects.filter(store=url, uploaded_at__isnull=False, doomed_at__isnull=False)
        .exclude(key_id=current)
        .count()
    )


def current_key(source: Source) -> str:
    if source.keys.current is None:
        raise NoKey(f"{SETTING} is not set", "make a key: `manage.py backup key`, and put it in front")
    return source.keys.current


def outdated(url: str, current: str) -> QuerySet[Upload]:
    """Return the rows of what is stored under another key than this one. Backups that are still on their way wait:
    their index is written from what was sent."""
    stored = Upload.objects.filter(store=url, doomed_at=None).exclude(uploaded_at=None)
    unfinished = (
        Upload.objects.filter(store=url, uploaded_at=None).exclude(backup_id=None).values("backup_id")
    )
    return stored.exclude(key_id=current).exclude(Q(backup_id__isnull=False) & Q(backup_id__in=unfinished))


def rekey(seconds: float | None = None) -> Rekeyed:
    """Encrypt anew what is not under the first key; return what was done. `seconds`: begin nothing after that.

    Safe twice and when killed. What cannot be opened or is damaged is left as it is, and named. Raises Busy, NoKey,
    Refused; any other trouble of the store ends the run, and the next one goes on.
    """
    source = open_source(allow_plain=True)
    until = None if seconds is None else time.monotonic() + seconds
    done, current = Rekeyed(), current_key(source)
    catalogue.make_folders()
    with changing_store():
        for row in in_order(outdated(source.store.url, current)):
            if until is not None and time.monotonic() > until:
                break
            try:
                with stage(catalogue.root() / OUTBOX / KIND) as folder:
                    done.size_bytes += rekey_one(source, row, folder)
                done.objects += 1
            except (Damaged, NoKey, FileNotFoundError) as error:
                log.warning("%s is not encrypted anew: %s", row.key, error)
                done.refused[row.key] = str(error)
            except MisterSmithError as error:
                done.stopped = str(error)
                break
    return done


def in_order(rows: QuerySet[Upload]) -> Iterator[Upload]:
    """Yield WAL, then backup by backup the parts and last the index."""
    yield from rows.filter(backup_id=None).order_by("key")
    found = list(rows.exclude(backup_id=None).order_by("backup_id", "key"))
    yield from sorted(found, key=lambda row: (str(row.backup_id), is_index(row)))


def rekey_one(source: Source, row: Upload, folder: Path) -> int:
    """Put one object under the first key and note it; return its size. Raises Damaged, NoKey, FileNotFoundError."""
    theirs, plain, sealed = (folder / name for name in ("theirs", "plain", "sealed"))
    found = source.store.get(row.key, theirs)
    key_id = open_as_sent(source, row, found.sha256, theirs, plain)
    if is_index(row):
        key_id = update_index(row, plain, key_id)
    sha256, stored_bytes = found.sha256, found.size_bytes
    if key_id != source.keys.current:
        seal(plain, sealed, row.key, source.keys, sha256_of(plain))
        sha256, stored_bytes = sha256_of(sealed), sealed.stat().st_size
        source.store.put(sealed, row.key, sha256, replace=True, is_cold=row.backup_id is not None)
    reconnect()
    row.sha256, row.stored_bytes, row.key_id = sha256, stored_bytes, source.keys.current
    row.save(update_fields=["sha256", "stored_bytes", "key_id"])
    return stored_bytes


def open_as_sent(source: Source, row: Upload, sha256: str | None, theirs: Path, plain: Path) -> str | None:
    """Write what the object holds to `plain`; return the id of its key. One that was sent unencrypted must be the very
    one: encrypting what somebody else has put there would vouch for it."""
    if is_sealed(theirs):
        return unseal(theirs, plain, row.key, source.keys)
    if row.sha256 is None or sha256 != row.sha256:
        raise Damaged(
            f"{row.key} is another object than the one that was sent", "see `manage.py backup store --read`"
        )
    theirs.replace(plain)
    return None


def update_index(row: Upload, plain: Path, key_id: str | None) -> str | None:
    """Let the index name its parts as they are now; return its key's id, None when it has to be sent again."""
    index = packing.read_index(plain)
    rows = {
        Path(found.key).name: found
        for found in Upload.objects.filter(store=row.store, backup_id=row.backup_id)
    }
    parts = [
        replace(part, size_bytes=now.stored_bytes, sha256=now.sha256, key_id=now.key_id)
        if (now := rows.get(part.name)) and now.sha256 and now.stored_bytes is not None
        else part
        for part in index.parts
    ]
    if parts == index.parts:
        return key_id
    packing.save_index(plain, replace(index, parts=parts))
    return None
