"""Decide what upkeep has to do. Pure: reads no clock, touches no database.

The order of the steps is such that stopping after any of them leaves tables that work, and rows that are either in the
table, in a detached table that `partitions.marks` names, or in a verified archive.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Literal

from partitions.intervals import Span, floor, following, slots, without

DAY = timedelta(days=1)
Action = Literal["finalize", "create", "archive", "detach", "drop", "keep"]


@dataclass(frozen=True)
class Clock:
    """Now, by two clocks: the database's and ours. Partitions are made by the later one and removed by the earlier one,
    so that a clock which is wrong, either way, neither leaves writers without a partition nor drops a day too much."""

    earliest: datetime
    latest: datetime

    @classmethod
    def at(cls, *moments: datetime) -> "Clock":
        return cls(min(moments), max(moments))


@dataclass(frozen=True)
class Range:
    """One partition as the catalog has it. Bounds are aware, UTC; the upper one is not in it.

    `mark` is what `partitions.marks` says of it, None for most. `is_archived`: a verified archive of it exists, copied
    to the object store where there is one.
    """

    name: str  # "messages.log_2026_03_01"
    lower: datetime
    upper: datetime
    detach_pending: bool = False
    is_attached: bool = True
    mark: str | None = None
    is_archived: bool = False

    @property
    def span(self) -> Span:
        return self.lower, self.upper


@dataclass(frozen=True)
class Rules:
    """How one table is kept. `keep_days` None keeps all."""

    table: str  # "messages.log"
    make_ahead_days: int = 14
    keep_days: int | None = 30
    on_expiry: str = "archive"
    interval: str = "day"


@dataclass(frozen=True)
class Table:
    """What there is of one table: attached partitions and those that were detached and are marked.

    `dropped`: ranges that are in archives only. `waiting`: rows in DEFAULT, counted by the interval they belong to.
    """

    ranges: list[Range] = field(default_factory=list)
    dropped: list[Span] = field(default_factory=list)
    default: str | None = None
    waiting: dict[datetime, int] = field(default_factory=dict)

    @property
    def attached(self) -> list[Range]:
        """Partitions that take rows, oldest first."""
        found = [one for one in self.ranges if one.is_attached and not one.detach_pending]
        return sorted(found, key=lambda one: one.lower)


@dataclass(frozen=True)
class Step:
    """One thing to do to `partition`, and why. `keep` is nothing to do, said because somebody may expect otherwise.

    `is_expired`: what `finalize` finishes detaching is out of retention, and to be dropped.
    """

    action: Action
    table: str
    partition: str
    why: str
    lower: datetime
    upper: datetime
    is_expired: bool = False


def plan_table(rules: Rules, table: Table, clock: Clock) -> list[Step]:
    """Return the steps for one table: what was interrupted, then what writers need, then removal, oldest first."""
    return [
        *_finalizations(rules, table, clock),
        *_creations(rules, table, clock),
        *_removals(rules, table, clock),
    ]


def plan_creation(rules: Rules, table: Table, clock: Clock) -> list[Step]:
    """Return the steps of `plan_table` that writers need; nothing is removed."""
    return [step for step in plan_table(rules, table, clock) if step.action in ("finalize", "create")]


def _finalizations(rules: Rules, table: Table, clock: Clock) -> list[Step]:
    return [
        replace(
            _step("finalize", rules, one, "an interrupted DETACH CONCURRENTLY"),
            is_expired=is_expired(rules, one, clock),
        )
        for one in table.ranges
        if one.detach_pending
    ]


# -- creation -----------------------------------------------------------------------------------------------
def _creations(rules: Rules, table: Table, clock: Clock) -> list[Step]:
    """Now, the days ahead, gaps within retention, and ranges of which rows wait in DEFAULT: each once, oldest first."""
    today = floor(clock.earliest, "day")
    start = min(floor(clock.earliest, rules.interval), _first_gap(rules, table, clock))
    end = floor(clock.latest, "day") + (rules.make_ahead_days + 1) * DAY
    taken = [one.span for one in table.attached]
    steps = []
    for span in _wanted(rules, table, start, end):
        is_past = span[1] <= today
        for piece in without(span, [*taken, *(table.dropped if is_past else [])]):
            why = _why_create(rules, table, piece, clock)
            steps.append(Step("create", rules.table, partition_name(rules, piece), why, *piece))
    return steps


def _wanted(rules: Rules, table: Table, start: datetime, end: datetime) -> list[Span]:
    spans = {lower: (max(lower, start), upper) for lower, upper in slots(start, end, rules.interval)}
    waiting = {lower: (lower, following(lower, rules.interval)) for lower in table.waiting}
    return sorted((spans | waiting).values())


def _first_gap(rules: Rules, table: Table, clock: Clock) -> datetime:
    """Return from where on there should be no gap: the oldest partition within retention that was not brought back."""
    return min((one.upper for one in lasting(rules, table, clock)), default=clock.earliest)


def lasting(rules: Rules, table: Table, clock: Clock) -> list[Range]:
    """Return the attached partitions that are here to stay for now."""
    return [one for one in table.attached if one.mark is None and not is_expired(rules, one, clock)]


def _why_create(rules: Rules, table: Table, piece: Span, clock: Clock) -> str:
    if rows := table.waiting.get(floor(piece[0], rules.interval)):
        return f"{rows} rows of it wait in DEFAULT and move along"
    if piece[1] <= clock.earliest:
        return "a gap between partitions"
    if piece[0] <= clock.latest:
        return "now has no partition"
    if piece[1] <= max((one.lower for one in table.attached), default=piece[0]):
        return "a gap between partitions"
    return f"{rules.make_ahead_days} days are made ahead"


def partition_name(rules: Rules, span: Span) -> str:
    """Return the name that a partition gets, unless it is taken. Nothing is ever read from a name."""
    form = "%Y_%m_%d_%H" if span[0].hour else "%Y_%m_%d"
    return f"{rules.table}_{span[0]:{form}}"


# -- removal ------------------------------------------------------------------------------------------------
def oldest_kept(rules: Rules, clock: Clock) -> datetime:
    """Return the moment before which a partition has to end to be out of retention."""
    return floor(clock.earliest, "day") - (rules.keep_days or 0) * DAY


def is_expired(rules: Rules, one: Range, clock: Clock) -> bool:
    return rules.keep_days is not None and one.upper <= oldest_kept(rules, clock)


def _removals(rules: Rules, table: Table, clock: Clock) -> list[Step]:
    steps: list[Step] = []
    for one in sorted(table.ranges, key=lambda one: one.lower):
        if one.mark in ("loading", "brought back", "releasing"):
            steps += _of_an_archive(rules, one)
        elif not one.is_attached and one.mark != "expiring":
            steps.append(
                _step("keep", rules, one, "detached by a person: attach it again, or drop it by hand")
            )
        elif is_expired(rules, one, clock):
            steps += _expired(rules, one)
        elif not one.is_attached:  # the policy was changed meanwhile
            why = "detached for removal, but now within retention: attach it again, or drop it by hand"
            steps.append(_step("keep", rules, one, why))
    return steps


def _of_an_archive(rules: Rules, one: Range) -> list[Step]:
    """What was brought back stays until it is let go; what was interrupted on the way is cleared away."""
    if one.mark == "releasing" and one.is_attached and not one.detach_pending:
        why = "let go, back to its archive"
        return [_step("detach", rules, one, why), _step("drop", rules, one, why)]
    if one.mark == "releasing" or one.detach_pending:
        return [_step("drop", rules, one, "let go, back to its archive")]
    if not one.is_attached:
        return [_step("drop", rules, one, "an interrupted attach; its archive stays")]
    return []


def _expired(rules: Rules, one: Range) -> list[Step]:
    age = f"older than {rules.keep_days} days"
    if rules.on_expiry == "keep":
        return [_step("keep", rules, one, f"{age}, but the policy says keep")]
    steps = []
    if rules.on_expiry == "archive" and not one.is_archived:
        steps.append(_step("archive", rules, one, age))
    if one.is_attached and not one.detach_pending:
        steps.append(_step("detach", rules, one, age))
    reason = "the policy says drop" if rules.on_expiry == "drop" else "archived and verified"
    return [*steps, _step("drop", rules, one, f"{age}, {reason}")]


def _step(action: Action, rules: Rules, one: Range, why: str) -> Step:
    return Step(action, rules.table, one.name, why, one.lower, one.upper)


# -- cover --------------------------------------------------------------------------------------------------
def covered_until(ranges: Iterable[Range], now: datetime) -> datetime | None:
    """Return up to when every moment from `now` on has a partition; None when `now` itself has none."""
    end = None
    for one in sorted(ranges, key=lambda one: one.lower):
        if one.lower <= (end or now) < one.upper:
            end = one.upper
    return end


def days_of_cover(ranges: Iterable[Range], now: datetime) -> int:
    """Return how many whole days after today are covered; -1 when today is not covered to its end."""
    end = covered_until(ranges, now)
    if end is None:
        return -1
    return (min(end, datetime(9999, 1, 1, tzinfo=UTC)) - floor(now, "day")) // DAY - 1
