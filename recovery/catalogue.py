"""The catalogue of backups, kept twice: in recovery.backups, and beside the data as `catalogue/<backup_id>.json`.

So listing and restoring work when the database is gone, and the table may be restored from an older day: where the two
differ, the newer `updated_at` is right. Layout of the backup folder:

    catalogue/<backup_id>.json       one entry
    logical/<time>-<backup_id>/      a finished backup: dump/, globals.sql, manifest.json (written last)
    logical/.partial-<backup_id>/    one that is being made, or was interrupted: never restored from
    logical/.trash-<backup_id>/      one that is being removed
    base/...                         the same of base and incremental backups: data/, manifest.json
    cross/...                        the same of cross-system ones: jetstream/<stream>/, manifest.json
    wal/                             the archive (see recovery.wal_archive), bin/ its program
"""

import fcntl
import json
import logging
import os
import shutil
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from uuid import UUID

from django.conf import settings
from django.db import DatabaseError, InterfaceError, connection
from django.utils import timezone

from recovery import manifest
from recovery.entries import FIELDS, from_json, to_json
from recovery.errors import Damaged, RecoveryError, UnknownBackup
from recovery.models import Backup

log = logging.getLogger(__name__)
Status = Backup.Status
FOLDERS = ("logical", "base", "cross")
NEWEST = "newest"


# -- places -------------------------------------------------------------------------------------------------
def root() -> Path:
    return Path(settings.BACKUP_DIR)


def below(pattern: str) -> Iterator[Path]:
    """Yield what matches in the folders that backups lie in."""
    for name in FOLDERS:
        yield from root().glob(f"{name}/{pattern}")


def folder_of(backup: Backup) -> Path:
    return root() / backup.location


def partial_of(backup: Backup) -> Path:
    return folder_of(backup).parent / f".partial-{backup.pk}"


def trash_of(backup: Backup) -> Path:
    return folder_of(backup).parent / f".trash-{backup.pk}"


def entry_of(backup_id: UUID) -> Path:
    return root() / "catalogue" / f"{backup_id}.json"


def is_stored(backup: Backup) -> bool:
    """Tell whether the finished backup lies in the backup folder."""
    return (folder_of(backup) / manifest.NAME).is_file()


def is_kept(backup: Backup) -> bool:
    """Tell whether it lies in the backup folder, or in the store, from where it can be fetched."""
    return is_stored(backup) or backup.stored_at is not None


def make_folders() -> None:
    """Make the backup folder, which only its owner may enter. Raises RecoveryError."""
    try:
        for name in ("", "catalogue", *FOLDERS):
            (root() / name).mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise RecoveryError(
            f"{root()}: {error.strerror}", "set MISTERSMITH_BACKUP_DIR to a folder that we may write"
        ) from error


# -- writing ------------------------------------------------------------------------------------------------
def save(backup: Backup) -> None:
    """Write the entry in both places. What goes wrong in one of them is logged: the other is newer then."""
    backup.updated_at = timezone.now()
    try:
        make_folders()
        manifest.write_json(entry_of(backup.pk), to_json(backup))
    except (OSError, RecoveryError) as error:
        log.warning("catalogue entry of %s is not beside the data: %s", backup.pk, error)
    save_row(backup)


def save_row(backup: Backup) -> None:
    values = {name: getattr(backup, name) for name in FIELDS if name != "backup_id"}
    if not connection.in_atomic_block:
        connection.close_if_unusable_or_obsolete()  # hours may have passed since it was last used
    try:
        Backup.objects.update_or_create(pk=backup.pk, defaults=values)
    except (DatabaseError, InterfaceError) as error:
        log.warning("catalogue entry of %s is not in the database: %s", backup.pk, error)


def forget(backup: Backup) -> None:
    """Remove the entry from both places. Safe twice."""
    entry_of(backup.pk).unlink(missing_ok=True)
    try:
        Backup.objects.filter(pk=backup.pk).delete()
    except (DatabaseError, InterfaceError) as error:
        log.warning("catalogue entry of %s stays in the database: %s", backup.pk, error)


def remove(backup: Backup) -> None:
    """Remove a backup and its entry. It stops being one at the first step; interrupted, `tidy` ends it."""
    if folder_of(backup).exists():
        folder_of(backup).rename(trash_of(backup))
    forget(backup)
    shutil.rmtree(trash_of(backup), ignore_errors=True)


