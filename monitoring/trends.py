"""Lines over time as drawings: SVG made here, so that a page needs no script."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from django.template.defaultfilters import filesizeformat

from monitoring import history
from monitoring.history import Points

WIDTH, HEIGHT = 600, 120
COLOURS = ("#2563eb", "#dc2626", "#059669", "#d97706", "#7c3aed")


@dataclass(frozen=True)
class Line:
    """`path`: the points of an SVG polyline; `newest`: the last value in words."""

    name: str
    path: str
    newest: str
    colour: str


@dataclass(frozen=True)
class Chart:
    title: str
    top: str  # what the upper edge means
    began: datetime | None
    ended: datetime | None
    lines: list[Line] = field(default_factory=list)


def draw(title: str, series: Mapping[str, Points], in_words: object = None) -> Chart:
    """Return the drawing of up to five lines from a common 0. `in_words`: what says a value; default: the number."""
    say = in_words if callable(in_words) else lambda value: f"{value:,.4g}"
    points = [point for line in series.values() for point in line]
    if not points:
        return Chart(title, "", None, None)
    began, ended = min(at for at, _ in points), max(at for at, _ in points)
    highest = max(value for _, value in points) or 1.0
    span = (ended - began).total_seconds() or 1.0

    def place(at: datetime, value: float) -> str:
        return f"{(at - began).total_seconds() / span * WIDTH:.1f},{HEIGHT - value / highest * HEIGHT:.1f}"

    lines = [
        Line(name, " ".join(place(*point) for point in line), say(line[-1][1]), colour)
        for (name, line), colour in zip(series.items(), COLOURS, strict=False)
        if line
    ]
    return Chart(title, say(highest), began, ended, lines)


def make_charts(now: datetime) -> list[Chart]:
    """Return the drawings of the page: the last day's load, the last 30 days' growth. Six queries."""
    day, month = timedelta(days=1), timedelta(days=30)
    transactions = history.rates(history.figures(now, day, "transactions"))
    wal, lag = (
        history.rates(history.figures(now, day, "wal_bytes")),
        history.figures(now, day, "replica_lag_bytes"),
    )
    return [
        draw("Busy connections by application, one day", history.connections_by_pool(now, day)),
        draw("Transactions per second, one day", {"all": transactions}),
        draw("WAL written per second, one day", {"all": wal}, filesizeformat),
        draw("Replica furthest behind, one day", {"lag": lag}, filesizeformat),
        draw("Tables that grew most, 30 days", history.growth(now, month), filesizeformat),
        draw("Database, 30 days", {"all": history.database_growth(now, month)}, filesizeformat),
    ]
