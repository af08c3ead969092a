"""Bring backups and WAL back from the store, for the day when the backup folder is gone. Needs no database.

Every object's SHA-256 is compared on its way, every file with the backup's manifest, before the folder gets its name:
what was fetched restores as if it had never been away.
"""

import json
import logging
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from tempfile import TemporaryDirectory

from django.conf import settings
from django.core.exceptions import ValidationError

from pg import account
from pg.errors import Refused
from recovery import catalogue, manifest, packing, wal_archive
from recovery.archiving import give, prepare_archive
from recovery.contents import summarise
from recovery.errors import Damaged, NoKey, NoSpace, UnknownBackup
from recovery.logical import publish
from recovery.models import Backup
from recovery.sealing import Keys, is_sealed, keys_of_settings, unseal
from recovery.stores import Store, open_store
from recovery.wal import Segment, open_archive

log = logging.getLogger(__name__)
INBOX = "inbox"
MARGIN_BYTES = 64 << 20


@dataclass(frozen=True)
class Found:
    """A backup in the store, and what its index says."""

    backup: Backup
    index: packing.Index

    @property
    def size_bytes(self) -> int:
        return sum(part.size_bytes for part in self.index.parts)


@dataclass
class Source:
    """The store to fetch from. `allow_plain`: take what is not encrypted although we have keys; whoever may write to
    the store could have put it there."""

    store: Store
    keys: Keys
    allow_plain: bool = False

    def get(self, key: str, path: Path) -> None:
        """Write the object's contents to the file. Raises FileNotFoundError, Damaged, NoKey, Unreachable, Refused."""
        raw = path.with_name(f"{path.name}.raw")
        try:
            self.store.get(key, raw)
            if is_sealed(raw):
                unseal(raw, path, key, self.keys)
                return
            if self.keys.current is not None and not self.allow_plain:
                raise NoKey(
                    f"{key} is not encrypted, though we have keys: anybody could have put it there",
                    "is it from before there were keys? then: `manage.py backup fetch --allow-plain`",
                )
            raw.replace(path)
        finally:
            raw.unlink(missing_ok=True)


def open_source(allow_plain: bool = False) -> Source:
    """Raises Refused where no store is set."""
    store = open_store()
    if store is None:
        raise Refused(
            "there is no store: BACKUP_STORE_URL is not set", "set it to s3://bucket/prefix or file:///path"
        )
    return Source(store, keys_of_settings(), allow_plain)


@dataclass
class Fetched:
    """What one run brought: `backups` whole, `wal` files."""

    backups: list[Backup] = field(default_factory=list)
    wal: int = 0
    warnings: list[str] = field(default_factory=list)


# -- what there is ------------------------------------------------------------------------------------------
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
        backup = catalogue.from_json(index.entry)
    except (ValueError, ValidationError) as error:
        raise Damaged(f"{key}: no catalogue entry: {error}") from error
    if key != f"{backup.location}/{packing.INDEX}":
        raise Damaged(f"{key} is the index of {backup.location}")
    return Found(backup, index)


@dataclass
class Plan:
    """What is to be fetched: backups that are not here whole, the base first; WAL from `since` on, by key and size."""

    source: Source
    wanted: list[Found] = field(default_factory=list)
    wal: dict[str, int] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)

    @property
    def needed_bytes(self) -> int:
        """How much room it takes at most: the files, and one part on its way."""
        parts = [part.size_bytes for found in self.wanted for part in found.index.parts]
        files = sum(found.backup.size_bytes or 0 for found in self.wanted)
        return files + 2 * max(parts, default=0) + sum(self.wal.values()) + MARGIN_BYTES

    @property
    def steps(self) -> list[dict[str, str]]:
        steps = [
            ("fetch", str(one.backup.pk), f"{one.backup.kind} of {one.backup.started_at:%Y-%m-%d %H:%M:%S},"
             f" {len(one.index.parts)} parts, {one.size_bytes >> 20} MB")
            for one in self.wanted
        ]  # fmt: skip
        if self.wal:
            steps.append(("fetch", f"{len(self.wal)} files of WAL", f"{sum(self.wal.values()) >> 20} MB"))
        return [dict(zip(("action", "object", "why"), step, strict=True)) for step in steps]


