"""Bring backups and WAL back from the store, for the day when the backup folder is gone. Needs no database.

Every object's SHA-256 is compared on its way, every file with the backup's manifest, before the folder gets its name:
what was fetched restores as if it had never been away.
"""

import logging
import os
import shutil
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path

from django.conf import settings

from pg import account
from pg.errors import Unreachable
from recovery import catalogue, manifest, packing, wal_archive
from recovery.archiving import give, prepare_archive
from recovery.contents import summarise
from recovery.errors import Damaged, NoSpace
from recovery.fetch_plan import Plan
from recovery.logical import publish
from recovery.models import Backup
from recovery.server import exclusive, home_server
from recovery.source import Source, inbox
from recovery.stored import Found

log = logging.getLogger(__name__)


@dataclass
class Fetched:
    """What one run brought: `backups` whole, `wal` files."""

    backups: list[Backup] = field(default_factory=list)
    wal: int = 0
    warnings: list[str] = field(default_factory=list)


def fetch(plan: Plan) -> Fetched:
    """Do what the plan says. Safe twice and when killed: what is whole here is not fetched again. Raises NoSpace, Busy
    while a backup, verification, pruning or another fetch is running."""
    catalogue.make_folders()
    with ExitStack() as stack:
        with suppress(Unreachable):  # without a server nobody else is at work either
            stack.enter_context(exclusive(home_server()))
        return fetch_all(plan)


def fetch_all(plan: Plan) -> Fetched:
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
