"""The demo's agents: one planner and a few readers, found again at each start."""

from collections.abc import Iterator
from dataclasses import dataclass
from uuid import UUID

from django.db import connection, transaction

from agents.models import Agent, AgentStatus
from agents.registry import change_status, register_agent

PLANNER_TYPE = "demo-planner"
READER_TYPE = "demo-reader"
READERS = 4


@dataclass(frozen=True)
class Fleet:
    planner: UUID
    readers: tuple[UUID, ...]

    def __iter__(self) -> Iterator[UUID]:
        return iter((self.planner, *self.readers))

    def reader_of(self, number: int) -> UUID:
        """Return whose turn it is: readers take the modules in rotation."""
        return self.readers[number % len(self.readers)]


def gather_fleet(readers: int = READERS) -> Fleet:
    """Return the demo's agents; register those that are missing or were terminated, with the planner as parent.

    Safe twice and beside itself: a lock lets one after the other in, the later one finds the agents.
    """
    with transaction.atomic():
        with connection.cursor() as cursor:
            cursor.execute("SELECT pg_advisory_xact_lock(hashtext('demo.fleet'))")
        planner = find_or_register(PLANNER_TYPE, "planner", None)
        names = [f"reader-{number}" for number in range(1, readers + 1)]
        return Fleet(planner, tuple(find_or_register(READER_TYPE, name, planner) for name in names))


def find_or_register(agent_type: str, name: str, parent: UUID | None) -> UUID:
    known = Agent.objects.filter(agent_type=agent_type, agent_name=name).exclude(
        status=AgentStatus.TERMINATED
    )
    found = known.order_by("agent_id").first()
    if found is None:
        found = register_agent(agent_type, name, parent=parent, capabilities={"reads": ["python"]})
    return found.pk


def show_busy(fleet: Fleet, is_busy: bool) -> None:
    """Set the agents active or idle. An agent that an operator suspended stays suspended. One query when nothing is
    to do."""
    wanted = AgentStatus.ACTIVE if is_busy else AgentStatus.IDLE
    steady = (wanted, AgentStatus.SUSPENDED, AgentStatus.TERMINATED)
    for agent in Agent.objects.filter(pk__in=list(fleet)).exclude(status__in=steady):
        change_status(agent.pk, wanted, reason="demo")