def plan_fetch(
    wanted: str = "", before: datetime | None = None, allow_plain: bool = False, with_wal: bool = True
) -> Plan:
    """Return how to make a backup restorable here: `wanted` (an id or its beginning), by default the newest base or
    incremental one that ended `before`; with all that it builds on and the WAL since. Changes nothing.

    Raises UnknownBackup, Unreachable, Refused, NoKey.
    """
    source = open_source(allow_plain)
    stored, warnings = find_stored(source)
    chosen = choose(stored, wanted, before, warnings)
    chain = chain_in_store(chosen, stored)
    here = [found for found in chain if catalogue.is_stored(found.backup)]
    plan = Plan(source, [found for found in chain if found not in here], {}, warnings)
    if with_wal and chosen.backup.start_lsn is not None:
        plan.wal = missing_wal(source, min(found.backup.start_lsn or 0 for found in chain))
    return plan


def choose(stored: list[Found], wanted: str, before: datetime | None, warnings: list[str]) -> Found:
    if wanted:
        fit = [found for found in stored if str(found.backup.pk).startswith(wanted)]
    else:
        fit = [found for found in stored if is_physical(found.backup, before)][:1]
    if len(fit) != 1:
        why = f"{wanted}: {len(fit)} backups in the store have an id that begins so" if wanted else (
            "the store has no base backup that fits")  # fmt: skip
        raise UnknownBackup("; ".join([why, *warnings[:3]]), "see `manage.py backup fetch --list`")
    return fit[0]


def is_physical(backup: Backup, before: datetime | None) -> bool:
    if backup.kind not in (Backup.Kind.BASE, Backup.Kind.INCREMENTAL) or backup.completed_at is None:
        return False
    return before is None or backup.completed_at <= before


def chain_in_store(chosen: Found, stored: list[Found]) -> list[Found]:
    """Return what the backup builds on and itself, the base first. Raises Damaged where the store lacks one."""
    by_id, chain = {found.backup.pk: found for found in stored}, [chosen]
    while (parent_id := chain[0].backup.parent_id) is not None:
        if parent_id not in by_id:
            raise Damaged(
                f"backup {chain[0].backup.pk} builds on {parent_id}, which the store has not",
                "choose another",
            )
        chain.insert(0, by_id[parent_id])
    return chain


# -- fetching -----------------------------------------------------------------------------------------------
def fetch(plan: Plan) -> Fetched:
    """Do what the plan says. Safe twice and when killed: what is whole here is not fetched again. Raises NoSpace."""
    catalogue.make_folders()
    free = shutil.disk_usage(catalogue.root()).free
    if free < plan.needed_bytes:
        raise NoSpace(f"{catalogue.root()} has {free >> 20} MB free, {plan.needed_bytes >> 20} MB may be needed",
                      "free some room, or set MISTERSMITH_BACKUP_DIR to a larger disk")  # fmt: skip
    done = Fetched(warnings=list(plan.warnings))
    for found in plan.wanted:
        fetch_backup(plan.source, found)
        done.backups.append(found.backup)
    done.wal = fetch_wal(plan.source, list(plan.wal)) if plan.wal else 0
    return done


