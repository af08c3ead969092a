"""What a restore needs and only the store has: named with its bytes and the room it takes, fetched before it begins.

A restore is planned from what lies here. Where that does not reach its target the store is asked, and what is missing
is fetched first: backups of the chain, WAL, cross-system backups. What cannot be known before the WAL is here (the time
of its newest commit) is checked after that, by the same plan as always.
"""

import logging
from contextlib import suppress

from django.conf import settings
from django.db import DatabaseError, InterfaceError
from django.utils import timezone

from bridge.hold import Restored
from pg.errors import MisterSmithError, Unreachable
from recovery import catalogue
from recovery.errors import Damaged, NoKey, NotReachable, UnknownBackup
from recovery.fetch_plan import Plan, is_segment, missing_wal
from recovery.known import Known, find_known, look_around, none_if_empty
from recovery.models import Backup, RestorePoint
from recovery.pitr import PHYSICAL, Recovery, exact_tools, plan_recovery
from recovery.reaching import look_for
from recovery.restore_source import choose_source, finished_cross
from recovery.source import open_source
from recovery.target import Target
from recovery.wal import open_archive, parse_lsn

log = logging.getLogger(__name__)
SOUGHT = ("name", "xid")  # no backup and no clock says where they lie


# -- one backup ---------------------------------------------------------------------------------------------
def need_of_backup(wanted: str, kind: str, allow_plain: bool = False) -> Plan | None:
    """Return how the backup comes here, by default the newest of this kind; None: it is here, or there is no store and
    the restore itself says what is missing. Raises UnknownBackup, Unreachable."""
    try:
        if catalogue.is_stored(catalogue.find(wanted or catalogue.NEWEST, (kind,))[0]):
            return None
    except UnknownBackup:
        pass
    if not settings.BACKUP_STORE_URL:
        return None
    known = look_around(allow_plain)
    chosen = find_known(known, "" if wanted == catalogue.NEWEST else wanted, (kind,))
    return none_if_empty(known.plan([chosen]))


# -- the server ---------------------------------------------------------------------------------------------
def need_of_server(target: Target, wanted: str = "", allow_plain: bool = False) -> Plan | None:
    """Return what must be fetched before the server can be restored to `target`, from `wanted` where that is given;
    None: all is here. To the newest moment the store is asked for newer WAL in any case; that it does not answer is a
    warning then, in a plan that fetches nothing.

    Raises what plan_recovery does where the store cannot help, Unreachable.
    """
    try:
        found = plan_recovery(target, wanted)
    except (NotReachable, UnknownBackup, Damaged):
        if not settings.BACKUP_STORE_URL:
            raise
        plan = plan_from_store(look_around(allow_plain), target, wanted)
        if none_if_empty(plan) is None:
            raise
        return plan
    is_asked = target.kind == "latest" and settings.BACKUP_STORE_URL
    return newer_wal(found, allow_plain) if is_asked else None


def plan_from_store(known: Known, target: Target, wanted: str) -> Plan:
    """Return what brings the target within reach, as far as can be known before its WAL is here. Where a name or
    transaction lies, WAL alone may tell: then more of that is all that the plan has, see `plan_search`."""
    if target.kind == "time" and target.moment > timezone.now():
        raise NotReachable("the target is in the future", "write a moment that has passed")
    if target.kind == "xid" and not target.value.isdigit():
        raise NotReachable(
            f"{target.value}: not a transaction id", "write what pg_current_xact_id() returned"
        )
    lsn = position_of(known, target)
    if lsn is None and target.kind in SOUGHT and not wanted and known.newest_first(PHYSICAL):
        return plan_search(known, target)
    chosen = find_known(known, wanted, PHYSICAL) if wanted else newest_before(known, target, lsn)
    exact_tools(chosen)  # else all would be fetched for nothing
    chain = known.chain(chosen)
    plan = known.plan(chain)
    since = min(part.start_lsn or 0 for part in chain)
    end = chosen.end_lsn if target.kind == "end" else lsn
    if not (chosen.has_wal and target.kind == "end"):
        plan.wal = missing_wal(known.source, since, end)
    return plan


