"""Heartbeats in batches, and what their absence means.

A heartbeat touches agents.heartbeats only: the registry's rows are what foreign keys lock, so they change only when
the liveness does, or when the time shown there is a minute old.
"""

from collections.abc import Iterable
from datetime import datetime
from uuid import UUID

from django.db import connection

# what the admin shows may lag the heartbeats by this much
REGISTRY_REFRESH_SECONDS = 60

RECORD = """
INSERT INTO agents.heartbeats AS h (agent_id, last_heartbeat)
SELECT r.agent_id, clock_timestamp() FROM agents.registry r
WHERE r.agent_id = ANY(%s::uuid[]) AND r.status <> 'terminated'
ORDER BY r.agent_id
ON CONFLICT (agent_id) DO UPDATE SET last_heartbeat = greatest(h.last_heartbeat, EXCLUDED.last_heartbeat)
"""

SWEEP = """
WITH judged AS (
  SELECT r.agent_id, h.last_heartbeat,
         CASE WHEN %(now)s - h.last_heartbeat >= make_interval(secs => COALESCE(t.lost_after_seconds, 180)) THEN 'lost'
              WHEN %(now)s - h.last_heartbeat >= make_interval(secs => COALESCE(t.suspect_after_seconds, 60))
              THEN 'suspect' ELSE 'alive' END AS liveness
  FROM agents.heartbeats h
  JOIN agents.registry r ON r.agent_id = h.agent_id
  LEFT JOIN agents.type_settings t ON t.agent_type = r.agent_type
  WHERE r.status <> 'terminated'
), due AS (
  SELECT r.agent_id, j.liveness, j.last_heartbeat, r.liveness AS before FROM judged j
  JOIN agents.registry r ON r.agent_id = j.agent_id
  WHERE r.liveness <> j.liveness
     OR j.last_heartbeat - r.last_heartbeat >= make_interval(secs => %(refresh)s) OR r.last_heartbeat IS NULL
  ORDER BY r.agent_id FOR NO KEY UPDATE OF r SKIP LOCKED
)
UPDATE agents.registry r SET liveness = d.liveness, last_heartbeat = d.last_heartbeat
FROM due d WHERE r.agent_id = d.agent_id
RETURNING r.agent_id, d.before, d.liveness
"""


def record_heartbeats(agent_ids: Iterable[UUID]) -> int:
    """Note that these agents are alive now (PostgreSQL's clock); return how many are known. One statement.

    Unknown and terminated agents are left out. Running twice, late or beside itself is safe: a heartbeat never goes
    back in time.
    """
    with connection.cursor() as cursor:
        cursor.execute(RECORD, [sorted(set(agent_ids))])
        return int(cursor.rowcount)


def judge_liveness(now: datetime) -> list[tuple[UUID, str, str]]:
    """Bring the registry's liveness in step with the heartbeats; return (agent, before, after) of those that changed.

    Limits per type are in agents.type_settings (60 and 180 seconds by default). Two at once: each row is judged by one
    of them, the other skips it.
    """
    with connection.cursor() as cursor:
        cursor.execute(SWEEP, {"now": now, "refresh": REGISTRY_REFRESH_SECONDS})
        return [(agent, before, after) for agent, before, after in cursor.fetchall() if before != after]
