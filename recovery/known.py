"""Every backup that lies here or in the store, as one catalogue."""

from collections.abc import Iterable
from dataclasses import dataclass
from uuid import UUID

from recovery import catalogue
from recovery.errors import Damaged, UnknownBackup
from recovery.fetch_plan import Plan
from recovery.models import Backup
from recovery.source import Source, open_source
from recovery.stored import Found, find_stored


@dataclass(frozen=True)
class Known:
    """Every backup that is whole here or in the store."""

    source: Source
    here: dict[UUID, Backup]
    stored: dict[UUID, Found]
    warnings: list[str]

    def newest_first(self, kinds: Iterable[str]) -> list[Backup]:
        every = {**{pk: found.backup for pk, found in self.stored.items()}, **self.here}
        fit = [backup for backup in every.values() if backup.kind in kinds]
        return sorted(fit, key=lambda backup: str(backup.pk), reverse=True)

    def chain(self, backup: Backup) -> list[Backup]:
        """Return what the backup builds on and itself, the base first. Raises Damaged where a part is nowhere."""
        chain = [backup]
        while (parent_id := chain[0].parent_id) is not None:
            found = self.stored.get(parent_id)
            parent = self.here.get(parent_id) or (found.backup if found else None)
            if parent is None:
                raise Damaged(
                    f"backup {chain[0].pk} builds on {parent_id}, which is neither here nor in the store",
                    "choose another one: `manage.py backup list`, `manage.py backup fetch --list`",
                )
            chain.insert(0, parent)
        return chain

    def plan(self, backups: Iterable[Backup]) -> Plan:
        """Return how those of the backups come here that are not."""
        wanted = [self.stored[backup.pk] for backup in backups if backup.pk not in self.here]
        return Plan(self.source, wanted, {}, list(self.warnings))


def look_around(allow_plain: bool = False) -> Known:
    """Raises Unreachable, Refused where no store is set."""
    source = open_source(allow_plain)
    stored, warnings = find_stored(source)
    here = {
        backup.pk: backup
        for backup in catalogue.load_all()[0]
        if backup.status in (Backup.Status.COMPLETE, Backup.Status.VERIFIED) and catalogue.is_stored(backup)
    }
    return Known(source, here, {found.backup.pk: found for found in stored}, warnings)


def find_known(known: Known, wanted: str, kinds: Iterable[str]) -> Backup:
    """Return the backup of this id (or its beginning), by default the newest of these kinds. Raises UnknownBackup."""
    every = known.newest_first(Backup.Kind.values if wanted else kinds)
    fit = [backup for backup in every if str(backup.pk).startswith(wanted)]
    if not fit or (wanted and len(fit) > 1):
        raise UnknownBackup(
            "; ".join([f"{wanted or 'none'}: no such backup here or in the store", *known.warnings[:3]]),
            "see `manage.py backup list`, `manage.py backup fetch --list`",
        )
    return fit[0]


def none_if_empty(plan: Plan) -> Plan | None:
    return plan if plan.is_something else None
