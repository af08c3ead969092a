"""Restore drills: prove that a backup restores, by restoring it into a server of our own, and measure RPO and RTO.

A drill to the newest moment first leaves a mark in the running database (its own row in recovery.test_results) and lets
the WAL be archived; the restored copy must have the mark. So it proves the whole way: server, archive, backup, restore.
"""

import logging
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path
from random import Random
from uuid import UUID

import psycopg
from django.conf import settings
from django.db import DatabaseError, InterfaceError
from django.utils import timezone

from pg import account
from recovery import catalogue
from recovery.archiving import give
from recovery.catalogue import Status
from recovery.contents import summarise
from recovery.drill_results import Drill, finish_mark, kind_of, leave_mark, look_for_mark, moment_of, record
from recovery.errors import Damaged, NotReachable, RecoveryError
from recovery.examining import examine
from recovery.logical import explain
from recovery.models import ArchiveState, Backup
from recovery.pitr import Recovery, plan_recovery
from recovery.recover import recovered
from recovery.server import Session, exclusive, home_server
from recovery.target import Target
from recovery.tidying import tidy
from recovery.wal import open_archive
from recovery.wal_waiting import wait_for_segment

log = logging.getLogger(__name__)


def run_drill(wanted: str = "", target: Target | None = None) -> Drill:
    """Restore the backup of this id, by default the newest that reaches the target, into a scratch server; check it,
    throw it away, keep the verdict: the chain becomes verified, or the backup damaged where its files or contents are.

    recovery.test_results gets a row. Running it again is safe: what a killed drill left is removed first. Raises Busy,
    NotReachable, UnknownBackup, UnfitTools, RestoreFailed, NoSpace: then the backup's status stays, its error says why.
    """
    target = target or Target()
    server = home_server()
    with exclusive(server) as session, scratch_folder() as folder:
        tidy()
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
