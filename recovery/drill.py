"""Restore drills: prove that a backup restores, by restoring it into a server of our own, and measure RPO and RTO.

A drill to the newest moment first leaves a mark in the running database (its own row in recovery.test_results) and lets
the WAL be archived; the restored copy must have the mark. So it proves the whole way: server, archive, backup, restore.
"""

import json
import logging
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from random import Random
from typing import Any
from uuid import UUID

import psycopg
from django.conf import settings
from django.db import DatabaseError, InterfaceError, connection
from django.utils import timezone

from pg import account
from recovery import catalogue
from recovery.archiving import give
from recovery.catalogue import Status
from recovery.contents import summarise
from recovery.errors import Damaged, NotReachable, RecoveryError
from recovery.logical import explain
from recovery.models import ArchiveState, Backup
from recovery.physical import wait_for_segment
from recovery.pitr import Recovery, Target, plan_recovery
from recovery.recover import Proof, examine, recovered
from recovery.server import Session, exclusive, home_server
from recovery.wal import lsn_text, open_archive

log = logging.getLogger(__name__)
FULL, PITR = "full_restore", "pitr"


@dataclass
class Drill:
    """What a drill found; no problems: the backup is proven. `rpo_seconds` is how much would have been lost had the
    server died when the drill began; None where nothing is archived."""

    backup: Backup
    target: Target
    proof: Proof = field(default_factory=Proof)
    problems: list[str] = field(default_factory=list)
    rpo_seconds: float | None = None
    test_id: UUID | None = None

    @property
    def kind(self) -> str:
        return kind_of(self.target)

    def more(self) -> dict[str, Any]:
        """Return figures of this kind of drill alone."""
        return {}


def run_drill(wanted: str = "", target: Target | None = None) -> Drill:
    """Restore the backup of this id, by default the newest that reaches the target, into a scratch server; check it,
    throw it away, keep the verdict: the chain becomes verified, or the backup damaged where its files or contents are.

    recovery.test_results gets a row. Running it again is safe: what a killed drill left is removed first. Raises Busy,
    NotReachable, UnknownBackup, UnfitTools, RestoreFailed, NoSpace: then the backup's status stays, its error says why.
    """
    target = target or Target()
    server = home_server()
    with exclusive(server) as session, scratch_folder() as folder:
        catalogue.tidy()
        rpo, test_id = measure_rpo(), leave_mark(kind_of(target), moment_of(target))
        if target.kind == "latest":
            archive_everything(session)
        plan = planned(target, wanted, test_id)
        drill = Drill(plan.backup, target, rpo_seconds=rpo, test_id=test_id)
        try:
            carry_out(drill, plan, folder, server.database)
        except Damaged as error:
            drill.problems = [explain(error)]
        except BaseException as error:
            record(drill, explain(error))
            raise
        settle(drill, plan.chain)
        record(drill, summarise(drill.problems))
    return drill


def kind_of(target: Target) -> str:
    return FULL if target.kind in ("latest", "end") else PITR


def moment_of(target: Target) -> datetime | None:
    return target.moment if target.kind == "time" else None


def planned(target: Target, wanted: str, test_id: UUID | None) -> Recovery:
    try:
        return plan_recovery(target, wanted)
    except RecoveryError as error:
        finish_mark(test_id, explain(error))
        raise


def carry_out(drill: Drill, plan: Recovery, folder: Path, database: str) -> None:
    with recovered(plan, folder / "data", sync=False) as (cluster, drill.proof):
        drill.proof.time("checks", lambda: examine(cluster, database, drill.proof))
        drill.problems = list(drill.proof.problems)
        if drill.target.kind == "latest" and drill.test_id is not None and plan.segments:
            with cluster.server.connect(database) as session:
                drill.problems += look_for_mark(session, drill.test_id)


# -- the mark -----------------------------------------------------------------------------------------------
def leave_mark(kind: str, moment: datetime | None) -> UUID | None:
    """Add the drill's row, running; `moment` None: not to a time. None where our database is not there to write to."""
    try:
        with connection.cursor() as cursor:
            cursor.execute(
                "SELECT recovery.record_test_result(%s, now(), %s, 'running')",
                [kind, moment],
            )
            return UUID(str(cursor.fetchone()[0]))
    except (DatabaseError, InterfaceError) as error:
        log.warning("the drill leaves no mark in the database: %s", str(error).strip())
        return None


def look_for_mark(session: Session, test_id: UUID) -> list[str]:
    try:
        row = session.execute("SELECT FROM recovery.test_results WHERE test_id = %s", [test_id]).fetchone()
    except (psycopg.errors.UndefinedTable, psycopg.errors.InvalidSchemaName):
        row = None
    return [] if row is not None else ["what was committed just before the drill is not in the restored copy"]


