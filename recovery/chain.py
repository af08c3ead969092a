"""Which backups a restore of one needs, and what the next one builds on."""

from uuid import UUID

from recovery import catalogue
from recovery.catalogue import Status
from recovery.errors import Damaged, UnknownBackup
from recovery.models import Backup

Kind = Backup.Kind


def choose_parent(backup: Backup, backups: list[Backup]) -> Backup:
    """Return the newest base or incremental backup that this server's next one can build on. Raises UnknownBackup."""
    for found in backups:
        is_whole = found.status in (Status.COMPLETE, Status.VERIFIED) and catalogue.is_stored(found)
        is_physical = found.kind in (Kind.BASE, Kind.INCREMENTAL)
        if is_whole and is_physical and found.system_identifier == backup.system_identifier:
            return found
    raise UnknownBackup(
        "there is no base backup of this server to build on", "make one: `manage.py backup base`"
    )


def parent_of(backup: Backup) -> Backup:
    return catalogue.find(str(backup.parent_id))[0]


def chain_of(backup: Backup, backups: list[Backup]) -> list[Backup]:
    """Return the backups that restoring this one needs, the base first. Raises Damaged where one is gone."""
    by_id: dict[UUID, Backup] = {found.pk: found for found in backups}
    chain = [backup]
    while (parent_id := chain[0].parent_id) is not None:
        parent = by_id.get(parent_id)
        if parent is None or parent.status == Status.DAMAGED or not catalogue.is_stored(parent):
            raise Damaged(
                f"backup {backup.pk} builds on {parent_id}, which is {'damaged' if parent else 'gone'}",
                "choose another one: `manage.py backup list`",
            )
        chain.insert(0, parent)
    return chain
