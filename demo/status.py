"""How far the demo is."""

from dataclasses import asdict, dataclass
from typing import Any

from django.db.models import Count

from agents.models import Agent
from agents.state import read_state
from demo.fleet import PLANNER_TYPE, READER_TYPE
from tasks.models import Task, TaskStatus

TASK_TYPES = ("demo.plan", "demo.read_module", "demo.sum_up")
OPEN = (TaskStatus.PENDING, TaskStatus.QUEUED, TaskStatus.RUNNING, TaskStatus.PAUSED)


@dataclass(frozen=True)
class Progress:
    """Tasks by what became of them; `facts` as the readers counted them."""

    planned: bool
    open: int
    completed: int
    failed: int
    facts: int

    @property
    def is_done(self) -> bool:
        return self.planned and not self.open

    def as_counts(self) -> dict[str, int]:
        return {name: int(number) for name, number in asdict(self).items() if name != "planned"}

    def __str__(self) -> str:
        total = self.open + self.completed + self.failed
        return f"{self.completed} of {total} tasks done, {self.open} open, {self.failed} failed, {self.facts} facts"


def read_progress() -> Progress:
    """Count the demo's tasks: one query over their own partitions, one per reader."""
    rows = Task.objects.filter(task_type__in=TASK_TYPES).values_list("status")
    counts = dict(rows.annotate(number=Count("task_id")).order_by())
    return Progress(
        planned=bool(counts),
        open=sum(counts.get(status, 0) for status in OPEN),
        completed=counts.get(TaskStatus.COMPLETED, 0),
        failed=counts.get(TaskStatus.FAILED, 0),
        facts=sum(agent["facts"] or 0 for agent in list_agents()),
    )


def list_agents() -> list[dict[str, Any]]:
    """Return the demo's agents with the figures of their state, planner first."""
    agents = Agent.objects.filter(agent_type__in=(PLANNER_TYPE, READER_TYPE)).order_by(
        "agent_type", "agent_name"
    )
    return [agent_row(agent, read_state(agent.pk)) for agent in agents.exclude(status="terminated")]


def agent_row(agent: Agent, state: dict[str, Any]) -> dict[str, Any]:
    return {
        "agent": agent.agent_name,
        "status": agent.status,
        "liveness": agent.liveness,
        "modules_read": state.get("modules_read"),
        "facts": state.get("facts"),
        "current_module": state.get("current_module"),
        "agent_id": agent.pk,
    }


def list_failures() -> list[str]:
    """Return why tasks of the demo failed for good, newest first, at most ten."""
    failed = Task.objects.filter(task_type__in=TASK_TYPES, status=TaskStatus.FAILED).order_by("-created_at")[
        :10
    ]
    return [
        f"{task} failed after {task.retry_count + 1} attempts: {first_line(task.status_reason)}"
        for task in failed
    ]


def first_line(text: str | None) -> str:
    return (text or "").partition("\n")[0]
