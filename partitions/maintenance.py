"""Apply upkeep plans: one step, one short statement, under lock_timeout, each on its own.

Running twice, late or beside itself is safe: a partition that exists is left as it is, one that is gone is not missed,
and an advisory lock per table lets one runner work while the other skips. Stopping anywhere leaves partitions that
work; the next run finalizes an interrupted detach.
"""

import logging
import random
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import date

from django.db import OperationalError, ProgrammingError, connection

from partitions.catalog import read_ranges, read_rules
from partitions.plan import Rules, Step, plan_table
from pg.errors import MisterSmithError, Refused

logger = logging.getLogger(__name__)

LOCK_TIMEOUT_MS = 2000
TRIES = 5
LOCK_NOT_AVAILABLE = "55P03"


class UnknownTable(MisterSmithError):
    """No policy of that name."""


@dataclass
class Outcome:
    """What became of a step. `error` is None when it was done."""

    step: Step
    error: str | None = None


def plan_all(today: date, tables: list[str] | None = None) -> list[Step]:
    """Return the steps for these tables, or for all that have a policy. Raises UnknownTable."""
    return [
        step for rules in choose_rules(tables) for step in plan_table(rules, read_ranges(rules.table), today)
    ]


def choose_rules(tables: list[str] | None) -> list[Rules]:
    all_rules = {rules.table: rules for rules in read_rules()}
    unknown = set(tables or ()) - all_rules.keys()
    if unknown:
        raise UnknownTable(f"{', '.join(sorted(unknown))}: no policy", f"known: {', '.join(all_rules)}")
    return [rules for name, rules in all_rules.items() if tables is None or name in tables]


def apply_all(today: date, tables: list[str] | None = None) -> list[Outcome]:
    """Plan and do what is due; one table's failure never stops the others. Must run outside a transaction."""
    if connection.in_atomic_block:
        raise Refused(
            "partition upkeep cannot run inside a transaction: DETACH CONCURRENTLY is not allowed there"
        )
    outcomes: list[Outcome] = []
    for rules in choose_rules(tables):
        with table_lock(rules.table) as is_ours:
            if not is_ours:
                logger.info("%s: another runner is at work, skipped", rules.table)
                continue
            steps = plan_table(rules, read_ranges(rules.table), today)
            outcomes += [apply_step(step) for step in steps]
    return outcomes


@contextmanager
def table_lock(table: str) -> Iterator[bool]:
    """Hold the upkeep lock of a table for this session; yield False when somebody else has it."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_try_advisory_lock(hashtext('partitions.upkeep'), hashtext(%s))", [table])
        is_ours: bool = cursor.fetchone()[0]
    try:
        yield is_ours
    finally:
        if is_ours:
            with connection.cursor() as cursor:
                cursor.execute(
                    "SELECT pg_advisory_unlock(hashtext('partitions.upkeep'), hashtext(%s))", [table]
                )


def apply_step(step: Step) -> Outcome:
    """Do one step; an error becomes part of the outcome."""
    if step.action == "keep":
        return Outcome(step)
    try:
        for statement, params in statements(step):
            execute_patiently(statement, params)
    except (OperationalError, ProgrammingError) as error:
        logger.exception("%s %s failed", step.action, step.partition)
        return Outcome(step, str(error).strip())
    logger.info("%s %s: %s", step.action, step.partition, step.why)
    return Outcome(step)


def statements(step: Step) -> list[tuple[str, list[str]]]:
    """Return the SQL of a step, to be run one by one in autocommit."""
    if step.action == "create":
        return [("SELECT partitions.create_time_partition(%s, %s)", [step.table, str(step.day)])]
    table, partition = quoted(step.table), quoted(step.partition)
    if step.action == "finalize":
        return [(f"ALTER TABLE {table} DETACH PARTITION {partition} FINALIZE", [])]
    return [
        (f"ALTER TABLE {table} DETACH PARTITION {partition} CONCURRENTLY", []),
        (f"DROP TABLE {partition}", []),
    ]


def quoted(name: str) -> str:
    """Quote `schema.table`."""
    return ".".join(connection.ops.quote_name(part) for part in name.split(".", 1))


def execute_patiently(statement: str, params: list[str]) -> None:
    """Run DDL under lock_timeout; try again, after a random pause, when the lock was not to be had."""
    for left in reversed(range(TRIES)):
        try:
            with connection.cursor() as cursor:
                cursor.execute(f"SET lock_timeout = {LOCK_TIMEOUT_MS}")
                try:
                    cursor.execute(statement, params or None)
                finally:
                    cursor.execute("RESET lock_timeout")
            return
        except OperationalError as error:
            if getattr(error.__cause__, "sqlstate", None) != LOCK_NOT_AVAILABLE or not left:
                raise
            time.sleep(random.uniform(0.1, 1.0))  # noqa: S311  jitter, not a secret
