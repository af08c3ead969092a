"""What a drill found, and leaves in recovery.test_results: a mark before, the verdict after."""

import json
import logging
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any
from uuid import UUID

import psycopg
from django.db import DatabaseError, InterfaceError, connection

from recovery import catalogue
from recovery.catalogue import Status
from recovery.models import Backup
from recovery.proof import Proof
from recovery.server import Session
from recovery.target import Target
from recovery.wal import lsn_text

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


def kind_of(target: Target) -> str:
    return FULL if target.kind in ("latest", "end") else PITR


def moment_of(target: Target) -> datetime | None:
    return target.moment if target.kind == "time" else None


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


def record(drill: Drill, error: str) -> None:
    """Complete the drill's row; the error goes to the backup's entry too, where that is not damaged already."""
    if error and drill.backup.status != Status.DAMAGED:
        drill.backup.error = f"could not be restored: {error}"
        catalogue.save(drill.backup)
    finish_mark(drill.test_id, error, drill)


def finish_mark(test_id: UUID | None, error: str, drill: Drill | None = None) -> None:
    """Complete the row of a drill; `drill` None: it did not come to a plan."""
    is_looked_at = drill is not None and (not error or bool(drill.problems))
    notes = f"restore drill of backup {drill.backup.pk}" if drill else "no plan"
    complete_row(
        test_id, error, is_looked_at, figures(drill), notes, drill.backup.started_at if drill else None
    )


def complete_row(
    test_id: UUID | None,
    error: str,
    is_looked_at: bool,
    figures: dict[str, Any],
    notes: str,
    began: datetime | None,
) -> None:
    """Complete the row of recovery.test_results: failed with an `error`, else passed. `is_looked_at`: data were
    compared; `began`: when the backup was begun, None keeps what the row has. Without our database the result is only
    logged."""
    try:
        with connection.cursor() as cursor:
            cursor.execute(
                "UPDATE recovery.test_results SET test_completed_at = clock_timestamp(), test_status = %s,"
                " data_verification_passed = %s, performance_metrics = %s, notes = %s, error_messages = %s,"
                " backup_timestamp = COALESCE(%s, backup_timestamp) WHERE test_id = %s",
                ["failed" if error else "passed", None if not is_looked_at else not error, json.dumps(figures), notes,
                 [error] if error else None, began, test_id],
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
