"""Where backups and WAL are kept besides the backup folder: a folder on another disk, or a bucket of S3.

A store knows objects, not backups. An object appears whole under its key or not at all, its SHA-256 is kept with it,
and it is never replaced by another one unless that is asked for. What goes where is decided by recovery.upload.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Protocol

from django.conf import settings


@dataclass(frozen=True)
class Stored:
    """An object. `sha256` None: the store was only asked for a list, or somebody else put it there."""

    key: str
    size_bytes: int
    modified_at: datetime
    sha256: str | None = None


class Store(Protocol):
    """What every store does. All raise Unreachable when it does not answer, Refused when it does not let us in."""

    url: str

    def put(self, path: Path, key: str, sha256: str, *, replace: bool = False, is_cold: bool = False) -> None:
        """Store the file. The same being there already is as good; raises Taken for another one, unless `replace`.

        Killed at any moment it leaves no object, or all of it; called again it goes on where it was. `is_cold`: it is
        read on bad days only.
        """

    def head(self, key: str) -> Stored | None:
        """Return what is known of the object, None where there is none."""

    def get(self, key: str, path: Path) -> Stored:
        """Write the object to a new file, for its owner alone. Raises FileNotFoundError; Damaged when its SHA-256 is
        not the one that it was put with: then the file is gone again."""

    def list(self, prefix: str = "") -> Iterator[Stored]:
        """Yield all objects whose keys begin so, in the order of the keys, however many there are."""

    def delete(self, keys: Iterable[str]) -> dict[str, str]:
        """Delete objects; return those that the store keeps (locked ones), with its reason. One that is not there is
        as good as deleted."""

    def end_unfinished(self, before: datetime) -> int:
        """Throw away what was begun before that moment and never finished; return how many."""


def open_store() -> Store | None:
    """Return the store of BACKUP_STORE_URL, None where it is not set. It connects at the first use."""
    url: str = settings.BACKUP_STORE_URL
    if not url:
        return None
    if url.startswith("s3://"):
        from recovery.stores.s3 import S3Store, options_of_settings  # here: nobody else pays for boto3

        return S3Store(url, options_of_settings())
    from recovery.stores.local import LocalStore

    return LocalStore(url)
