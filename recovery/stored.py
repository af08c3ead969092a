"""The backups that the store has, by their indexes. Needs no database."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from django.core.exceptions import ValidationError

from recovery import catalogue, packing
from recovery.entries import from_json
from recovery.errors import Damaged, NoKey
from recovery.models import Backup
from recovery.source import Source, inbox
from recovery.stores import Store


@dataclass(frozen=True)
class Found:
    """A backup in the store, and what its index says."""

    backup: Backup
    index: packing.Index

    @property
    def size_bytes(self) -> int:
        return sum(part.size_bytes for part in self.index.parts)


def find_stored(source: Source) -> tuple[list[Found], list[str]]:
    """Return every backup of the store, newest first, and warnings about what cannot be read. Lists all objects of
    backups, reads each index."""
    found, warnings = [], []
    with inbox() as place:
        for key in index_keys(source.store):
            try:
                found.append(read_one(source, key, place))
            except (Damaged, NoKey, FileNotFoundError) as error:
                warnings.append(str(error))
    return sorted(found, key=lambda one: str(one.backup.pk), reverse=True), warnings


def index_keys(store: Store) -> Iterator[str]:
    for name in catalogue.FOLDERS:
        yield from (
            stored.key for stored in store.list(f"{name}/") if stored.key.endswith(f"/{packing.INDEX}")
        )


def read_one(source: Source, key: str, place: Path) -> Found:
    source.get(key, place / "index")
    index = packing.read_index(place / "index")
    try:
        backup = from_json(index.entry)
    except (ValueError, ValidationError) as error:
        raise Damaged(f"{key}: no catalogue entry: {error}") from error
    if key != f"{backup.location}/{packing.INDEX}":
        raise Damaged(f"{key} is the index of {backup.location}")
    return Found(backup, index)
