"""manage.py partitions: plan, apply, list, archive, attach."""

from typing import Any

from operators.audit import Actor, record
from operators.command import Answer, OperatorCommand
from partitions.archive import archive_partition, check_archives
from partitions.attach import attach_archive, find_archive, release_archive
from partitions.catalog import read_clock, read_ranges, read_tables
from partitions.errors import Busy, UnknownTable
from partitions.health import read_health
from partitions.history import Asked, recorded_alone
from partitions.locks import table_lock
from partitions.maintenance import apply_all, choose_rules, describe, plan_all
from partitions.models import Archive, Run
from partitions.plan import Step, plan_creation, plan_table
from pg.errors import Refused


class Command(OperatorCommand):
    help = "Make partitions ahead, archive and remove those out of retention, bring archives back, show what there is."

    def add_verbs(self) -> None:
        self.add_verb("plan", plan, "print what apply would do, and why").add_argument("tables", nargs="*")
        parser = self.add_verb("apply", apply, "do it")
        parser.add_argument("tables", nargs="*")
        parser.add_argument("--dry-run", action="store_true", help="print the plan only")
        parser.add_argument("--create-only", action="store_true", help="remove and archive nothing")
        parser.add_argument("--reason", default="", help="kept with the run")
        parser = self.add_verb("list", list_tables, "show partitioned tables, or one table's partitions")
        parser.add_argument("table", nargs="?")
        parser.add_argument("--archives", action="store_true", help="show what is archived instead")
        parser = self.add_verb(
            "archive", archive, "archive what is out of retention, or the partitions named"
        )
        parser.add_argument("partitions", nargs="*", help='"schema.partition"; none: what the policies say')
        parser.add_argument("--dry-run", action="store_true", help="print the plan only")
        parser.add_argument("--check", action="store_true", help="read every archive's file again instead")
        parser = self.add_verb("attach", attach, "bring an archived partition back, read-only, or let it go")
        parser.add_argument("archive", help="its id, or the partition's name: the newest archive of it")
        parser.add_argument("--release", action="store_true", help="let it go again")
        parser.add_argument("--reason", default="", help="kept with the run and in the audit")


def as_step(step: Step) -> dict[str, str]:
    return {"action": step.action, "object": step.partition, "why": step.why}


def plan(tables: list[str], **_: Any) -> Answer:
    """Return what is due. What is kept against its age is a warning, not a step."""
    return planned(plan_all(None, tables or None))


def planned(steps: list[Step]) -> Answer:
    return Answer(
        steps=[as_step(step) for step in steps if step.action != "keep"],
        warnings=[f"{step.partition}: {step.why}" for step in steps if step.action == "keep"],
    )


def apply(tables: list[str], dry_run: bool, create_only: bool, reason: str, **_: Any) -> Answer:
    planner = plan_creation if create_only else plan_table
    if dry_run:
        steps = plan_all(None, tables or None)
        return planned([step for step in steps if not create_only or step.action in ("create", "finalize")])
    asked = Asked(Run.Origin.COMMAND, Actor.of_command().name, reason)
    outcomes = apply_all(tables=tables or None, asked=asked, planner=planner)
    done = [outcome for outcome in outcomes if outcome.error is None and outcome.step.action != "keep"]
    failed = [outcome for outcome in outcomes if outcome.error is not None]
    kept = [outcome.step for outcome in outcomes if outcome.step.action == "keep" and outcome.error is None]
    waits = [outcome.effort.lock_wait_ms for outcome in done if outcome.effort]
    return Answer(
        steps=[as_step(outcome.step) for outcome in done],
        counts={
            "done": len(done),
            "failed": len(failed),
            "kept": len(kept),
            "lock_wait_ms": sum(waits),
        },
        warnings=[*map(describe, failed), *(f"{step.partition}: {step.why}" for step in kept)],
        ok=not failed,
    )


def list_tables(table: str | None, archives: bool, **_: Any) -> Answer:
    if archives:
        return list_archives(table)
    if table is not None:
        return list_ranges(table)
    health = {one.table: one for one in read_health()}
    items = []
    for found in read_tables():
        one = health.get(found.name)
        items.append(
            {
                "table": found.name,
                "strategy": found.strategy,
                "partitions": found.partitions,
                "rows_estimate": found.rows,
                "size_bytes": found.size_bytes,
                "cover_days": one.cover_days if one else None,
                "oldest": one.oldest.date() if one and one.oldest else None,
                "newest": one.newest.date() if one and one.newest else None,
                "growth_bytes_per_day": one.growth_bytes if one else None,
                "forecast_bytes_30_days": one.forecast_bytes if one else None,
                "problems": "; ".join(one.problems) if one else "",
            }
        )
    return Answer(items=items, counts={"tables": len(items)})


