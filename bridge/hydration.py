"""An agent's whole state into KV in one batch, and where it is: cold, hydrating, active, flushing, expired.

Whoever moves a phase does it by an update that holds only for the phase it saw, so two at once cannot both. Hydrating
twice, or beside the agent, harms nothing (bridge/fill.py). An agent may work without it, for reads fall back to
PostgreSQL: hydration only makes its first reads fast.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import timedelta
from uuid import UUID

from django.db import connection as default_db
from django.db.backends.base.base import BaseDatabaseWrapper
from django.utils import timezone

from agents.models import Agent, AgentStatus
from bridge import topology
from bridge.connection import call
from bridge.fill import Filled, count_rows, fill_bucket
from bridge.models import Hydration, Phase
from bridge.settling import wait_until_flushed
from bridge.state_kv import AgentKeys
from bridge.targets import mirror_of
from pg.errors import MisterSmithError, Refused

BUCKET = "AGENT_STATE"
LEASE = timedelta(seconds=60)  # a hydration that is silent for longer has died: another one may begin
WORKING = (AgentStatus.INITIALIZING, AgentStatus.ACTIVE, AgentStatus.IDLE)


@dataclass(frozen=True)
class Hydrated:
    """What a hydration did; `error` empty: it went well."""

    agent_id: UUID
    filled: Filled
    error: str = ""


def plan_hydration(db: BaseDatabaseWrapper, agent_ids: Collection[UUID]) -> dict[UUID, int]:
    """Return how many live keys each agent has in PostgreSQL."""
    return {agent_id: count_rows(db, mirror_of(BUCKET), [agent_id]) for agent_id in agent_ids}


def hydrate_agent(db: BaseDatabaseWrapper, agent_id: UUID) -> Hydrated:
    """Create in KV what it lacks of the agent's state. Raises Refused while another one is hydrating it, or a backup
    holds the fence; Unreachable, and the agent is then as cold as before."""
    if not begin(agent_id):
        raise Refused(f"agent {agent_id} is being hydrated", "wait for it: see the phase in the admin")
    try:
        filled = fill_bucket(db, mirror_of(BUCKET), [agent_id])
    except MisterSmithError as error:
        move(agent_id, [Phase.HYDRATING], Phase.COLD, error=str(error))
        raise
    move(
        agent_id,
        [Phase.HYDRATING],
        Phase.ACTIVE,
        keys=filled.rows,
        stored=filled.stored,
        hydrated_at=timezone.now(),
    )
    return Hydrated(agent_id, filled)


def release_agent(agent_id: UUID, timeout_seconds: float = 10) -> bool:
    """After an agent ended: wait until what it wrote is in PostgreSQL; return whether it is. It is then cold."""
    if not move(agent_id, [Phase.ACTIVE, Phase.EXPIRED, Phase.FLUSHING], Phase.FLUSHING):
        return True
    settled = wait_until_flushed(agent_id, timeout_seconds)
    is_flushed = settled.kv_revision is not None and not settled.behind
    if is_flushed:
        move(agent_id, [Phase.FLUSHING], Phase.COLD)
    return is_flushed


def begin(agent_id: UUID) -> bool:
    """Take the hydration; False: somebody has it."""
    Hydration.objects.bulk_create([Hydration(agent_id=agent_id)], ignore_conflicts=True)
    free = Hydration.objects.filter(agent_id=agent_id).exclude(
        phase=Phase.HYDRATING, moved_at__gt=timezone.now() - LEASE
    )
    return bool(free.update(phase=Phase.HYDRATING, moved_at=timezone.now(), error=""))


def move(agent_id: UUID, before: Sequence[str], after: str, **values: object) -> bool:
    """Change the phase where it is one of `before`; tell whether it was."""
    rows = Hydration.objects.filter(agent_id=agent_id, phase__in=before)
    return bool(rows.update(phase=after, moved_at=timezone.now(), **values))


# -- the sweep ----------------------------------------------------------------------------------------------
@dataclass
class Swept:
    """What a sweep moved."""

    expired: int = 0
    hydrated: int = 0
    released: int = 0
    failed: int = 0


def sweep(db: BaseDatabaseWrapper, limit: int = 100) -> Swept:
    """Hydrate agents that work and are cold, release those that ended, note those whose state KV has forgotten.

    Safe twice, late or beside itself: each move holds for the phase it saw. Raises Unreachable.
    """
    swept = Swept()
    for agent_id in find_ended(limit):
        swept.released += release_agent(agent_id, timeout_seconds=1)
    swept.expired = note_expired()
    for agent_id in find_cold(limit):
        try:
            hydrate_agent(db, agent_id)
            swept.hydrated += 1
        except Refused:
            swept.failed += 1
    return swept


def find_cold(limit: int) -> list[UUID]:
    """Return agents that began to work, and have state, since they were last hydrated; oldest first."""
    with default_db.cursor() as cursor:
        cursor.execute(COLD, [[str(status) for status in WORKING], limit])
        return [row[0] for row in cursor.fetchall()]


COLD = """
SELECT r.agent_id FROM agents.registry r LEFT JOIN bridge.hydration h USING (agent_id)
WHERE r.status::text = ANY(%s) AND r.liveness = 'alive' AND COALESCE(h.phase, 'cold') IN ('cold', 'expired')
  AND EXISTS (SELECT FROM agents.state s WHERE s.agent_id = r.agent_id)
ORDER BY r.agent_id LIMIT %s
"""


def find_ended(limit: int) -> list[UUID]:
    """Return agents that were terminated and whose state is not cold yet."""
    rows = Hydration.objects.filter(
        phase__in=[Phase.ACTIVE, Phase.EXPIRED, Phase.FLUSHING], agent__status=AgentStatus.TERMINATED
    )
    return list(rows.order_by("moved_at").values_list("agent_id", flat=True)[:limit])


def note_expired() -> int:
    """Move active agents of whom KV has no key left; return how many. Only those hydrated longer ago than a value
    lives are looked at."""
    ttl_seconds = topology.buckets()[BUCKET].ttl_seconds
    if ttl_seconds is None:
        return 0
    since = timezone.now() - timedelta(seconds=ttl_seconds)
    old = Hydration.objects.filter(phase=Phase.ACTIVE, moved_at__lt=since, keys__gt=0)
    return sum(
        move(agent_id, [Phase.ACTIVE], Phase.EXPIRED)
        for agent_id in old.values_list("agent_id", flat=True)
        if not has_keys(agent_id)
    )


def has_keys(agent_id: UUID) -> bool:
    """Tell whether KV has a live key of the agent's. Raises Unreachable."""
    entries = call(AgentKeys(agent_id).read_all)
    return any(entry.is_live for entry in entries.values())


def find_working(limit: int) -> list[UUID]:
    """Return the agents that work, newest first."""
    rows = Agent.objects.filter(status__in=WORKING).order_by("-agent_id")
    return list(rows.values_list("agent_id", flat=True)[:limit])
