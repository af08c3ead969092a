"""The verb `manage.py backup restore`: a database, or the server to a moment; what only the store has is fetched."""

import shutil
from pathlib import Path
from typing import Any

from operators.command import Answer, OperatorCommand
from pg.errors import Refused
from recovery import catalogue
from recovery.cross_command import moment_of_cross
from recovery.errors import NoSpace
from recovery.fetch_command import ALLOW_PLAIN, bring, bring_all
from recovery.fetch_plan import Plan
from recovery.models import Backup
from recovery.need import need_of_backup, need_of_cross, need_of_server
from recovery.noting import note
from recovery.pitr import plan_recovery, room_of, steps_of
from recovery.proof import Proof
from recovery.recover import recover, require_free
from recovery.restore import plan_restore, restore
from recovery.target import Target
from recovery.wal import lsn_text

TARGETS = ("time", "lsn", "name", "xid")


def add_restore_verb(command: OperatorCommand) -> None:
    parser = command.add_verb("restore", run_restore, "restore a database, or the whole server to a moment")
    usual = "the newest verified one, or one that fits the target"
    parser.add_argument("backup_id", nargs="?", default="", help=f"or its beginning (default: {usual})")
    parser.add_argument("--dry-run", action="store_true", help="print the plan only")
    place = parser.add_mutually_exclusive_group(required=True)
    place.add_argument(
        "--target-database", metavar="NAME", help="a logical backup, into a new or empty database"
    )
    place.add_argument(
        "--target-directory", metavar="DIR", type=Path, help="the server, into a new data directory"
    )
    add_target(parser)
    parser.add_argument("--replace", action="store_true",
                        help="move a data directory that no server runs on aside, instead of refusing")  # fmt: skip
    parser.add_argument("--allow-plain", action="store_true", help=ALLOW_PLAIN)
    add_reason(parser)


def add_reason(parser: Any) -> None:
    parser.add_argument("--reason", default="by hand", help="kept in the audit")


def add_target(parser: Any) -> None:
    target = parser.add_mutually_exclusive_group()
    target.add_argument("--time", help="2026-11-23T10:30:00+00:00")
    target.add_argument("--lsn", help="0/3000028")
    target.add_argument("--name", help="a restore point: pg_create_restore_point")
    target.add_argument("--xid", help="a transaction, inclusive")
    target.add_argument(
        "--end", action="store_true", help="the backup's own end (default: the newest moment)"
    )
    parser.add_argument("--timeline", type=int, help="(default: the newest that goes on from the backup)")


def target_of(options: dict[str, Any]) -> Target:
    for kind in TARGETS:
        if options.get(kind):
            return Target(kind, options[kind], options["timeline"])  # type: ignore[arg-type]
    return Target("end" if options.get("end") else "latest", timeline=options["timeline"])


def run_restore(
    backup_id: str, target_database: str | None, target_directory: Path | None, dry_run: bool, **options: Any
) -> Answer:
    if target_directory is not None:
        return restore_server(backup_id, target_directory.absolute(), dry_run, options)
    if options["replace"] or target_of(options) != Target():
        raise Refused("a logical backup has one moment only, and never replaces anything",
                      "a moment needs --target-directory; leave --replace out")  # fmt: skip
    return restore_database(backup_id, str(target_database), dry_run, options)


# -- a database ---------------------------------------------------------------------------------------------
def restore_database(wanted: str, name: str, dry_run: bool, options: dict[str, Any]) -> Answer:
    need = need_of_backup(wanted, Backup.Kind.LOGICAL, options["allow_plain"])
    if need is not None and dry_run:
        return answer_of_need(need, ("load", f"database {name}", "checked and planned again when it is here"))
    answer = bring(need, options["reason"])
    plan = plan_restore(str(need.wanted[-1].backup.pk) if need else wanted or catalogue.NEWEST, name)
    if not dry_run:
        note("restore", [plan.backup.pk], options["reason"], database=plan.target)
    problems = [] if dry_run else restore(plan)
    return Answer(
        steps=[*(answer.steps or ()), *plan.steps],
        counts={**answer.counts, "problems": len(problems)},
        warnings=answer.warnings + plan.warnings + problems,
        ok=not problems,
    )


