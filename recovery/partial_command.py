"""The verbs of `manage.py backup` for a part of the data: stage, compare, apply, put away."""

from typing import Any

from operators.audit import Actor
from operators.command import Answer, OperatorCommand
from recovery.fetch_command import ALLOW_PLAIN, bring_all
from recovery.fetch_plan import Plan
from recovery.models import Backup
from recovery.need import need_of_backup, need_of_server
from recovery.noting import note
from recovery.partial import apply_staged, compare_staged
from recovery.partial_drill import PartialDrill
from recovery.scope import read_scope
from recovery.staging import Staged, find_staged, home_session, list_staged, stage, unstage
from recovery.target import Target


def add_partial_verbs(command: OperatorCommand) -> None:
    parser = command.add_verb(
        "stage", run_stage, "bring a table, a schema or an agent's rows out of a backup, beside today's"
    )
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--table", help="with its schema: agents.state")
    what.add_argument("--schema", help="all its tables: agents")
    what.add_argument("--agent", metavar="ID", help="its registry row, state, checkpoints, tasks and facts")
    parser.add_argument(
        "--from", dest="backup_id", default="", help="a backup's id (default: the newest logical one)"
    )
    when = parser.add_mutually_exclusive_group()
    when.add_argument("--time", help="as of a moment, from base backups: 2026-11-23T10:30:00+00:00")
    when.add_argument("--name", help="as of a restore point")
    when.add_argument("--newest", action="store_true", help="as of the newest moment that is archived")
    parser.add_argument("--allow-plain", action="store_true", help=ALLOW_PLAIN)
    parser = command.add_verb("staged", run_staged, "list what is staged; or compare one with today's rows")
    parser.add_argument("name", nargs="?", help="staged_... (default: list all)")
    parser = command.add_verb(
        "apply", run_apply, "bring staged rows back: insert what is missing, set what has changed"
    )
    parser.add_argument("name", nargs="?", default="", help="staged_... (default: the newest)")
    parser.add_argument("--delete-extra", action="store_true", help="also delete rows that are not staged")
    parser.add_argument("--dry-run", action="store_true", help="compare only")
    parser.add_argument("--reason", default="", help="why; kept in the audit")
    parser = command.add_verb("unstage", run_unstage, "drop a staging schema")
    parser.add_argument("name")


def run_stage(
    table: str | None, schema: str | None, agent: str | None, backup_id: str, **options: Any
) -> Answer:
    kind, name = next((k, n) for k, n in (("table", table), ("schema", schema), ("agent", agent)) if n)
    scope, target = read_scope(kind, name), target_of(options)
    brought = bring_all(
        lambda: need_of_stage(backup_id, target, options["allow_plain"]), "for a partial restore"
    )
    staged = stage(scope, backup_id, target)
    note("stage", [scope], "", staged=staged.name, backup=staged.backup_id)
    answer = compared(staged)
    answer.counts |= brought.counts
    answer.warnings = brought.warnings + answer.warnings
    return answer


def need_of_stage(backup_id: str, target: Target | None, allow_plain: bool) -> Plan | None:
    """Return what must be fetched first: a logical backup, or what leads to the target."""
    if target is None:
        return need_of_backup(backup_id, Backup.Kind.LOGICAL, allow_plain)
    return need_of_server(target, backup_id, allow_plain)


def target_of(options: dict[str, Any]) -> Target | None:
    if options["time"]:
        return Target("time", options["time"])
    if options["name"]:
        return Target("name", options["name"])
    return Target() if options["newest"] else None


def compared(staged: Staged) -> Answer:
    """Print the tables' differences; the first keys of each are the warnings."""
    with home_session() as session:
        found = compare_staged(session, staged)
    answer = Answer(items=[{"staged_as": staged.name, **difference.as_item()} for difference in found])
    answer.counts = {
        name: sum(getattr(difference, name) for difference in found)
        for name in ("staged", "missing", "changed", "extra")
    }
    answer.warnings = [
        f"as of {staged.moment}",
        *(line for difference in found for line in difference.examples),
    ]
    return answer


def run_staged(name: str | None, **_: Any) -> Answer:
    with home_session() as session:
        if name is not None:
            return compared(find_staged(session, name))
        found = list_staged(session)
    items = [
        {
            "name": staged.name,
            "scope": str(staged.scope),
            "backup_id": staged.backup_id,
            "moment": staged.moment,
        }
        for staged in found
    ]
    return Answer(items=items, counts={"staged": len(items)})


def run_apply(name: str, delete_extra: bool, dry_run: bool, reason: str, **_: Any) -> Answer:
    with home_session() as session:
        staged = find_staged(session, name)
    if dry_run:
        return compared(staged)
    done = apply_staged(staged, Actor.of_command(), reason, delete_extra)
    return Answer(
        items=[vars(each) for each in done],
        counts={
            what: sum(getattr(each, what) for each in done) for what in ("inserted", "updated", "deleted")
        },
        warnings=[f"what was replaced is kept in {staged.name}: before.<table>"],
    )


def run_unstage(name: str, **_: Any) -> Answer:
    with home_session() as session:
        staged = find_staged(session, name)
        unstage(session, staged)
    note("unstage", [staged.scope], "", staged=staged.name)
    return Answer(counts={"dropped": 1})


def answer_of_partial(drill: PartialDrill) -> Answer:
    counts = {"rows": drill.rows, "rto_ms": int(drill.rto_seconds * 1000), "problems": len(drill.problems)}
    items = [{"scope": str(drill.scope), "backup_id": drill.backup.pk}]
    return Answer(items=items, counts=counts, warnings=drill.problems, ok=not drill.problems)
