"""The fleet at a glance: figures at bounded cost, all from PostgreSQL, so that they come when NATS is down too."""

import json
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from django.db import connection
from django.template.defaultfilters import filesizeformat
from django.urls import reverse
from django.utils import timezone

from agents.checks import count_by_status
from agents.models import AgentStatus
from bridge.checks import OLDEST_SECONDS
from bridge.outbox import read_depth
from cockpit.remember import Remembered
from monitoring.alarms import ringing
from monitoring.registry import checks, run_check
from recovery.checks import in_words, newest_verified
from recovery.cross_checks import newest_proof
from tasks import stats
from tasks.models import TaskStatus

GLANCE_SECONDS, CHECKS_SECONDS, CHART_SECONDS = 4, 10, 10
# those that ask PostgreSQL or this machine only, and little; `doctor` runs all
QUICK_CHECKS = frozenset(
    {
        "agents.lost",
        "bridge.outbox",
        "bridge.quarantine",
        "bridge.relay",
        "cockpit.beat",
        "cockpit.disk",
        "messaging.dead",
        "messaging.overdue",
        "monitoring.connections",
        "partitions.cover",
        "partitions.detach",
        "recovery.backup",
        "sessions.purge",
        "tasks.default_leaf",
        "tasks.leases",
        "tasks.oldest_ready",
        "tasks.workers",
    }
)


@dataclass(frozen=True)
class Tile:
    """One figure. `tone`: "" or "bad"."""

    title: str
    value: str
    note: str
    link: str
    tone: str = ""


@dataclass(frozen=True)
class Bar:
    """One status: how many, as text, and how long its bar is in percent of the longest."""

    status: str
    number: str
    percent: int
    link: str


@dataclass(frozen=True)
class Alarm:
    check: str
    detail: str
    hint: str


@dataclass(frozen=True)
class Fleet:
    at: datetime
    tiles: list[Tile]
    agents: list[Bar]
    tasks: list[Bar]
    chart: dict[str, Any]
    alarms: list[Alarm] = field(default_factory=list)
    checked: int = 0

    @property
    def chart_text(self) -> str:
        return json.dumps(self.chart)


def read_fleet() -> Fleet:
    """Look at everything. About a dozen short queries; `fleet()` spares them."""
    by_liveness, by_status = count_agents()
    tasks, minutes, found = count_tasks(), minutes_seen(), alarms_seen()
    return Fleet(
        at=timezone.now(),
        tiles=[
            agents_tile(by_status, by_liveness),
            *task_tiles(tasks, minutes),
            outbox_tile(),
            backup_tile(),
            proof_tile(),
        ],
        agents=bars(by_status, AgentStatus.values, "admin:agents_agent_changelist", "status__exact"),
        tasks=bars(tasks, TaskStatus.values, "admin:tasks_task_changelist", "status", stats.COUNT_LIMIT),
        chart=make_chart(minutes),
        alarms=found,
        checked=len(QUICK_CHECKS),
    )


fleet = Remembered(read_fleet, GLANCE_SECONDS)


def forget() -> None:
    """Look anew at the next request."""
    for remembered in (fleet, minutes_seen, alarms_seen):
        remembered.forget()


# -- agents and tasks ---------------------------------------------------------------------------------------
def count_agents() -> tuple[Counter[str], Counter[str]]:
    """Return agents by liveness (those that are not terminated) and by status."""
    by_liveness, by_status = Counter[str](), Counter[str]()
    for labels, number in count_by_status():
        by_status[labels["status"]] += int(number)
        if labels["status"] != AgentStatus.TERMINATED:
            by_liveness[labels["liveness"]] += int(number)
    return by_liveness, by_status


def agents_tile(by_status: Counter[str], by_liveness: Counter[str]) -> Tile:
    """Terminated agents are not of the fleet any more."""
    note = f"{by_liveness['alive']:,} alive, {by_liveness['suspect']:,} suspect, {by_liveness['lost']:,} lost"
    tone = "bad" if by_liveness["lost"] or by_status[AgentStatus.ERROR] else ""
    return Tile(
        "Agents", f"{sum(by_liveness.values()):,}", note, reverse("admin:agents_agent_changelist"), tone
    )


def count_tasks() -> Counter[str]:
    """Return tasks by status; a type with COUNT_LIMIT of a status or more counts as that many."""
    numbers = Counter[str]()
    for row in stats.count_tasks():
        numbers[row["status"]] += row["number"]
    return numbers


