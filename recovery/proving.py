"""Prove a backup of any kind: a logical one by loading it, one of the server by a drill to its own end, a cross-system
one by bringing both systems back."""

from datetime import date

from django.utils import timezone

from recovery import catalogue
from recovery.cross_drill import run_cross_drill
from recovery.drill import random_moment, run_drill
from recovery.drill_results import Drill
from recovery.errors import NotReachable
from recovery.models import ArchiveState, Backup
from recovery.pitr import PHYSICAL, usable
from recovery.target import Target
from recovery.verify import Verdict, choose, verify


def prove(wanted: str = "") -> Verdict | Drill:
    """Prove the backup of this id, by default the newest finished one; keep the verdict. Raises as both do."""
    backup = choose(wanted)
    if backup.kind == Backup.Kind.CROSS_SYSTEM:
        return run_cross_drill(str(backup.pk))
    if backup.kind in PHYSICAL:
        return run_drill(str(backup.pk), Target("end"))
    return verify(str(backup.pk))


def scheduled_target(day: date) -> Target:
    """Return what the drill of `day` restores to: on even days the newest moment, on odd ones any in the window.

    Where nothing is known of the archive yet it is the newest.
    """
    state = ArchiveState.objects.exclude(last_commit_at=None).order_by("-checked_at").first()
    ended = [found.completed_at for found in usable(catalogue.load_all()[0]) if found.completed_at]
    if day.toordinal() % 2 == 0 or state is None or state.last_commit_at is None or not ended:
        return Target()
    try:
        return random_moment(min(ended), state.last_commit_at)
    except NotReachable:
        return Target()


def run_scheduled_drill() -> Drill:
    return run_drill(target=scheduled_target(timezone.now().date()))
