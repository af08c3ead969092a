"""Send what waits in recovery.uploads to the store: WAL and backups by two jobs, so that neither waits for the other.

One object is staged at a time (packed, encrypted) below `<backup folder>/outbox`, so its SHA-256 is known before the
first byte goes and an interrupted upload goes on with the very same bytes. The index of a backup goes last, when every
part is there. Nothing here can lose anything: the files stay where they are.
"""

import logging
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from django.db import connection
from django.utils import timezone

from partitions.locks import session_lock
from pg.errors import MisterSmithError
from recovery import catalogue, packing, wal_archive
from recovery.adoption import adopt_backup
from recovery.errors import Busy, Damaged, Taken, UnknownBackup
from recovery.logical import explain
from recovery.manifest import sha256_of
from recovery.models import Backup, Upload
from recovery.packing import PartStored
from recovery.sealing import Keys, is_sealed, keys_of_settings, seal, unseal
from recovery.source import Source, inbox
from recovery.stored import read_one
from recovery.stores import Store, open_store
from recovery.upload_queue import enqueue, is_index, key_of, mark_all_stored
from recovery.wal import open_archive

log = logging.getLogger(__name__)
OUTBOX = "outbox"
OWNER_KEY = f"wal/{wal_archive.OWNER}"


@dataclass
class Sent:
    """What one run did. `stopped` is why it ended before the queue was empty, "": it is empty, or time was up."""

    objects: int = 0
    size_bytes: int = 0
    refused: list[str] = field(default_factory=list)
    stopped: str = ""


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


@dataclass
class Run:
    """One run of one kind. `until` None: to the end of the queue."""

    store: Store
    keys: Keys
    kind: str
    until: float | None
    sent: Sent

    @property
    def outbox(self) -> Path:
        return catalogue.root() / OUTBOX / self.kind

    @property
    def source(self) -> Source:
        return Source(self.store, self.keys)

    def is_over(self) -> bool:
        return bool(self.sent.stopped) or (self.until is not None and time.monotonic() > self.until)

    def attempt(self, row: Upload, work: Callable[..., None], *arguments: Any) -> None:
        """Do the work for a row and note how it ended."""
        try:
            work(*arguments)
        except (Taken, Damaged, OSError) as error:
            self.sent.refused.append(f"{row.key}: {error}")
            note(row, error)
        except MisterSmithError as error:
            self.sent.stopped = str(error)
            note(row, error)
        except BaseException as error:  # the job's time is up, or worse
            note(row, error)
            raise


def note(row: Upload, error: BaseException) -> None:
    log.warning("upload of %s: %s", row.key, error)
    reconnect()
    row.attempts, row.error = row.attempts + 1, explain(error)[:1000]
    row.save(update_fields=["attempts", "error"])


def reconnect() -> None:
    """Replace a connection that died while an object went: hours may have passed. A living one has our lock."""
    if not connection.in_atomic_block and connection.connection is not None and not connection.is_usable():
        connection.close()


# -- one object ---------------------------------------------------------------------------------------------
def put(run: Run, row: Upload, plain: Path, plain_sha256: str, folder: Path) -> None:
    """Encrypt the file where there is a key, send it, and note that it is there."""
    path, sha256, key_id = plain, plain_sha256, run.keys.current
    if key_id is not None:
        path = folder / "sealed"
        seal(plain, path, row.key, run.keys, plain_sha256)
        sha256 = sha256_of(path)
    try:
        run.store.put(
            path, row.key, sha256, replace=row.backup_id is not None, is_cold=row.backup_id is not None
        )
        stored_bytes = path.stat().st_size
    except Taken:
        sha256, stored_bytes, key_id = require_same_contents(run, row, plain_sha256, folder)
    reconnect()
    row.sha256, row.stored_bytes, row.key_id = sha256, stored_bytes, key_id
    row.uploaded_at, row.error, row.attempts = timezone.now(), None, row.attempts + 1
    row.save()
    run.sent.objects += 1
    run.sent.size_bytes += stored_bytes


def require_same_contents(
    run: Run, row: Upload, plain_sha256: str, folder: Path
) -> tuple[str, int, str | None]:
    """Return what is known of the object that has the key: it may hold the same under another encryption key, sent
    before our table went back in time. Raises Taken."""
    found = run.store.get(row.key, folder / "theirs")
    key_id = None
    if is_sealed(folder / "theirs"):
        key_id = unseal(folder / "theirs", folder / "opened", row.key, run.keys)
    opened = folder / ("opened" if key_id else "theirs")
    if found.sha256 is None or sha256_of(opened) != plain_sha256:
        raise Taken(
            f"{run.store.url}/{row.key}: another object has that key, nothing was overwritten",
            "does another installation, or a copy of this one, keep its backups there? give each a place of its own",
        )
    return found.sha256, found.size_bytes, key_id


@contextmanager
def stage(outbox: Path) -> Iterator[Path]:
    """Yield an empty folder. Hold the lock of the kind: what else lies there is a killed run's."""
    shutil.rmtree(outbox, ignore_errors=True)
    outbox.mkdir(mode=0o700, parents=True)
    with TemporaryDirectory(dir=outbox) as folder:
        yield Path(folder)


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
    packing.write_index(place / "index", catalogue.to_json(backup), catalogue.folder_of(backup), parts)
    put(run, row, place / "index", sha256_of(place / "index"), place)


KINDS: dict[str, Callable[[Run], None]] = {"wal": send_wal, "backups": send_backups}
