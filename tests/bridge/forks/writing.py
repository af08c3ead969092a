"""What the forked processes of these tests do."""

import os
from typing import Any

from agents.models import AgentState
from bridge import connection


async def client_id(client: Any) -> int:
    """Return the number under which nats-server knows this process's connection."""
    await client.jetstream.publish("$KV.AGENT_CONFIG.forked", b"1")
    return int(client.nc.client_id)


def save(agent_id: str, key: str) -> dict[str, int]:
    """Save a row, which the fast path brings to KV, and say who did it."""
    value = {"pid": os.getpid(), "client": connection.call(client_id)}
    AgentState.objects.create(agent_id=agent_id, state_key=key, state_value=value)
    return value