# -- the server ---------------------------------------------------------------------------------------------
def restore_server(backup_id: str, directory: Path, dry_run: bool, options: dict[str, Any]) -> Answer:
    """Fetch what the store alone has, a cross-system backup first: only that says which moment is its own."""
    target, plain = target_of(options), options["allow_plain"]
    if not dry_run:
        require_free(directory, options["replace"])  # before hours of fetching
    cross = need_of_cross(backup_id, plain) if target == Target() else None
    if cross is not None and dry_run:
        return answer_of_need(cross, replay_step(directory, f"the moment of {cross.wanted[-1].backup.pk}"))
    require_room(cross, directory)
    brought = bring(cross, options["reason"])
    wanted, target = moment_of_cross(backup_id, target)
    if dry_run and (need := need_of_server(target, wanted, plain)) is not None and need.is_something:
        return answer_of_need(need, replay_step(directory, str(target)))
    more = bring_all(
        lambda: need_of_server(target, wanted, plain),
        options["reason"],
        lambda need: require_room(need, directory),
    )
    plan = plan_recovery(target, wanted)
    if not dry_run:
        note("restore", [plan.backup.pk], options["reason"], directory=str(directory), target=str(target))
    answer = Answer() if dry_run else answer_of_proof(recover(plan, directory, options["replace"]))
    answer.steps = [*(brought.steps or ()), *(more.steps or ()), *steps_of(plan, str(directory))]
    answer.counts |= {**brought.counts, **more.counts, "needed_mb": plan.needed_bytes >> 20}
    answer.warnings = brought.warnings + more.warnings + plan.warnings + answer.warnings
    return answer


def replay_step(directory: Path, target: str) -> tuple[str, str, str]:
    return "restore", str(directory), f"to {target}; checked and planned again when that is here"


def answer_of_need(need: Plan, last: tuple[str, str, str]) -> Answer:
    """Return what will be fetched, its size and the room it takes, and what comes then."""
    then = dict(zip(("action", "object", "why"), last, strict=True))
    counts = {"fetched_mb": need.size_bytes >> 20, "needed_mb": need.needed_bytes >> 20}
    return Answer(steps=[*need.steps, then], counts=counts, warnings=need.warnings)


def require_room(need: Plan | None, directory: Path) -> None:
    """Raise NoSpace where what is fetched and what is restored from it do not both find room; before hours of it."""
    chain = (
        [found.backup for found in need.wanted if found.backup.kind != Backup.Kind.CROSS_SYSTEM]
        if need
        else []
    )
    if need is None or not chain:
        return
    wanted = room_of(chain)
    if catalogue.root().exists() and catalogue.root().stat().st_dev == directory.parent.stat().st_dev:
        wanted += need.needed_bytes
    free = shutil.disk_usage(directory.parent).free
    if free < wanted:
        raise NoSpace(
            f"{directory.parent} has {free >> 20} MB free, fetching and restoring may need {wanted >> 20} MB",
            "free some room, or restore to a larger disk; nothing was fetched",
        )


def answer_of_proof(proof: Proof) -> Answer:
    milliseconds = {f"{step}_ms": int(seconds * 1000) for step, seconds in proof.seconds.items()}
    counts = {"tables": len(proof.row_counts), "rows": sum(proof.row_counts.values()), **milliseconds}
    reached = {
        "timeline": proof.timeline,
        "reached_lsn": lsn_text(proof.reached_lsn),
        "last_commit_at": proof.last_commit_at.isoformat() if proof.last_commit_at else None,
        "why": proof.why,
    }
    counts |= {"rto_ms": int(proof.rto_seconds * 1000), "problems": len(proof.problems)}
    return Answer(
        items=[reached], counts=counts, warnings=proof.problems + proof.notes, ok=not proof.problems
    )
