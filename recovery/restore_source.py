"""Which cross-system backups JetStream's side comes from, for the moment that PostgreSQL was restored to."""

import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime

from bridge.hold import Restored
from recovery import catalogue
from recovery.cross_manifest import Stored, read_stored
from recovery.errors import Damaged
from recovery.models import Backup
from recovery.wal import open_archive

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Source:
    """Where JetStream's side comes from. `stored` None: there is no cross-system backup before the moment. `later` has
    the FLUSH streams: `stored` itself where that is of the very moment, else the next one after it, None: none."""

    stored: Stored | None
    later: Stored | None
    is_exact: bool
    moment: datetime | None


@dataclass(frozen=True)
class Choice:
    """Which backups fit a moment: `exact` is of the very one; `before` the newest first, `after` the oldest first."""

    exact: Backup | None
    before: list[Backup]
    after: list[Backup]


def choose_source(restored: Restored, backups: Sequence[Backup]) -> Choice:
    """Return which of the backups, given newest first, JetStream's side could come from."""
    details = restored.details
    exact = [backup for backup in backups if details.get("value") == f"xs_{backup.pk}"]
    lsn, timeline = details.get("lsn", 0), details.get("timeline", 1)
    before = [b for b in backups if (b.end_lsn or 0) <= lsn and leads_to(b, timeline)]
    after = [b for b in reversed(backups) if (b.end_lsn or 0) > lsn and b.timeline == timeline]
    return Choice(exact[0] if exact else None, before, after)


def find_source(restored: Restored) -> tuple[Source, list[str]]:
    """Return the backup of the very moment; else the newest before it, with FLUSH from the next after it; and what that
    costs, in words. Raises Damaged where the one of the very moment is."""
    details, choice = restored.details, choose_source(restored, finished_cross())
    told = details["value"] if details.get("kind") == "time" else details.get("last_commit_at")
    moment = datetime.fromisoformat(told) if told else None
    if choice.exact is not None:
        stored = read_stored(choice.exact, with_server=False)
        return Source(stored, stored, True, moment), []
    later = first_whole(choice.after) if moment else None
    source = Source(first_whole(choice.before), later, False, moment)
    return source, costs_of(source)


def costs_of(source: Source) -> list[str]:
    costs = []
    if source.stored is None:
        costs.append("no cross-system backup is older than the moment: event streams begin empty")
    else:
        costs.append(
            f"event streams end at {source.stored.at:%Y-%m-%d %H:%M:%S}, the newest backup before the moment"
        )
    if source.later is None:
        costs.append("no cross-system backup is later: what agents wrote and was not flushed yet is lost")
    return costs


def first_whole(backups: Iterable[Backup]) -> Stored | None:
    """Return the first that is what was written: a damaged one must not keep the others from being used."""
    for backup in backups:
        try:
            return read_stored(backup, with_server=False)
        except Damaged as error:
            log.warning("passed over: %s", error)
    return None


def finished_cross() -> list[Backup]:
    """Return the cross-system backups that can be restored from, the newest first."""
    return [
        backup
        for backup in catalogue.load_all()[0]
        if backup.kind == Backup.Kind.CROSS_SYSTEM
        and backup.status in (Backup.Status.COMPLETE, Backup.Status.VERIFIED)
        and catalogue.is_stored(backup)
    ]


def leads_to(backup: Backup, timeline: int) -> bool:
    """Tell whether the timeline goes on from the backup's moment: it is not of a branch that was left before."""
    return bool(open_archive().histories().path(backup.timeline or 1, backup.end_lsn or 0, timeline))