# -- reading ------------------------------------------------------------------------------------------------
def load_all() -> tuple[list[Backup], list[str]]:
    """Return every backup that either place knows, newest first, and warnings about what could not be read."""
    warnings: list[str] = []
    beside = {backup.pk: backup for backup in read_entries(warnings)}
    rows = {backup.pk: backup for backup in read_rows(warnings)}
    found = [newer(beside.get(key), rows.get(key)) for key in beside.keys() | rows.keys()]
    return sorted(found, key=lambda backup: str(backup.pk), reverse=True), warnings


def newer(one: Backup | None, other: Backup | None) -> Backup:
    given = [backup for backup in (one, other) if backup is not None]
    return max(given, key=lambda backup: backup.updated_at)


def read_rows(warnings: list[str]) -> list[Backup]:
    try:
        return list(Backup.objects.all())
    except (DatabaseError, InterfaceError) as error:
        warnings.append(
            f"the database's catalogue cannot be read, this is the one beside the data: {str(error).strip()}"
        )
        return []


def read_entries(warnings: list[str]) -> Iterator[Backup]:
    """Yield what lies beside the data: entries, and finished backups that have none (copied here by hand)."""
    known = set()
    for path in sorted((root() / "catalogue").glob("*.json")):
        try:
            backup = from_json(json.loads(path.read_text("utf-8")))
        except Exception as error:  # one bad entry must not hide the others
            warnings.append(f"{path}: no catalogue entry: {error}")
            continue
        known.add(backup.pk)
        yield backup
    for path in sorted(below(f"[!.]*/{manifest.NAME}")):
        found = read_finished(str(path.parent.relative_to(root())))
        if found is not None and found.pk not in known:
            yield found


def read_finished(location: str) -> Backup | None:
    """Return the entry that a finished backup's manifest implies: complete, never verified; None for damage."""
    folder = root() / location
    try:
        body = manifest.read_manifest(folder)
        return Backup(
            backup_id=UUID(body["backup_id"]),
            kind=body["kind"],
            status=Status.COMPLETE,
            location=location,
            database_name=body["database"]["name"],
            server_version=body["server_version"],
            tool_version=body["tool_version"],
            started_at=datetime.fromisoformat(body["started_at"]),
            completed_at=datetime.fromisoformat(body["completed_at"]),
            updated_at=datetime.fromisoformat(body["completed_at"]),
            database_bytes=body["database_bytes"],
            size_bytes=manifest.size_of(folder),
            manifest_sha256=manifest.sha256_of(folder / manifest.NAME),
            row_counts=body["row_counts"],
            parent_id=UUID(body["parent_id"]) if body.get("parent_id") else None,
            has_wal=body.get("has_wal", False),
            **{name: body.get(name) for name in ("system_identifier", "timeline", "start_lsn", "end_lsn")},
        )
    except (Damaged, KeyError, ValueError, OSError) as error:
        log.warning("%s: %s", folder, error)
        return None


def find(wanted: str, kinds: Collection[str] = tuple(Backup.Kind)) -> tuple[Backup, list[str]]:
    """Return the backup of this id, or of the only id that begins so, or the `newest` verified one of these kinds;
    and warnings.

    Raises UnknownBackup.
    """
    backups, warnings = load_all()
    if wanted == NEWEST:
        matching = [b for b in backups if b.status == Status.VERIFIED and b.kind in kinds][:1]
        missing = (
            f"no {' or '.join(kinds)} backup is verified yet"
            if len(kinds) < len(Backup.Kind)
            else "no backup is verified yet"
        )
    else:
        matching = [backup for backup in backups if str(backup.pk).startswith(wanted)]
        missing = f"{wanted}: {len(matching)} backups have an id that begins so"
    if len(matching) != 1:
        raise UnknownBackup(missing, "see `manage.py backup list`, and give a whole id")
    return matching[0], warnings


# -- in use -------------------------------------------------------------------------------------------------
@contextmanager
def in_use(folder: Path, exclusively: bool = False) -> Iterator[bool]:
    """Keep a backup from being pruned while it is restored from; works without any database.

    Yields False when the lock is not to be had: then nothing must be done to the folder.
    """
    handle = os.open(folder, os.O_RDONLY)
    try:
        yield try_lock(handle, fcntl.LOCK_EX if exclusively else fcntl.LOCK_SH)
    finally:
        os.close(handle)


def try_lock(handle: int, mode: int) -> bool:
    try:
        fcntl.flock(handle, mode | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
