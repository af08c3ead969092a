"""The keys `<agent_id>.=epoch` of AGENT_STATE, which the outbox keeps in step, against the registry: for an emptied
NATS, for a PostgreSQL restored to an earlier point, and for hands that wrote where they should not."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from django.db.backends.base.base import BaseDatabaseWrapper

from bridge import topology
from bridge.connection import Client, call
from bridge.headers import EXPECTED, OPERATION, SYNC_ORIGIN, TTL
from bridge.keys import FENCE, fence_key
from bridge.kv import ABSENT, NEVER, Entry, read_entry_of_leader
from bridge.newest import chunks
from bridge.publisher import Message
from bridge.session import execute
from bridge.state_kv import read_epoch

PAGE = 500
ANSWER_SECONDS = 5
CALL_SECONDS = 30
BUCKET = "AGENT_STATE"


def find_wrong(db: BaseDatabaseWrapper) -> dict[str, tuple[int, Entry]]:
    """Return (the epoch that PostgreSQL has, what KV has) of each agent whose fence is not that. One that never had
    a successor needs none. One whose outbox row waits is left out. Raises Unreachable."""
    epochs = dict(execute(db, "SELECT agent_id::text, epoch FROM agents.registry WHERE epoch > 1"))
    agents = sorted(epochs.keys() | set(call(list_fenced, CALL_SECONDS)))
    wrong: dict[str, tuple[int, Entry]] = {}
    for page in chunks(agents, PAGE):
        entries = call(lambda client, page=page: read_fences(client, page), CALL_SECONDS)  # type: ignore[misc]
        wrong |= {
            agent_id: (epochs.get(agent_id, 1), entry)
            for agent_id, entry in entries.items()
            if max(1, read_epoch(entry)) != epochs.get(agent_id, 1)
        }
    pending = execute(
        db,
        "SELECT left(key, 36) FROM bridge.outbox WHERE target = %s AND key = ANY(%s)",
        [BUCKET, [fence_key(agent_id) for agent_id in wrong]],
    )
    return {agent_id: found for agent_id, found in wrong.items() if (agent_id,) not in pending}


def repair(wrong: Mapping[str, tuple[int, Entry]]) -> int:
    """Set fences by compare-and-set; return how many. One that moved meanwhile is left to the next time."""
    bucket = topology.buckets()[BUCKET]
    messages = [
        Message(bucket.subject(fence_key(agent_id)), *content(epoch, entry))
        for agent_id, (epoch, entry) in wrong.items()
    ]

    async def publish(client: Client) -> int:
        return sum(o.is_stored for o in await client.publisher.publish(messages, ANSWER_SECONDS))

    return call(publish, CALL_SECONDS) if messages else 0


def content(epoch: int, entry: Entry) -> tuple[bytes, dict[str, str]]:
    headers = {SYNC_ORIGIN: "reconcile", EXPECTED: str(entry.revision)}
    if epoch == 1:
        return b"", {**headers, OPERATION: "DEL"}
    return json.dumps({"epoch": epoch}).encode(), {**headers, TTL: NEVER}


async def read_fences(client: Client, agents: Sequence[str]) -> dict[str, Entry]:
    bucket, found = topology.buckets()[BUCKET], dict.fromkeys(agents, ABSENT)
    for agent_id in agents:
        found[agent_id] = await read_entry_of_leader(client, bucket, fence_key(agent_id), ANSWER_SECONDS)
    return found


async def list_fenced(client: Client) -> list[str]:
    """Return the agents that have a fence in KV."""
    bucket = topology.buckets()[BUCKET]
    agents: list[str] = []
    while True:
        request = {"subjects_filter": bucket.subject(f"*{FENCE}"), "offset": len(agents)}
        reply = await client.nc.request(
            f"$JS.API.STREAM.INFO.{bucket.stream}", json.dumps(request).encode(), timeout=CALL_SECONDS
        )
        answer: dict[str, Any] = json.loads(reply.data)
        page = list((answer.get("state", {}).get("subjects") or {}).keys())
        agents += [bucket.key(subject).removesuffix(FENCE) for subject in page]
        if not page or len(agents) >= int(answer.get("total") or 0):
            return agents
