"""The picture of a table's partitions over time: numbers for an SVG. Pure; the template draws what stands here.

Time runs from left to right. A bar is a partition, as high as the root of its size, so that a small one is still seen;
below the line lies what is in archives only.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta

from partitions.health import Health, Sized
from partitions.intervals import Span
from partitions.plan import Range

WIDTH, HEIGHT, BASE, LANE = (
    1000,
    120,
    88,
    10,
)  # in the SVG's units; bars stand on BASE, archives lie in the lane below
LEAST_HEIGHT, LEAST_WIDTH, TICKS = 3, 1.5, 6
MARGIN = timedelta(days=400)  # what was brought back from further away is drawn at the edge


@dataclass(frozen=True)
class Bar:
    """A rectangle. `kind` is its class in the style sheet; `told` is read by whoever points at it or cannot see it."""

    x: float
    y: float
    width: float
    height: float
    kind: str
    told: str


@dataclass(frozen=True)
class Tick:
    x: float
    text: str


@dataclass(frozen=True)
class Timeline:
    bars: list[Bar]
    ticks: list[Tick]
    now_x: float


@dataclass(frozen=True)
class Scale:
    """From time to the picture's width."""

    start: datetime
    end: datetime

    def x(self, moment: datetime) -> float:
        share = (moment - self.start) / (self.end - self.start)
        return round(min(max(share, 0.0), 1.0) * WIDTH, 2)

    def box(self, span: Span, kind: str, told: str, y: float, height: float) -> Bar:
        left, right = self.x(span[0]), self.x(span[1])
        gap = 0.5 if right - left > 4 else 0
        return Bar(left, y, max(right - left - gap, LEAST_WIDTH), height, kind, told)


def draw(
    health: Health, sized: list[Sized], others: Iterable[Range], dropped: Iterable[Span], now: datetime
) -> Timeline | None:
    """Return the picture; None for a table without partitions. `others`: detached, or half. `dropped`: in archives."""
    others, dropped = list(others), list(dropped)
    spans = [*(one.range.span for one in sized), *(one.span for one in others), *dropped]
    if not spans:
        return None
    scale = Scale(
        max(min(lower for lower, _ in spans), now - MARGIN),
        min(max(upper for _, upper in spans), now + MARGIN),
    )
    most = max((one.size_bytes for one in sized), default=0)
    bars = [scale.box(gap, "gap", f"gap: {period(gap)}", LANE, BASE - LANE) for gap in health.gaps]
    bars += [
        scale.box(one.range.span, kind_of(one.range, now), tell(one), BASE - high, high)
        for one in sized
        for high in [height_of(one.size_bytes, most)]
    ]
    bars += [scale.box(one.span, "loose", f"{one.name}: {why_loose(one)}", BASE - 20, 20) for one in others]
    bars += [
        scale.box(span, "dropped", f"in an archive: {period(span)}", BASE + 3, LANE - 4) for span in dropped
    ]
    return Timeline(bars, ticks(scale), scale.x(now))


def height_of(size_bytes: int, most: int) -> float:
    return round(max(LEAST_HEIGHT, (BASE - LANE) * math.sqrt(size_bytes / most if most else 0)), 2)


def kind_of(one: Range, now: datetime) -> str:
    if one.mark == "brought back":
        return "back"
    if one.lower > now:
        return "ahead"
    if one.upper > now:
        return "current"
    return "archived" if one.is_archived else "past"


def why_loose(one: Range) -> str:
    return "interrupted detach" if one.detach_pending else f"detached ({one.mark})"


def tell(one: Sized) -> str:
    told = f"{one.range.name}: {period(one.range.span)}, {readable(one.size_bytes)}, about {one.rows:,} rows"
    return told + (", archived" if one.range.is_archived else "")


def period(span: Span) -> str:
    return f"{span[0]:%Y-%m-%d %H:%M} to {span[1]:%Y-%m-%d %H:%M} UTC"


def readable(size_bytes: float) -> str:
    """Return "1.5 MB"."""
    for unit in ("B", "kB", "MB", "GB"):
        if size_bytes < 1024:
            return f"{size_bytes:.0f} {unit}" if unit == "B" else f"{size_bytes:.1f} {unit}"
        size_bytes /= 1024
    return f"{size_bytes:.1f} TB"


def ticks(scale: Scale) -> list[Tick]:
    """Return evenly spaced dates, each in its own room."""
    step = (scale.end - scale.start) / TICKS
    moments = [scale.start + step * n for n in range(TICKS)]
    form = "%Y-%m-%d" if step >= timedelta(days=1) else "%m-%d %H:%M"
    return [Tick(scale.x(moment), f"{moment:{form}}") for moment in moments]
