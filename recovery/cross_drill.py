"""Drill a cross-system backup: both systems restored beside the running ones, brought in step, compared, thrown away.

PostgreSQL goes into a scratch server, JetStream into a throw-away one; then the bridge's own code does what it would do
on the bad day: the relay brings what the outbox holds, reconcile compares every row with its key.
"""

import logging
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from django.db.backends.base.base import BaseDatabaseWrapper

from bridge.reconcile import reconcile
from bridge.relay import Memory, relay_batch
from recovery.cluster import Cluster
from recovery.contents import summarise
from recovery.cross import point_of
from recovery.cross_manifest import read_stored
from recovery.drill import scratch_folder, settle
from recovery.drill_results import Drill, finish_mark, leave_mark, record
from recovery.errors import Damaged, UnknownBackup
from recovery.examining import examine
from recovery.logical import explain
from recovery.models import Backup, TestResult
from recovery.pitr import Recovery, plan_recovery
from recovery.recover import hold_bridge, recovered
from recovery.restore_jetstream import Done, plan_jetstream, restore_jetstream, restoring_session
from recovery.restore_source import finished_cross
from recovery.server import exclusive, home_server
from recovery.target import Target
from recovery.throwaway import throwaway_nats
from recovery.tidying import tidy

log = logging.getLogger(__name__)
KIND = TestResult.Kind.CROSS_SYSTEM


@dataclass
class CrossDrill(Drill):
    """What a drill found."""

    jetstream: Done = field(default_factory=Done)

    @property
    def kind(self) -> str:
        return str(KIND)

    def more(self) -> dict[str, Any]:
        return {
            "streams": len(self.jetstream.streams),
            "replayed": sum(replayed.applied for replayed in self.jetstream.replayed),
            "rebuilt_keys": sum(self.jetstream.rebuilt.values()),
            "outbox_rows": self.jetstream.outbox_rows,
            "compared_keys": self.jetstream.compared,
            "repaired_keys": self.jetstream.repaired,
        }


def run_cross_drill(wanted: str = "") -> CrossDrill:
    """Restore the cross-system backup of this id (or its beginning), by default the newest, beside the running systems;
    keep the verdict: it and its chain become verified, or it damaged.

    recovery.test_results gets a row. Safe twice and when killed, as every drill. Raises Busy, UnknownBackup,
    NotReachable, RestoreFailed, NoSpace, SnapshotFailed: then the backup's status stays, its error says why.
    """
    server = home_server()
    with exclusive(server), scratch_folder() as folder:
        tidy()
        test_id = leave_mark(str(KIND), None)
        try:
            backup = choose_cross(wanted)
            plan = plan_cross(backup)
        except Exception as error:
            finish_mark(test_id, explain(error))
            raise
        drill = CrossDrill(backup, plan.target, test_id=test_id)
        try:
            carry_out(drill, plan, folder, server.database)
        except Damaged as error:
            drill.problems = [explain(error)]
        except BaseException as error:
            record(drill, explain(error))
            raise
        settle(drill, [*plan.chain, backup])
        record(drill, summarise(drill.problems))
    return drill


def choose_cross(wanted: str = "") -> Backup:
    """Return the finished cross-system backup of this id, by default the newest. Raises UnknownBackup."""
    found = [backup for backup in finished_cross() if str(backup.pk).startswith(wanted)]
    if not found or (wanted and len(found) > 1):
        raise UnknownBackup(
            f"{wanted or 'none'}: no finished cross-system backup", "make one: `manage.py backup cross`"
        )
    return found[0]


def plan_cross(backup: Backup) -> Recovery:
    """Return how PostgreSQL gets to the backup's moment. Raises NotReachable, UnfitTools, Damaged."""
    return plan_recovery(Target("name", point_of(backup)), str(backup.parent_id))


def carry_out(drill: CrossDrill, plan: Recovery, folder: Path, database: str) -> None:
    read_stored(drill.backup)  # damage is found before hours are spent
    with recovered(plan, folder / "data", sync=False) as (cluster, drill.proof):
        drill.proof.time("checks", lambda: examine(cluster, database, drill.proof))
        hold_bridge(plan, cluster, drill.proof)
        with throwaway_nats(folder), restoring_session(place_of(cluster, database)) as db:
            began = time.monotonic()
            drill.jetstream = restore_jetstream(db, plan_jetstream(db), folder)
            drill.proof.seconds["jetstream"] = round(time.monotonic() - began, 3)
            drill.problems = drill.proof.problems + drill.jetstream.problems + come_to_rest(db)
            if drill.jetstream.lost:
                drill.problems.append(
                    f"{drill.jetstream.lost} keys were missing or old in the restored JetStream"
                )


def place_of(cluster: Cluster, database: str) -> dict[str, Any]:
    """Return Django's settings for the scratch server."""
    given = cluster.server.parameters
    return {
        "HOST": given["host"], "PORT": given["port"], "USER": given["user"], "PASSWORD": "", "NAME": database,
        "OPTIONS": {},
    }  # fmt: skip


def come_to_rest(db: BaseDatabaseWrapper) -> list[str]:
    """Let the relay bring all that waits, then compare; return what is wrong."""
    memory = Memory()
    while (batch := relay_batch(db, memory)).read and not batch.is_stuck:
        pass
    problems = [f"the outbox does not empty: {batch.trouble}"] if batch.read else []
    for report in reconcile(db, repair=False):
        if report.wrong:
            problems.append(f"{report.bucket}: {report.wrong} keys differ: {', '.join(report.named[:3])}")
    return problems
