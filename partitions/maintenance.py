"""Plan what is due and do it, table by table, step by step, each on its own.

Running twice, late or beside itself is safe: steps are safe to repeat, a plan is made from what there is, and an
advisory lock per table lets one runner work while the other skips. Stopping anywhere leaves tables that work; the next
run goes on.
"""

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass

from django.db import DatabaseError, connection

from partitions.catalog import read_clock, read_rules, read_table
from partitions.errors import UnknownTable
from partitions.history import Asked, Recorder, recorded
from partitions.locks import Effort, table_lock
from partitions.plan import Clock, Rules, Step, Table, plan_table
from partitions.steps import execute
from pg.errors import MisterSmithError, Refused

logger = logging.getLogger(__name__)
ROUNDS = 3  # what moved out of DEFAULT may be out of retention, and so on
Planner = Callable[[Rules, Table, Clock], list[Step]]


@dataclass
class Outcome:
    """What became of a step. `error` is None when it was done; `effort` what it cost."""

    step: Step
    error: str | None = None
    effort: Effort | None = None


def plan_all(clock: Clock | None = None, tables: list[str] | None = None) -> list[Step]:
    """Return the steps for these tables, or for all that have a policy. `clock` None: now. Raises UnknownTable."""
    clock = clock or read_clock()
    return [step for rules in choose_rules(tables) for step in plan_table(rules, read_table(rules), clock)]


def choose_rules(tables: list[str] | None) -> list[Rules]:
    all_rules = {rules.table: rules for rules in read_rules()}
    unknown = set(tables or ()) - all_rules.keys()
    if unknown:
        raise UnknownTable(f"{', '.join(sorted(unknown))}: no policy", f"known: {', '.join(all_rules)}")
    return [rules for name, rules in all_rules.items() if not tables or name in tables]


def apply_all(
    clock: Clock | None = None,
    tables: list[str] | None = None,
    asked: Asked | None = None,
    planner: Planner = plan_table,
    approved: set[tuple[str, str]] | None = None,
) -> list[Outcome]:
    """Plan and do what is due; one table's failure never stops the others. Must run outside a transaction.

    `planner`: `plan_creation` removes nothing. `approved`: pairs of action and partition; others are left for later.
    """
    if connection.in_atomic_block:
        raise Refused(
            "partition upkeep cannot run inside a transaction: DETACH CONCURRENTLY is not allowed there"
        )
    chosen = choose_rules(tables)
    outcomes: list[Outcome] = []
    with recorded(asked or Asked()) as recorder:
        for rules in chosen:
            with table_lock(rules.table) as is_ours:
                if is_ours:
                    outcomes += apply_table(rules, clock or read_clock(), planner, approved, recorder)
                else:
                    logger.info("%s: another runner is at work, skipped", rules.table)
        recorder.finish([describe(one) for one in outcomes if one.error])
    return outcomes


def describe(outcome: Outcome) -> str:
    return f"{outcome.step.action} {outcome.step.partition}: {outcome.error}"


def apply_table(
    rules: Rules,
    clock: Clock,
    planner: Planner,
    approved: set[tuple[str, str]] | None,
    recorder: Recorder,
) -> list[Outcome]:
    """Plan, do, and plan again, until nothing new is due. A partition whose step failed is left for the next run."""
    outcomes: list[Outcome] = []
    for _ in range(ROUNDS):
        tried = {(one.step.action, one.step.partition) for one in outcomes}
        failed = {one.step.partition for one in outcomes if one.error}
        try:
            steps = planner(rules, read_table(rules), clock)
        except DatabaseError as error:  # the table is gone, or not ours to read
            give_up_if_disconnected(error)
            logger.exception("%s cannot be planned", rules.table)
            broken = Step("keep", rules.table, rules.table, "cannot be planned", clock.earliest, clock.latest)
            return [*outcomes, Outcome(broken, str(error).strip())]
        due = [
            step
            for step in steps
            if (step.action, step.partition) not in tried
            and step.partition not in failed
            and (approved is None or (step.action, step.partition) in approved)
        ]
        recorder.plan(due)
        outcomes += run_steps(due, rules, recorder)
        if all(step.action == "keep" for step in due):
            break
    return outcomes


def run_steps(steps: list[Step], rules: Rules, recorder: Recorder) -> list[Outcome]:
    outcomes: list[Outcome] = []
    for step in steps:
        if step.action == "keep":
            outcomes.append(Outcome(step))
        elif not any(one.error and one.step.partition == step.partition for one in outcomes):
            outcomes.append(apply_step(step, rules, recorder))
    return outcomes


def apply_step(step: Step, rules: Rules, recorder: Recorder) -> Outcome:
    """Do one step and write down what became of it."""
    started = time.monotonic()
    outcome = Outcome(step)
    try:
        outcome.effort = execute(step, rules)
        logger.info("%s %s: %s", step.action, step.partition, step.why)
    except (DatabaseError, MisterSmithError, OSError) as error:
        give_up_if_disconnected(error)
        logger.exception("%s %s failed", step.action, step.partition)
        hint = getattr(error, "hint", "")
        outcome.error = f"{error}".strip() + (f" (HINT: {hint})" if hint else "")
    recorder.record(step, outcome.effort, outcome.error, time.monotonic() - started)
    return outcome


def give_up_if_disconnected(error: BaseException) -> None:
    """Without the session its locks are gone: nothing more may be done in this run."""
    if connection.connection is None or connection.connection.closed or connection.connection.broken:
        raise error
