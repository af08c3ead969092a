"""Hours, days, weeks (from Monday) and months in UTC: what partitions are aligned to. Pure."""

from collections.abc import Iterable, Iterator
from datetime import UTC, datetime, timedelta

Span = tuple[datetime, datetime]  # the upper bound is not in it
LENGTHS = {"hour": timedelta(hours=1), "day": timedelta(days=1), "week": timedelta(weeks=1)}


def floor(moment: datetime, interval: str) -> datetime:
    """Return the start of the hour, day, week or month that `moment` (aware) lies in."""
    moment = moment.astimezone(UTC).replace(minute=0, second=0, microsecond=0)
    if interval == "hour":
        return moment
    midnight = moment.replace(hour=0)
    if interval == "week":
        return midnight - timedelta(days=midnight.weekday())
    return midnight.replace(day=1) if interval == "month" else midnight


def following(start: datetime, interval: str) -> datetime:
    """Return the start of the next one."""
    if interval == "month":
        return (start.replace(day=28) + timedelta(days=4)).replace(day=1)
    return start + LENGTHS[interval]


def slots(start: datetime, end: datetime, interval: str) -> Iterator[Span]:
    """Yield the intervals from the one that `start` lies in to the one that `end` lies in or ends before."""
    lower = floor(start, interval)
    while lower < end:
        upper = following(lower, interval)
        yield lower, upper
        lower = upper


def without(span: Span, taken: Iterable[Span]) -> list[Span]:
    """Return what is left of `span` when all of `taken` is cut out, in order."""
    lower, upper = span
    left = []
    for start, end in sorted(taken):
        if start >= upper:
            break
        if start > lower:
            left.append((lower, start))
        lower = max(lower, end)
    return [*left, (lower, upper)] if lower < upper else left