def task_tiles(tasks: Counter[str], minutes: list[dict[str, Any]]) -> list[Tile]:
    queue, executions = reverse("admin:tasks_task_changelist"), reverse("admin:tasks_execution_changelist")
    age, workers = stats.oldest_ready_seconds(), stats.count_living_workers()
    waits = "nothing waits" if age is None else f"the oldest for {seconds_in_words(age)}"
    failed = sum(minute["failed"] for minute in minutes)
    return [
        Tile("Ready tasks", text_of(tasks["queued"]), waits, f"{queue}?status=queued"),
        Tile("Running tasks", text_of(tasks["running"]), f"{workers} worker processes", f"{queue}?status=running"),
        Tile(
            "Done last minute",
            f"{minutes[-2]['completed']:,}",
            f"{failed:,} failed in the last hour",
            f"{executions}?within=1h",
        ),
    ]  # fmt: skip


def bars(
    numbers: Counter[str], statuses: Iterable[str], page: str, parameter: str, limit: int | None = None
) -> list[Bar]:
    longest = max(numbers.values(), default=0) or 1
    return [
        Bar(
            status,
            text_of(numbers[status], limit),
            round(100 * numbers[status] / longest),
            f"{reverse(page)}?{parameter}={status}",
        )
        for status in statuses
    ]


def text_of(number: int, limit: int | None = stats.COUNT_LIMIT) -> str:
    return f"{number:,}" + ("+" if limit is not None and number >= limit else "")


def seconds_in_words(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} min"


# -- the last hour ------------------------------------------------------------------------------------------
minutes_seen = Remembered(stats.executions_by_minute, CHART_SECONDS)


def make_chart(minutes: list[dict[str, Any]]) -> dict[str, Any]:
    """Return what Chart.js draws; a minute that was not read whole is a gap, the present one is left out."""
    past = minutes[:-1]
    return {
        "labels": [f"{minute['minute']:%H:%M}" for minute in past],
        "datasets": [
            make_line("Completed", "completed", "var(--color-primary-600)", past),
            make_line("Failed", "failed", "#dc2626", past),
        ],
    }


def make_line(label: str, column: str, colour: str, minutes: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        "label": label,
        "data": [minute[column] if minute["is_whole"] else None for minute in minutes],
        "borderColor": colour,
        "backgroundColor": colour,
        "displayYAxis": True,
        "maxTicksXLimit": 12,
    }


# -- bridge, recovery, alarms -------------------------------------------------------------------------------
def outbox_tile() -> Tile:
    depth = read_depth(connection)
    is_bad = depth.oldest_seconds > OLDEST_SECONDS or depth.quarantined > 0
    note = f"the oldest for {seconds_in_words(depth.oldest_seconds)}" if depth.rows else "JetStream has all"
    if depth.quarantined:
        note += f"; {depth.quarantined:,} refused"
    link = reverse("admin:bridge_outboxrow_changelist")
    return Tile("Outbox rows", f"{depth.rows:,}", note, link, "bad" if is_bad else "")


def backup_tile() -> Tile:
    """Whether it is too old is for the check to say."""
    newest, link = newest_verified(), reverse("admin:recovery_backup_changelist")
    if newest is None:
        return Tile("Verified backup", "none yet", "made every night", link)
    note = f"{newest.kind}, {filesizeformat(newest.size_bytes or 0)}"
    return Tile("Verified backup", f"{in_words(timezone.now() - newest.started_at)} old", note, link)


def proof_tile() -> Tile:
    """When a restore was last proven, and how long it took."""
    proof, link = newest_proof(), reverse("admin:recovery_testresult_changelist")
    if proof is None:
        return Tile("Last proven", "never", "a restore is drilled every night", link)
    ago = in_words(timezone.now() - (proof.test_completed_at or proof.test_started_at))
    seconds = proof.performance_metrics["rto_seconds"]
    return Tile("Last proven", f"{ago} ago", f"{seconds:.0f} s, {proof.get_test_type_display()}", link)


def read_alarms() -> list[Alarm]:
    """Return the alarms that ring and are not silenced, then what the quick checks found not ok."""
    now = timezone.now()
    loud = [rule for rule in ringing() if not (rule.silenced_until and rule.silenced_until > now)]
    found = [Alarm(rule.name, f"{rule.state}: {rule.metric} is {rule.value:g}", rule.hint) for rule in loud]
    return found + [
        Alarm(check.name, finding.detail, finding.hint)
        for check in checks()
        if check.name in QUICK_CHECKS
        for finding in run_check(check)
        if not finding.ok
    ]


alarms_seen = Remembered(read_alarms, CHECKS_SECONDS)
