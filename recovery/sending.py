"""One object on its way to the store: staged, encrypted where there is a key, sent, and noted in recovery.uploads."""

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

from pg.errors import MisterSmithError
from recovery import catalogue
from recovery.errors import Damaged, Taken
from recovery.logical import explain
from recovery.manifest import sha256_of
from recovery.models import Upload
from recovery.sealing import Keys, is_sealed, seal, unseal
from recovery.source import Source
from recovery.stores import Store

log = logging.getLogger(__name__)
OUTBOX = "outbox"


@dataclass
class Sent:
    """What one run did. `stopped` is why it ended before the queue was empty, "": it is empty, or time was up."""

    objects: int = 0
    size_bytes: int = 0
    refused: list[str] = field(default_factory=list)
    stopped: str = ""


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
