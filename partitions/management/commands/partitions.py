"""manage.py partitions: plan, apply, list."""

from typing import Any

from django.utils import timezone

from operators.command import Answer, OperatorCommand
from partitions.catalog import read_ranges, read_tables
from partitions.maintenance import Outcome, apply_all, plan_all
from partitions.plan import Step, days_of_cover


class Command(OperatorCommand):
    help = "Make partitions ahead, remove those out of retention, show what there is."

    def add_verbs(self) -> None:
        self.add_verb("plan", plan, "print what apply would do, and why").add_argument("tables", nargs="*")
        parser = self.add_verb("apply", apply, "do it")
        parser.add_argument("tables", nargs="*")
        parser.add_argument("--dry-run", action="store_true", help="print the plan only")
        self.add_verb("list", list_tables, "show partitioned tables, or one table's partitions").add_argument(
            "table", nargs="?"
        )


def as_step(step: Step) -> dict[str, str]:
    return {"action": step.action, "object": step.partition, "why": step.why}


def plan(tables: list[str], **_: Any) -> Answer:
    """Return what is due. What is kept against its age is a warning, not a step."""
    steps = plan_all(timezone.now().date(), tables or None)
    return Answer(
        steps=[as_step(step) for step in steps if step.action != "keep"],
        warnings=[f"{step.partition}: {step.why}" for step in steps if step.action == "keep"],
    )


def apply(tables: list[str], dry_run: bool, **_: Any) -> Answer:
    if dry_run:
        return plan(tables)
    outcomes = apply_all(timezone.now().date(), tables or None)
    done = [outcome for outcome in outcomes if outcome.error is None and outcome.step.action != "keep"]
    failed = [outcome for outcome in outcomes if outcome.error is not None]
    kept = [outcome.step for outcome in outcomes if outcome.step.action == "keep"]
    return Answer(
        steps=[as_step(outcome.step) for outcome in done],
        counts={"done": len(done), "failed": len(failed), "kept": len(kept)},
        warnings=[*map(failure, failed), *(f"{step.partition}: {step.why}" for step in kept)],
        ok=not failed,
    )


def failure(outcome: Outcome) -> str:
    return f"{outcome.step.action} {outcome.step.partition}: {outcome.error}"


def list_tables(table: str | None, **_: Any) -> Answer:
    if table is not None:
        return list_ranges(table)
    today = timezone.now().date()
    items = []
    for found in read_tables():
        ranges = read_ranges(found.name) if found.strategy == "range" else []
        items.append(
            {
                "table": found.name,
                "strategy": found.strategy,
                "partitions": found.partitions,
                "rows_estimate": found.rows,
                "size_bytes": found.size_bytes,
                "cover_days": days_of_cover(ranges, today) if ranges else None,
                "oldest": ranges[0].lower.date() if ranges else None,
                "newest": ranges[-1].upper.date() if ranges else None,
            }
        )
    return Answer(items=items, counts={"tables": len(items)})


def list_ranges(table: str) -> Answer:
    items = [
        {"partition": found.name, "from": found.lower, "to": found.upper} for found in read_ranges(table)
    ]
    return Answer(items=items, counts={"partitions": len(items)}, ok=bool(items))