def fetch_backup(source: Source, found: Found) -> None:
    """Bring one backup: part by part into a `.partial-` folder, which gets its name when every file is right."""
    backup, partial = found.backup, catalogue.partial_of(found.backup)
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(mode=0o700, parents=True)
    try:
        for name in found.index.folders:
            below(partial, name).mkdir(mode=0o700, parents=True, exist_ok=True)
        with inbox() as place:
            for part in found.index.parts:
                path = place / part.name
                source.get(f"{backup.location}/{part.name}", path)
                packing.unpack(path, partial)
                path.unlink()
        if problems := manifest.check_files(partial, backup.manifest_sha256):
            raise Damaged(f"backup {backup.pk} in the store: {summarise(problems[:5])}", "choose another one")
        publish(partial, catalogue.folder_of(backup))
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    known = next((one for one in catalogue.load_all()[0] if one.pk == backup.pk), backup)
    catalogue.save(known if known.updated_at > backup.updated_at else backup)
    log.info("%s was fetched from the store", backup)


def below(folder: Path, name: str) -> Path:
    path = folder / name
    if not path.resolve().is_relative_to(folder.resolve()):
        raise Damaged(f"{name} leads out of the backup", "another copy is needed")
    return path


@dataclass(frozen=True)
class Owner:
    """Whose WAL the store has."""

    system_identifier: str
    segment_bytes: int


def missing_wal(source: Source, since_lsn: int) -> dict[str, int]:
    """Return the keys of the WAL files that are not here, from a position on, with their sizes. Lists all WAL."""
    stored = {found.key: found.size_bytes for found in source.store.list("wal/")}
    place = open_archive().place
    absent = {key: size for key, size in stored.items() if not (place / key).exists()}
    if f"wal/{wal_archive.OWNER}" not in stored:
        return {}
    owner = owner_of(source)
    here = open_archive().system_identifier
    if here not in ("", owner.system_identifier):
        raise Refused(f"the store has WAL of server {owner.system_identifier}, the backup folder of {here}",
                      "set MISTERSMITH_BACKUP_DIR to an empty folder")  # fmt: skip
    first = since_lsn // owner.segment_bytes
    return {key: size for key, size in absent.items() if is_wanted(key, first, owner.segment_bytes)}


def owner_of(source: Source) -> Owner:
    with inbox() as place:
        source.get(f"wal/{wal_archive.OWNER}", place / "owner")
        try:
            found = json.loads((place / "owner").read_text("utf-8"))
            return Owner(found["system_identifier"], found["segment_bytes"])
        except (ValueError, KeyError) as error:
            raise Damaged(
                f"wal/{wal_archive.OWNER} of the store: {error!r}", "another copy is needed"
            ) from error


def is_wanted(key: str, first: int, segment_bytes: int) -> bool:
    name = Path(key).name.removesuffix(".gz")
    if not wal_archive.NAMES.fullmatch(name):
        return name == wal_archive.OWNER
    return name.endswith(".history") or Segment.parse(name[:24], segment_bytes).number >= first


def fetch_wal(source: Source, keys: list[str]) -> int:
    """Bring WAL files, whose they are first; return how many. They belong to the server's user, as archived ones do."""
    user = account.server_user()
    place = prepare_archive(Path(settings.BACKUP_DIR), user)
    entry = account.ensure_user(user) if user else None
    with inbox() as folder:
        for key in sorted(keys, key=lambda key: (not key.endswith(wal_archive.OWNER), key)):
            target = place / key
            make_folders(target.parent, place / "wal", entry)
            source.get(key, folder / "file")
            fresh = target.with_name(f".{target.name}.fetched")
            shutil.copyfile(folder / "file", fresh)
            fresh.chmod(0o600)
            give(fresh, entry)
            os.replace(fresh, target)
    for path in {place / key for key in keys}:
        manifest.sync_folder(path.parent)
    return len(keys)


def make_folders(folder: Path, root: Path, entry: object) -> None:
    if not folder.is_dir():
        make_folders(folder.parent, root, entry)
        folder.mkdir(mode=0o700)
        give(folder, entry)  # type: ignore[arg-type]


@contextmanager
def inbox() -> Iterator[Path]:
    """Yield an empty folder for what is on its way."""
    folder = catalogue.root() / INBOX
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    with TemporaryDirectory(dir=folder) as name:
        yield Path(name)
