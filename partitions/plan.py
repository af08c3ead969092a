"""Decide what upkeep has to do. Pure: reads no clock, touches no database."""

from dataclasses import dataclass
from datetime import date, datetime, timedelta
from typing import Literal

DAY = timedelta(days=1)


@dataclass(frozen=True)
class Range:
    """One partition as the catalog has it. Bounds are aware, UTC; the upper one is not in it."""

    name: str  # "messages.log_2026_03_01"
    lower: datetime
    upper: datetime
    detach_pending: bool = False


@dataclass(frozen=True)
class Rules:
    """How one table is kept. `keep_days` None keeps all."""

    table: str  # "messages.log"
    make_ahead_days: int = 14
    keep_days: int | None = 30
    on_expiry: str = "archive"


@dataclass(frozen=True)
class Step:
    """One thing to do, and why. `day` is set for create only."""

    action: Literal["create", "finalize", "drop", "keep"]
    table: str
    partition: str
    why: str
    day: date | None = None


def plan_table(rules: Rules, ranges: list[Range], today: date) -> list[Step]:
    """Return the steps for one table, oldest partition first, creation before removal."""
    return [*_creations(rules, ranges, today), *_removals(rules, ranges, today)]


def _creations(rules: Rules, ranges: list[Range], today: date) -> list[Step]:
    """Today, the days ahead, and gaps between partitions that exist and today: each once, oldest first."""
    covered = {day for found in ranges for day in days_of(found)}
    missing = [
        day for day in (today + n * DAY for n in range(rules.make_ahead_days + 1)) if day not in covered
    ]
    return [
        Step(
            "create",
            rules.table,
            f"{rules.table}_{day:%Y_%m_%d}",
            "today has no partition" if day == today else f"{rules.make_ahead_days} days are made ahead",
            day,
        )
        for day in missing
    ]


def _removals(rules: Rules, ranges: list[Range], today: date) -> list[Step]:
    steps = [
        Step("finalize", rules.table, found.name, "an interrupted DETACH CONCURRENTLY")
        for found in ranges
        if found.detach_pending
    ]
    if rules.keep_days is None:
        return steps
    oldest_kept = today - rules.keep_days * DAY
    for found in sorted(ranges, key=lambda found: found.lower):
        if found.upper.date() <= oldest_kept:
            steps.append(_removal(rules, found))
    return steps


def _removal(rules: Rules, found: Range) -> Step:
    age = f"older than {rules.keep_days} days"
    if rules.on_expiry == "drop":
        return Step("drop", rules.table, found.name, f"{age}, the policy says drop")
    reason = "not archived" if rules.on_expiry == "archive" else "the policy says keep"
    return Step("keep", rules.table, found.name, f"{age}, but {reason}")


def days_of(found: Range) -> list[date]:
    """Return the whole UTC days that a partition covers."""
    first = found.lower.date()
    return [first + n * DAY for n in range((found.upper - found.lower) // DAY)]


def days_of_cover(ranges: list[Range], today: date) -> int:
    """Return how many days in a row after today have a partition; -1 when today itself has none."""
    covered = {day for found in ranges for day in days_of(found)}
    cover = -1
    while today + (cover + 1) * DAY in covered:
        cover += 1
    return cover
