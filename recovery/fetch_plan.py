"""Plan what to bring back from the store: a backup, all that it builds on, the WAL since. Needs no database."""

import json
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

from pg.errors import Refused
from recovery import catalogue, wal_archive
from recovery.errors import Damaged, UnknownBackup
from recovery.models import Backup
from recovery.source import Source, inbox, open_source
from recovery.stored import Found, find_stored
from recovery.wal import Segment, open_archive

MARGIN_BYTES = 64 << 20


@dataclass
class Plan:
    """What is to be fetched: backups that are not here whole, the base first; WAL from `since` on, by key and size."""

    source: Source
    wanted: list[Found] = field(default_factory=list)
    wal: dict[str, int] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)

    @property
    def is_something(self) -> bool:
        return bool(self.wanted or self.wal)

    @property
    def size_bytes(self) -> int:
        """How much is fetched."""
        return sum(found.size_bytes for found in self.wanted) + sum(self.wal.values())

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
    plan = Plan(source, [found for found in chain if not catalogue.is_stored(found.backup)], {}, warnings)
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


# -- WAL ----------------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Owner:
    """Whose WAL the store has."""

    system_identifier: str
    segment_bytes: int


def missing_wal(source: Source, since_lsn: int, until_lsn: int | None = None) -> dict[str, int]:
    """Return the keys of the WAL files that are not here, from a position on, with their sizes; `until_lsn` None: to
    the end. Histories of timelines are always among them. Lists all WAL."""
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
    last = None if until_lsn is None else until_lsn // owner.segment_bytes
    return {key: size for key, size in absent.items() if is_wanted(key, first, last, owner.segment_bytes)}


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


def is_wanted(key: str, first: int, last: int | None, segment_bytes: int) -> bool:
    name = Path(key).name.removesuffix(".gz")
    if not wal_archive.NAMES.fullmatch(name):
        return name == wal_archive.OWNER
    if name.endswith(".history"):
        return True
    number = Segment.parse(name[:24], segment_bytes).number
    return number >= first and (last is None or number <= last)


def is_segment(key: str) -> bool:
    return bool(wal_archive.SEGMENT.fullmatch(Path(key).name.removesuffix(".gz")))
