"""What the admin shows of partitions: a picture and figures per table, and the plan."""

from dataclasses import dataclass
from typing import Any

from django.db import DatabaseError, connection

from partitions.catalog import read_clock, read_rules, read_tables
from partitions.health import Health, Sized, survey
from partitions.maintenance import plan_all
from partitions.plan import Step
from partitions.timeline import HEIGHT, WIDTH, Timeline, draw, readable

LISTED = 60  # partitions listed by name under a picture


@dataclass(frozen=True)
class Panel:
    """One table's panel. `timeline` None: it has no partitions."""

    health: Health
    timeline: Timeline | None
    facts: str
    newest: list[Sized]


def read_panels() -> list[Panel]:
    """Return a panel for each table with a policy, in its order. Seven queries, and one for each DEFAULT partition."""
    clock, panels = read_clock(), []
    for one in survey(read_rules()):
        health = one.judged(clock)
        loose = [each for each in one.table.ranges if not each.is_attached or each.detach_pending]
        timeline = draw(health, one.sized, loose, one.table.dropped, clock.earliest)
        panels.append(Panel(health, timeline, facts(health), one.sized[::-1][:LISTED]))
    return panels


def facts(health: Health) -> str:
    told = [
        f"{health.partitions} partitions",
        f"{health.cover_days} days ahead" if health.cover_days >= 0 else "today has no partition",
        f"{readable(health.size_bytes)}, about {health.rows:,} rows",
    ]
    if health.growth_bytes is not None and health.forecast_bytes is not None:
        told.append(
            f"grows {readable(health.growth_bytes)} a day, in 30 days {readable(health.forecast_bytes)}"
        )
    return "; ".join(told)


def others() -> list[dict[str, Any]]:
    """Return the tables that are partitioned otherwise: no upkeep, but figures."""
    return [
        {
            "name": one.name,
            "facts": f"by {one.strategy}, {one.partitions} partitions, {readable(one.size_bytes)}",
        }
        for one in read_tables()
        if one.strategy != "range"
    ]


def overview() -> dict[str, Any]:
    """Return what the page needs besides the list of policies."""
    return {"panels": read_panels(), "others": others(), "picture_width": WIDTH, "picture_height": HEIGHT}


def planned() -> tuple[list[Step], list[Step], str]:
    """Return the steps that are due, those kept against their age, and an error where nothing can be planned."""
    try:
        steps = plan_all()
    except DatabaseError as error:
        connection.close_if_unusable_or_obsolete()
        return [], [], str(error).strip()
    return [one for one in steps if one.action != "keep"], [one for one in steps if one.action == "keep"], ""