def archive_everything(session: Session) -> None:
    """Finish the WAL segment that holds the mark and wait until it is archived. Without the privilege, or an archive,
    the drill takes what is there."""
    archive = open_archive()
    if not archive.segment_bytes:
        return
    try:
        name = session.execute("SELECT pg_walfile_name(pg_current_wal_insert_lsn())").fetchone()[0]  # type: ignore[index]
        session.execute("SELECT pg_switch_wal()")
    except psycopg.errors.InsufficientPrivilege:
        log.warning("we may not call pg_switch_wal: the drill goes as far as the archive does")
        return
    wait_for_segment(archive, name)


def measure_rpo() -> float | None:
    """Return how old the newest commit is that the archive had when it was last looked at."""
    with suppress(DatabaseError, InterfaceError):
        state = ArchiveState.objects.exclude(last_commit_at=None).order_by("-checked_at").first()
        if state is not None and state.last_commit_at is not None:
            return round((timezone.now() - state.last_commit_at).total_seconds(), 3)
    return None


# -- the verdict --------------------------------------------------------------------------------------------
def settle(drill: Drill, chain: Iterable[Backup]) -> None:
    """Write the verdict into the catalogue: a restore proves every backup of its chain."""
    if drill.problems:
        backup = drill.backup
        backup.status, backup.error = Status.DAMAGED, summarise(drill.problems)
        log.error("%s: %s", backup, backup.error)
        catalogue.save(backup)
        return
    for backup in chain:
        backup.status, backup.error = Status.VERIFIED, None
        backup.verified_at = max(timezone.now(), backup.completed_at or backup.started_at)
        backup.row_counts = drill.proof.row_counts
        catalogue.save(backup)


def record(drill: Drill, error: str) -> None:
    """Complete the drill's row; the error goes to the backup's entry too, where that is not damaged already."""
    if error and drill.backup.status != Status.DAMAGED:
        drill.backup.error = f"could not be restored: {error}"
        catalogue.save(drill.backup)
    finish_mark(drill.test_id, error, drill)


def finish_mark(test_id: UUID | None, error: str, drill: Drill | None = None) -> None:
    """Complete the row of recovery.test_results. Without our database the result is only logged."""
    is_looked_at = drill is not None and (not error or bool(drill.problems))
    try:
        with connection.cursor() as cursor:
            cursor.execute(
                "UPDATE recovery.test_results SET test_completed_at = clock_timestamp(), test_status = %s,"
                " data_verification_passed = %s, performance_metrics = %s, notes = %s, error_messages = %s,"
                " backup_timestamp = COALESCE(%s, backup_timestamp) WHERE test_id = %s",
                ["failed" if error else "passed", None if not is_looked_at else not error,
                 json.dumps(figures(drill)), f"restore drill of backup {drill.backup.pk}" if drill else "no plan",
                 [error] if error else None, drill.backup.started_at if drill else None, test_id],
            )  # fmt: skip
    except (DatabaseError, InterfaceError) as failed:
        log.warning("the drill's result is not recorded: %s", str(failed).strip())


def figures(drill: Drill | None) -> dict[str, Any]:
    if drill is None:
        return {}
    proof = drill.proof
    return {
        **{f"{step}_seconds": seconds for step, seconds in proof.seconds.items()},
        "rto_seconds": proof.rto_seconds, "rpo_seconds": drill.rpo_seconds, "backup_id": str(drill.backup.pk),
        "target": str(drill.target), "reached_lsn": lsn_text(proof.reached_lsn), "why": proof.why,
        "tables": len(proof.row_counts), "rows": sum(proof.row_counts.values()), "bytes": drill.backup.database_bytes,
        **drill.more(),
    }  # fmt: skip


# -- the place ----------------------------------------------------------------------------------------------
@contextmanager
def scratch_folder() -> Iterator[Path]:
    """Yield an empty folder that the server's user may enter, and remove it at the end. Hold the recovery lock: what is
    in it is a killed drill's, whose server has ended with it."""
    user = account.server_user()
    entry = account.ensure_user(user) if user else None
    catalogue.make_folders()
    root = Path(settings.BACKUP_DIR)
    if entry is not None and not account.can_execute(entry, root):
        root = account.shelter(root)
    folder = root / "scratch"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(mode=0o700)
    give(folder, entry)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def random_moment(backup_ended_at: datetime, newest: datetime, seed: int | None = None) -> Target:
    """Return a target time somewhere in the recoverable window. Raises NotReachable when there is none."""
    span = (newest - backup_ended_at).total_seconds()
    if span <= 0:
        raise NotReachable(
            "the recoverable window is empty: nothing was committed since the last base backup"
        )
    moment = backup_ended_at + (newest - backup_ended_at) * Random(seed).random()  # noqa: S311 (no secret)
    return Target("time", moment.isoformat())
