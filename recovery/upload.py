"""Send what waits in recovery.uploads to the store: WAL and backups by two jobs, so that neither waits for the other.

One object is staged at a time (packed, encrypted) below `<backup folder>/outbox`, so its SHA-256 is known before the
first byte goes and an interrupted upload goes on with the very same bytes. The index of a backup goes last, when every
part is there. Nothing here can lose anything: the files stay where they are.
"""

import logging
import time
from collections.abc import Callable
from pathlib import Path

from partitions.locks import session_lock
from pg.errors import MisterSmithError
from recovery import catalogue, packing, wal_archive
from recovery.adoption import adopt_backup
from recovery.entries import to_json
from recovery.errors import Busy, Damaged, UnknownBackup
from recovery.manifest import sha256_of
from recovery.models import Backup, Upload
from recovery.packing import PartStored
from recovery.sealing import keys_of_settings
from recovery.sending import Run, Sent, note, put, stage
from recovery.source import inbox
from recovery.stored import read_one
from recovery.stores import open_store
from recovery.upload_queue import enqueue, is_index, key_of, mark_all_stored
from recovery.wal import open_archive

log = logging.getLogger(__name__)
OWNER_KEY = f"wal/{wal_archive.OWNER}"


def upload(what: str = "", seconds: float | None = None) -> Sent:
    """Queue what is new and send what waits: "wal", "backups", or "" for both, WAL first; return what was done.

    `seconds`: begin nothing after that. What a server refuses for good (another object has the key, a damaged file) is
    noted and the next one sent; any other trouble ends the run, for all would meet it. Without a store nothing is done.
    Safe twice, late and when killed. Raises Busy while the same runs elsewhere, NoKey.
    """
    store, sent = open_store(), Sent()
    if store is None:
        return sent
    keys, until = keys_of_settings(), None if seconds is None else time.monotonic() + seconds
    catalogue.make_folders()
    enqueue(store)
    for kind, send in KINDS.items():
        if what in ("", kind) and not sent.stopped:
            with session_lock("recovery.upload", kind) as is_ours:
                if not is_ours:
                    raise Busy(f"an upload of {kind} is running", "wait for it: `manage.py backup store`")
                send(Run(store, keys, kind, until, sent))
    return sent


# -- WAL ----------------------------------------------------------------------------------------------------
def send_wal(run: Run) -> None:
    """Send WAL, whose it is first: where the store has another server's, nothing more goes there."""
    wal = open_archive().place
    rows = Upload.objects.filter(store=run.store.url, backup_id=None, uploaded_at=None)
    owner = rows.filter(key=OWNER_KEY).first()
    for row in ([owner] if owner else []) + list(
        rows.exclude(key=OWNER_KEY).order_by("attempts", "queued_at")
    ):
        if run.is_over():
            return
        with stage(run.outbox) as folder:
            run.attempt(row, send_file, run, row, wal / row.key, folder)
        if row is owner and row.uploaded_at is None:
            run.sent.stopped = run.sent.stopped or str(row.error)


def send_file(run: Run, row: Upload, path: Path, folder: Path) -> None:
    put(run, row, path, sha256_of(path), folder)


# -- backups ------------------------------------------------------------------------------------------------
def send_backups(run: Run) -> None:
    rows = Upload.objects.filter(store=run.store.url, uploaded_at=None).exclude(backup_id=None)
    ids = dict.fromkeys(rows.order_by("queued_at").values_list("backup_id", flat=True))
    for backup_id in ids:
        if run.is_over():
            return
        try:
            backup = catalogue.find(str(backup_id))[0]
        except UnknownBackup:
            rows.filter(backup_id=backup_id).delete()  # pruned before all of it went
            continue
        send_backup(run, backup)
    mark_all_stored(run.store.url)


def send_backup(run: Run, backup: Backup) -> None:
    """Send the parts that are missing, then the index; or take up what the table has forgotten."""
    folder = catalogue.folder_of(backup)
    if adopted(run, backup):
        return
    rows = {row.key: row for row in Upload.objects.filter(store=run.store.url, backup_id=backup.pk)}
    index = next((row for row in rows.values() if is_index(row)), None)
    if index is None or not folder.is_dir():
        return
    with catalogue.in_use(folder) as is_ours:
        if not is_ours:
            return  # it is being removed
        try:
            parts = packing.plan_parts(folder)
        except Damaged as error:
            note(index, error)
            run.sent.refused.append(f"{backup.pk}: {error}")
            return
        if {key_of(backup, part.name) for part in parts} != rows.keys() - {index.key}:
            Upload.objects.filter(pk__in=[row.pk for row in rows.values()]).delete()
            return  # queued by a version that packed otherwise: the next run queues it anew
        for part in parts:
            row = rows.get(key_of(backup, part.name))
            if row is not None and row.uploaded_at is None and not run.is_over():
                with stage(run.outbox) as place:
                    run.attempt(row, send_part, run, row, folder, part, place)
        if all(row.uploaded_at for row in rows.values() if row is not index) and not run.is_over():
            with stage(run.outbox) as place:
                run.attempt(index, send_index, run, index, backup, list(rows.values()), place)


def adopted(run: Run, backup: Backup) -> bool:
    """Tell whether the store has it whole: replacing its parts would spoil it until the last one is sent."""
    key = key_of(backup, packing.INDEX)
    try:
        if run.store.head(key) is None:
            return False
        with inbox() as place:
            found = read_one(run.source, key, place)
    except MisterSmithError as error:
        log.warning("%s is not taken up as it is: %s", key, error)
        return False
    return found.backup.manifest_sha256 == backup.manifest_sha256 and adopt_backup(run.source, found) > 0


def send_part(run: Run, row: Upload, folder: Path, part: packing.Part, place: Path) -> None:
    packing.pack(folder, part, place / "packed")
    put(run, row, place / "packed", sha256_of(place / "packed"), place)


def send_index(run: Run, row: Upload, backup: Backup, rows: list[Upload], place: Path) -> None:
    parts = [
        PartStored(Path(found.key).name, found.stored_bytes or 0, found.sha256 or "", found.key_id)
        for found in sorted(rows, key=lambda found: found.key)
        if found is not row
    ]
    packing.write_index(place / "index", to_json(backup), catalogue.folder_of(backup), parts)
    put(run, row, place / "index", sha256_of(place / "index"), place)


KINDS: dict[str, Callable[[Run], None]] = {"wal": send_wal, "backups": send_backups}