def list_ranges(table: str) -> Answer:
    found = read_ranges(table)
    if not found and table not in {one.name for one in read_tables()}:
        raise UnknownTable(f"{table} is not a partitioned table", "manage.py partitions list shows all")
    items = [
        {
            "partition": one.name,
            "from": one.lower,
            "to": one.upper,
            "state": state_of(one.is_attached, one.detach_pending, one.mark),
            "archived": one.is_archived,
        }
        for one in found
    ]
    return Answer(items=items, counts={"partitions": len(items)})


def state_of(is_attached: bool, is_pending: bool, mark: str | None) -> str:
    if is_pending:
        return "interrupted detach"
    if mark == "brought back":
        return "brought back, read-only"
    return "attached" if is_attached else f"detached ({mark})"


def list_archives(table: str | None) -> Answer:
    rows = Archive.objects.select_related("mark").order_by("table_name", "lower_time", "archive_id")
    items = [
        {
            "archive": row.pk,
            "partition": row.partition_name,
            "from": row.lower_time,
            "to": row.upper_time,
            "state": row.state,
            "rows": row.row_count,
            "size_bytes": row.size_bytes,
            "dropped_at": row.dropped_at,
            "attached_as": row.mark.partition_name if hasattr(row, "mark") else None,
            "uploaded_to": row.uploaded_to,
        }
        for row in rows
        if table in (None, row.table_name)
    ]
    return Answer(items=items, counts={"archives": len(items)})


def archive(partitions: list[str], dry_run: bool, check: bool, **_: Any) -> Answer:
    if check:
        return check_files()
    steps = chosen(partitions) if partitions else [step for step in plan_all() if step.action == "archive"]
    if dry_run:
        return planned(steps)
    items = []
    for step in steps:
        with table_lock(step.table) as is_ours:
            if not is_ours:
                raise Busy(f"another run has {step.table}", "try again when it is done")
            done = archive_partition(step)
        items.append(
            {
                "archive": done.pk,
                "partition": done.partition_name,
                "rows": done.row_count,
                "size_bytes": done.size_bytes,
                "table_bytes": done.table_bytes,
                "location": done.location,
                "uploaded_to": done.uploaded_to,
            }
        )
    return Answer(items=items, counts={"archived": len(items)})


def chosen(names: list[str]) -> list[Step]:
    """Return a step for each partition named. Raises UnknownTable, and Refused for one that is not over yet."""
    now = read_clock().earliest
    known = {one.name: (rules.table, one) for rules in choose_rules(None) for one in read_ranges(rules.table)}
    if unknown := sorted(set(names) - known.keys()):
        raise UnknownTable(
            f"{', '.join(unknown)}: no such partition", "list them: manage.py partitions list TABLE"
        )
    if early := [name for name in names if known[name][1].upper > now]:
        raise Refused(
            f"{', '.join(early)}: not over yet, rows are still to come", "archive it when its time has passed"
        )
    return [
        Step("archive", known[name][0], name, "asked for", known[name][1].lower, known[name][1].upper)
        for name in names
    ]


def check_files() -> Answer:
    found = check_archives()
    items = [
        {"archive": one.pk, "partition": one.partition_name, "state": one.state, "problem": problem}
        for one, problem in found
    ]
    damaged = sum(one.state == Archive.State.DAMAGED for one, _ in found)
    ok = all(problem is None for _, problem in found)
    return Answer(items=items, counts={"archives": len(items), "damaged": damaged}, ok=ok)


def attach(archive: str, release: bool, reason: str, **_: Any) -> Answer:
    found, by = find_archive(archive), Actor.of_command()
    verb, name = ("release" if release else "attach"), None
    with recorded_alone(Asked(Run.Origin.COMMAND, by.name, reason), verb, found.partition_name):
        if release:
            release_archive(found)
        else:
            name = attach_archive(found)
        record(by, f"partitions.{verb}_archive", [found], reason=reason)
    if release:
        return Answer(items=[{"archive": found.pk, "released": found.partition_name}])
    return Answer(items=[{"archive": found.pk, "attached_as": name, "rows": found.row_count}])
