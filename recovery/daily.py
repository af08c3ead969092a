"""The daily and weekly modes of the guide's script, in the order that cannot lose anything: back up, verify, prune."""

import logging
from collections.abc import Callable
from dataclasses import dataclass, field

from django.conf import settings
from django.utils import timezone

from pg.errors import Refused
from recovery.drill import run_drill
from recovery.drill_results import Drill
from recovery.errors import ToolFailed
from recovery.logical import back_up
from recovery.models import Backup
from recovery.physical import back_up_server, may_copy
from recovery.prune import prune
from recovery.retention import Step
from recovery.verify import Verdict, verify

log = logging.getLogger(__name__)


@dataclass
class Day:
    """What one run did. `server` None: no base backups, see `warnings`. `drill` None: none was due, or there was
    nothing to restore. `steps` is empty when something is damaged: then nothing is pruned."""

    backup: Backup
    verdict: Verdict
    server: Backup | None = None
    drill: Drill | None = None
    steps: list[Step] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

    @property
    def problems(self) -> list[str]:
        return self.verdict.problems + (self.drill.problems if self.drill else [])


def run_daily() -> Day:
    """Back up the database and what changed of the server, verify, prune. A failed backup raises and nothing is
    pruned; one that turns out damaged is kept as evidence and nothing is pruned. Safe twice a day: then there are two
    backups."""
    return run_schedule(back_up_changes, with_drill=False)


def run_weekly() -> Day:
    """The same with a base backup, and with a restore drill of it to the newest moment."""
    return run_schedule(back_up_server, with_drill=True)


def run_schedule(copy: Callable[[], Backup], with_drill: bool) -> Day:
    backup = back_up()
    server, warnings = copy_server(copy)
    day = Day(backup, verify(str(backup.pk)), server, warnings=warnings)
    day.backup = day.verdict.backup
    if server is not None and with_drill:
        day.drill = run_drill()
    if not day.problems:
        try:
            day.steps = prune(timezone.now())
        except Refused as refused:
            log.error("nothing is pruned: %s", refused)
            day.warnings.append(f"nothing is pruned: {refused} (HINT: {refused.hint})")
    return day


def copy_server(copy: Callable[[], Backup]) -> tuple[Backup | None, list[str]]:
    """Make the base or incremental backup where the server lets us; return it, or a warning that says why not."""
    if not settings.BACKUP_SERVER:
        return None, []
    if why := may_copy():
        log.warning("no base backup: %s", why)
        return None, [f"no base backup: {why}"]
    return copy(), []


def back_up_changes() -> Backup:
    """Make an incremental backup; a base backup where that is refused (an older server, nothing to build on)."""
    try:
        return back_up_server(incremental=True)
    except (Refused, ToolFailed) as error:
        log.warning("a base backup instead of an incremental one: %s", error)
        return back_up_server()
