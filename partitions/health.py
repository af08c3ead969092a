"""The state of each partitioned table: what is covered, what is out of order, how big it is and will be."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import pairwise
from typing import Any

from partitions.catalog import QUERIES, read_clock, read_each, read_rules, run_by_table
from partitions.intervals import Span, floor
from partitions.plan import DAY, Clock, Range, Rules, Table, days_of_cover, lasting, oldest_kept

MINIMUM_COVER_DAYS = 3
GROWTH_DAYS = 7
FORECAST_DAYS = 30
Sizes = Mapping[str, Mapping[str, Any]]


@dataclass(frozen=True)
class Sized:
    """A partition with its size; `rows` is an estimate of the last ANALYZE."""

    range: Range
    size_bytes: int
    rows: int


@dataclass(frozen=True)
class Health:
    """One table. `cover_days`: whole days ahead, -1 when today has a hole. `growth_bytes`: per day, of the last 7 whole
    days that have partitions, None without any. `forecast_bytes`: of 30 days from now, retention applied."""

    table: str
    cover_days: int
    is_cover_low: bool
    gaps: list[Span]
    overlaps: list[tuple[str, str]]
    default_rows: int
    leftovers: list[str]
    pending: list[str]
    invalid_indexes: list[str]
    oldest: datetime | None
    newest: datetime | None
    partitions: int
    size_bytes: int
    rows: int
    growth_bytes: int | None
    forecast_bytes: int | None

    @property
    def problems(self) -> list[str]:
        """What is wrong, one line each; low cover is told elsewhere."""
        found = [f"a gap from {lower:%Y-%m-%d %H:%M} to {upper:%Y-%m-%d %H:%M}" for lower, upper in self.gaps]
        found += [f"{one} and {other} overlap" for one, other in self.overlaps]
        if self.default_rows:
            found.append(f"{self.default_rows} rows in DEFAULT")
        found += [f"{name} is an interrupted detach" for name in self.pending]
        found += [f"{name} was detached and not dropped" for name in self.leftovers]
        return found + [f"index {name} is invalid" for name in self.invalid_indexes]


def read_health(table: str | None = None) -> list[Health]:
    """Return the health of every table with a policy, or of one. Seven queries, however many tables."""
    clock = read_clock()
    rules = [one for one in read_rules() if table in (None, one.table)]
    return [one.judged(clock) for one in survey(rules)]


@dataclass(frozen=True)
class Surveyed:
    """What the catalog says of one table. `sized`: the attached partitions, oldest first; `invalid`: names of
    indexes."""

    rules: Rules
    table: Table
    sized: list[Sized]
    invalid: list[str]

    def judged(self, clock: Clock) -> Health:
        return judge(self.rules, self.table, self.sized, self.invalid, clock)


def survey(rules: Sequence[Rules], sizes: Sizes | None = None) -> list[Surveyed]:
    """Read all that there is to know of these tables. Five queries, and one for each DEFAULT partition; one less where
    `sizes` are given: they cost more than all the rest."""
    names = [one.table for one in rules]
    sizes = read_sizes(names) if sizes is None else sizes
    invalid = run_by_table("invalid_indexes", names, make=lambda index_name: index_name)
    return [
        Surveyed(one, table, sized(table, sizes), invalid[one.table])
        for one, table in zip(rules, read_each(rules), strict=True)
    ]


def read_sizes(tables: Sequence[str]) -> Sizes:
    """Return `size_bytes` and `rows` of each partition, by name. One query; the server asks its file system for every
    file of each."""
    return {row["name"]: row for row in QUERIES.run("sizes", {"tables": list(tables)})}


def sized(table: Table, sizes: Sizes) -> list[Sized]:
    return [
        Sized(one, sizes[one.name]["size_bytes"], sizes[one.name]["rows"])
        for one in table.attached
        if one.name in sizes
    ]


# -- judging: pure ------------------------------------------------------------------------------------------
def judge(rules: Rules, table: Table, sized: list[Sized], invalid: list[str], clock: Clock) -> Health:
    ranges = table.attached
    growth = growth_bytes(sized, clock.earliest)
    return Health(
        rules.table,
        days_of_cover(ranges, clock.latest),
        is_cover_low(rules, table, clock),
        gaps_of(lasting(rules, table, clock), table.dropped),
        overlaps_of(table.ranges),
        sum(table.waiting.values()),
        [one.name for one in table.ranges if not one.is_attached],
        [one.name for one in table.ranges if one.detach_pending],
        invalid,
        ranges[0].lower if ranges else None,
        ranges[-1].upper if ranges else None,
        len(ranges),
        sum(one.size_bytes for one in sized),
        sum(one.rows for one in sized),
        growth,
        forecast_bytes(rules, sized, growth, clock),
    )


def is_cover_low(rules: Rules, table: Table, clock: Clock) -> bool:
    """Fewer than 3 days ahead, or than the policy makes where that is less: the alarm."""
    return days_of_cover(table.attached, clock.latest) < min(MINIMUM_COVER_DAYS, rules.make_ahead_days)


def gaps_of(ranges: list[Range], dropped: list[Span]) -> list[Span]:
    """Return the holes between partitions. What went to an archive is none, nor is what lies before the oldest one."""
    if not ranges:
        return []
    spans = merged([*(one.span for one in ranges), *dropped])
    return [(end, start) for (_, end), (start, _) in pairwise(spans) if start > ranges[0].lower]


def merged(spans: list[Span]) -> list[Span]:
    out: list[Span] = []
    for lower, upper in sorted(spans):
        if out and lower <= out[-1][1]:
            out[-1] = (out[-1][0], max(out[-1][1], upper))
        else:
            out.append((lower, upper))
    return out


def overlaps_of(ranges: list[Range]) -> list[tuple[str, str]]:
    """Return neighbours that share time: only detached tables can."""
    in_order = sorted(ranges, key=lambda one: one.lower)
    return [(one.name, other.name) for one, other in pairwise(in_order) if other.lower < one.upper]


def growth_bytes(sized: list[Sized], now: datetime) -> int | None:
    """Return bytes per day of the partitions that ended within the last GROWTH_DAYS whole days."""
    today = floor(now, "day")
    start = today - GROWTH_DAYS * DAY
    recent = [
        one
        for one in sized
        if one.range.upper <= today and one.range.upper > start and one.range.mark is None
    ]
    length = sum(((one.range.upper - one.range.lower) for one in recent), timedelta())
    return round(sum(one.size_bytes for one in recent) * DAY / length) if length else None


def forecast_bytes(rules: Rules, sized: list[Sized], growth: int | None, clock: Clock) -> int | None:
    """Return the size in FORECAST_DAYS: what is there and stays, and as much per day as of late."""
    if growth is None:
        return None
    later = Clock.at(clock.earliest + FORECAST_DAYS * DAY)
    keeps_all = rules.keep_days is None or rules.on_expiry == "keep"
    stays = sum(one.size_bytes for one in sized if keeps_all or one.range.upper > oldest_kept(rules, later))
    days = FORECAST_DAYS if keeps_all else min(FORECAST_DAYS, (rules.keep_days or 0) + 1)
    return stays + growth * days
