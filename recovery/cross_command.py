"""The verbs of `manage.py backup` for both systems at one moment."""

from typing import Any

from bridge.hold import read_hold
from operators.command import Answer, OperatorCommand
from recovery import catalogue
from recovery.bringing_streams import Mode
from recovery.cross import back_up_cross, plan_steps
from recovery.cross_drill import choose_cross, plan_cross
from recovery.cross_manifest import read_stored
from recovery.drill import scratch_folder
from recovery.errors import UnknownBackup
from recovery.fetch_command import ALLOW_PLAIN, bring
from recovery.models import Backup
from recovery.need import need_of_jetstream
from recovery.noting import note
from recovery.restore_jetstream import plan_jetstream, restore_jetstream, restoring_session
from recovery.restore_steps import steps_of_jetstream
from recovery.rows import row_of
from recovery.server import exclusive, home_server
from recovery.target import Target


def add_cross_verbs(command: OperatorCommand) -> None:
    parser = command.add_verb("cross", run_cross, "back up PostgreSQL and JetStream at one moment")
    parser.add_argument(
        "--copy", action="store_true", help="make a base or incremental backup first, in any case"
    )
    parser.add_argument("--dry-run", action="store_true", help="print the plan only")
    parser = command.add_verb(
        "restore-jetstream",
        run_restore_jetstream,
        "bring JetStream to the moment that PostgreSQL was restored to",
    )
    parser.add_argument("--dry-run", action="store_true", help="print the plan only")
    what = parser.add_mutually_exclusive_group()
    what.add_argument(
        "--keep", action="store_const", const="keep", dest="mode",
        help="JetStream survived: take back from it what PostgreSQL lost",
    )  # fmt: skip
    what.add_argument(
        "--replace", action="store_const", const="replace", dest="mode",
        help="JetStream survived: delete what it holds, it goes back to the same moment",
    )  # fmt: skip
    parser.add_argument("--allow-plain", action="store_true", help=ALLOW_PLAIN)
    parser.add_argument("--reason", default="by hand", help="kept in the audit")


def run_cross(copy: bool, dry_run: bool, **_: Any) -> Answer:
    if dry_run:
        return Answer(steps=plan_steps(copy))
    backup = back_up_cross(copy)
    stored = read_stored(backup)
    counts = {
        "snapshots": len(stored.snapshots),
        "messages": sum(int(snapshot.state["messages"]) for snapshot in stored.snapshots.values()),
        "waited_us": int(stored.waited_ms * 1000),
        "fenced_us": int(stored.fenced_ms * 1000),
    }
    return Answer(items=[row_of(backup) | {"restore_point": stored.point}], counts=counts)


def run_restore_jetstream(
    mode: Mode | None, dry_run: bool, allow_plain: bool, reason: str, **_: Any
) -> Answer:
    """Exit 1 when rows and keys differ afterwards: then the bridge still stands still."""
    with restoring_session() as db:
        restored = read_hold(db)
        need = need_of_jetstream(restored, allow_plain) if restored else None
        brought = Answer(steps=need.steps) if need and dry_run else bring(need, reason)
        plan = plan_jetstream(db, mode or "")
        answer = Answer(
            steps=[*(brought.steps or ()), *steps_of_jetstream(plan)],
            warnings=brought.warnings + plan.warnings,
        )
        if dry_run:
            return answer
        note("restore_jetstream", [plan.restored.reason], reason, mode=plan.mode, streams=plan.occupied)
        with exclusive(home_server()), scratch_folder() as folder:
            done = restore_jetstream(db, plan, folder)
        is_free = read_hold(db) is None
    answer.counts = {
        **brought.counts,
        "streams": len(done.streams),
        "replayed": sum(replayed.applied for replayed in done.replayed),
        "dead_letters": sum(replayed.dead for replayed in done.replayed),
        "rebuilt_keys": sum(done.rebuilt.values()),
        "outbox_rows": done.outbox_rows,
        "compared": done.compared,
        "repaired": done.repaired,
        "problems": len(done.problems),
    }
    answer.warnings += done.problems
    answer.ok = is_free and not done.problems
    return answer


def moment_of_cross(wanted: str, target: Target) -> tuple[str, Target]:
    """Return what to restore PostgreSQL from and to: of a cross-system backup's id its own moment, else as given."""
    if not wanted or wanted == catalogue.NEWEST:
        return "", target
    try:
        backup = catalogue.find(wanted)[0]
    except UnknownBackup:
        return wanted, target
    if backup.kind != Backup.Kind.CROSS_SYSTEM or target != Target():
        return wanted, target
    backup = choose_cross(str(backup.pk))
    read_stored(backup)  # both sides must be there before one of them is brought back
    return str(backup.parent_id), plan_cross(backup).target
