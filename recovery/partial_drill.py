"""Drill a partial restore: one table of the newest logical backup, into staging tables, held against the manifest."""

import random
import time
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

from recovery import catalogue, manifest
from recovery.contents import Contents
from recovery.drill_results import complete_row, leave_mark
from recovery.errors import UnknownBackup
from recovery.logical import explain
from recovery.models import Backup, TestResult
from recovery.partial import Difference, compare_staged
from recovery.scope import RESTORABLE, Scope
from recovery.staging import home_session, stage, unstage
from recovery.verify import choose

KIND = TestResult.Kind.PARTIAL_RESTORE


@dataclass
class PartialDrill:
    """What a drill found; no problems: all rows came back. `rto_seconds` until they could be seen."""

    backup: Backup
    scope: Scope
    rows: int = 0
    rto_seconds: float = 0.0
    differences: list[Difference] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)


def run_partial_drill(wanted: str = "", table: str = "") -> PartialDrill:
    """Stage a table (by default any that has rows) of the logical backup of this id, by default the newest finished
    one, compare it with what the manifest says and with today, and put it away.

    recovery.test_results gets a row. Safe twice and when killed. Raises Busy, UnknownBackup, and what staging raises.
    """
    test_id = leave_mark(str(KIND), None)
    drill: PartialDrill | None = None
    try:
        backup = choose(wanted, (Backup.Kind.LOGICAL,))
        counts = wanted_rows(backup)
        name = table or random.choice(sorted(counts))  # noqa: S311 (no secret)
        drill = PartialDrill(backup, Scope("table", name))
        carry_out(drill, counts.get(name, 0))
    except BaseException as error:
        finish(test_id, drill, explain(error))
        raise
    finish(test_id, drill, "; ".join(drill.problems))
    return drill


def wanted_rows(backup: Backup) -> dict[str, int]:
    """Return the tables of the domains that have rows in the backup, with how many. Raises UnknownBackup, Damaged."""
    contents = Contents.from_json(manifest.read_manifest(catalogue.folder_of(backup))["contents"])
    found = {
        name: rows for name, rows in contents.row_counts.items() if rows and name.split(".")[0] in RESTORABLE
    }
    if not found:
        raise UnknownBackup(
            f"backup {backup.pk} has no rows in any table of the domains", "choose another one"
        )
    return found


def carry_out(drill: PartialDrill, wanted: int) -> None:
    began = time.monotonic()
    staged = stage(drill.scope, str(drill.backup.pk))
    with home_session() as session:
        try:
            drill.differences = compare_staged(session, staged)
            drill.rto_seconds = round(time.monotonic() - began, 3)
        finally:
            unstage(session, staged)
    drill.rows = sum(difference.staged for difference in drill.differences)
    if drill.rows != wanted:
        drill.problems.append(f"{drill.scope} came back with {drill.rows} rows, the backup has {wanted}")


def finish(test_id: UUID | None, drill: PartialDrill | None, error: str) -> None:
    """Complete the drill's row; `drill` None: nothing to restore was found."""
    notes = f"partial restore: {drill.scope}" if drill else "nothing to restore"
    is_looked_at = drill is not None and bool(drill.differences)
    complete_row(
        test_id, error, is_looked_at, figures(drill), notes, drill.backup.started_at if drill else None
    )


def figures(drill: PartialDrill | None) -> dict[str, Any]:
    if drill is None:
        return {}
    return {
        "rto_seconds": drill.rto_seconds, "rows": drill.rows, "scope": str(drill.scope),
        "backup_id": str(drill.backup.pk),
    }  # fmt: skip
