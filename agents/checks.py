"""What doctor asks of the agents room."""

from collections.abc import Iterator

from django.db import connection

from monitoring.registry import Finding, register_check, register_metric


def look_for_lost_agents() -> Iterator[Finding]:
    """Agents meant to work whose heartbeats stopped. Worker processes that died are swept with their tasks."""
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT count(*), min(agent_name) FROM agents.registry"
            " WHERE liveness = 'lost' AND status IN ('initializing', 'active', 'idle')"
        )
        count, example = cursor.fetchone()
    yield Finding(
        count == 0,
        f"{count} agents are lost, {example} among them" if count else "no agent is lost",
        "see `manage.py agents list --liveness lost`; terminate those that will not come back",
    )


def count_by_status() -> Iterator[tuple[dict[str, str], float]]:
    with connection.cursor() as cursor:
        cursor.execute("SELECT status::text, liveness, count(*) FROM agents.registry GROUP BY 1, 2")
        for status, liveness, count in cursor.fetchall():
            yield {"status": status, "liveness": liveness}, count


def register() -> None:
    register_check("agents.lost", look_for_lost_agents)
    register_metric("mistersmith_agents", "Agents by status and liveness.", count_by_status)