def plan_search(known: Known, target: Target) -> Plan:
    """Return how the WAL since the newest backup comes here, or since the next older one where that is here: the target
    may be in it, so ask again then. Raises NotReachable where all of it is here."""
    plan = known.plan(())
    for backup in known.newest_first(PHYSICAL):
        wal = missing_wal(known.source, backup.start_lsn or 0)
        if any(map(is_segment, wal)):
            plan.wal = wal
            return plan
    raise NotReachable(
        f"{target} is in no WAL here or in the store",
        "see `manage.py backup wal --all`; or give --time or --lsn",
    )


def newest_before(known: Known, target: Target, lsn: int | None) -> Backup:
    """Return the newest physical backup that ended before the target."""
    for backup in known.newest_first(PHYSICAL):
        is_late = target.kind == "time" and (
            backup.completed_at is None or backup.completed_at > target.moment
        )
        if not is_late and not (lsn is not None and (backup.end_lsn or 0) > lsn):
            return backup
    raise UnknownBackup(
        "; ".join([f"no base backup here or in the store ended before {target}", *known.warnings[:3]]),
        "see `manage.py backup list`, `manage.py backup fetch --list`",
    )


def position_of(known: Known, target: Target) -> int | None:
    """Return where in WAL the target lies, None where only WAL that is not here tells."""
    if target.kind == "lsn":
        try:
            return parse_lsn(target.value)
        except ValueError as error:
            raise NotReachable(f"{target.value}: not a position in WAL", "write 0/3000028") from error
    if target.kind not in SOUGHT:
        return None
    for backup in known.newest_first([Backup.Kind.CROSS_SYSTEM]):
        if target == Target("name", f"xs_{backup.pk}", target.timeline):
            return backup.end_lsn
    if target.kind == "name":
        with suppress(DatabaseError, InterfaceError):
            if row := RestorePoint.objects.filter(name=target.value).first():
                return row.lsn
    newest = known.newest_first(PHYSICAL)
    return look_for(target, open_archive(), exact_tools(newest[0])) if newest else None


def newer_wal(found: Recovery, allow_plain: bool) -> Plan | None:
    """Return what the store has beyond the WAL that is here: the backup folder may be an old copy."""
    source = open_source(allow_plain)
    try:
        wal = missing_wal(source, found.stop_lsn or found.backup.end_lsn or 0)
    except MisterSmithError as error:
        return Plan(source, warnings=[f"the store was not asked for newer WAL: {error}"])
    return Plan(source, wal=wal) if any(map(is_segment, wal)) else None


# -- both systems -------------------------------------------------------------------------------------------
def need_of_cross(wanted: str, allow_plain: bool = False) -> Plan | None:
    """Return how a cross-system backup, its chain and WAL come here; None where `wanted` is none, or all of it is here.
    Raises UnknownBackup, Unreachable, Damaged."""
    if not settings.BACKUP_STORE_URL or not wanted or wanted == catalogue.NEWEST:
        return None
    try:
        backup = catalogue.find(wanted)[0]
        if backup.kind != Backup.Kind.CROSS_SYSTEM or catalogue.is_stored(backup):
            return None
    except UnknownBackup:
        pass
    known = look_around(allow_plain)
    backup = find_known(known, wanted, ())
    if backup.kind != Backup.Kind.CROSS_SYSTEM:
        return None
    chain = known.chain(backup)
    plan = known.plan(chain)
    plan.wal = missing_wal(known.source, min(part.start_lsn or 0 for part in chain), backup.end_lsn)
    return none_if_empty(plan)


def need_of_jetstream(restored: Restored, allow_plain: bool = False) -> Plan | None:
    """Return how the cross-system backups come here that JetStream's side is made from; None: they are here.

    Without the store's answer what is here has to do, but never in place of the backup of the very moment. Raises
    Unreachable then.
    """
    here = finished_cross()
    exact = restored.details.get("value", "")
    if not settings.BACKUP_STORE_URL or any(exact == f"xs_{backup.pk}" for backup in here):
        return None
    try:
        known = look_around(allow_plain)
    except (Unreachable, NoKey) as error:
        if str(exact).startswith("xs_"):
            raise
        log.warning("the store was not asked for cross-system backups: %s", error)
        return None
    choice = choose_source(restored, known.newest_first([Backup.Kind.CROSS_SYSTEM]))
    chosen = [choice.exact] if choice.exact else [*choice.before[:1], *choice.after[:1]]
    return none_if_empty(known.plan(chosen))
