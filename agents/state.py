"""Write and read an agent's state in PostgreSQL. The outbox tells JetStream in the same transaction."""

import json
from collections.abc import Collection, Mapping
from datetime import datetime
from typing import Any
from uuid import UUID

from django.db import IntegrityError, connection, transaction
from django.db.models import JSONField, Value
from django.utils import timezone

from agents.errors import StaleEpoch, UnknownAgent
from agents.models import AgentState
from pg.errors import Refused

JSON_NULL = Value(None, JSONField())  # a bare None would be SQL's NULL
MAX_VALUE_BYTES = 2 * 1024 * 1024 - 1024  # the AGENT_STATE bucket's limit, less room for headers


class ValueTooLarge(Refused):
    """A value above the bucket's limit; nothing was written."""


def write_state(
    agent_id: UUID,
    values: Mapping[str, Any],
    *,
    expires_at: datetime | None = None,
    epoch: int | None = None,
) -> list[AgentState]:
    """Set keys of one agent's state; return the rows, with their new versions. A value that is equal changes nothing.

    `expires_at` None: the keys do not expire. `epoch`: refuse (StaleEpoch) unless the agent still has it. Keys are
    written in order, so that two writers cannot deadlock; the later one wins each key. Raises UnknownAgent,
    ValueTooLarge, Refused (an empty or too long key).
    """
    for key, value in values.items():
        _check(key, value)
    try:
        with transaction.atomic():
            if epoch is not None:
                hold_epoch(agent_id, epoch)
            return [_set(agent_id, key, values[key], expires_at) for key in sorted(values)]
    except IntegrityError as error:
        if "registry" not in str(error):
            raise
        raise UnknownAgent(f"{agent_id}: no such agent", "see `manage.py agents list`") from error


def _check(key: str, value: Any) -> None:
    if not 0 < len(key) <= 255:
        raise Refused(f"state key {key[:40]!r}: must have 1 to 255 characters")
    size_bytes = _size_bytes(value)
    if size_bytes > MAX_VALUE_BYTES:
        raise ValueTooLarge(
            f"value of {key!r} has {size_bytes} bytes, the limit is {MAX_VALUE_BYTES}",
            "split it over several keys, or keep the bulk elsewhere and the reference here",
        )


def _size_bytes(value: Any) -> int:
    """Return the size of the value's JSON in UTF-8. Raises Refused for what JSON cannot hold."""
    try:
        return len(json.dumps(value, ensure_ascii=False, allow_nan=False).encode())
    except (TypeError, ValueError) as error:
        raise Refused(f"state value is not JSON: {error}") from error


def yield_to_agents() -> None:
    """For the rest of this transaction: where an agent wrote a key to KV that the writer here had not seen, the agent's
    value stays, here too, and both are kept as a conflict (docs/bridge.md, Conflicts)."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT set_config('bridge.strategy', 'reject', true)")


def hold_epoch(agent_id: UUID, epoch: int) -> None:
    """Refuse an older incarnation, and hold the epoch until the transaction ends. Writers share the lock."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT epoch FROM agents.registry WHERE agent_id = %s FOR SHARE", [agent_id])
        row = cursor.fetchone()
    if row is None:
        raise UnknownAgent(f"{agent_id}: no such agent", "see `manage.py agents list`")
    if row[0] != epoch:
        raise StaleEpoch(
            f"agent {agent_id} is at epoch {row[0]}, the caller at {epoch}: a successor took over"
        )


def _set(agent_id: UUID, key: str, value: Any, expires_at: datetime | None) -> AgentState:
    stored = JSON_NULL if value is None else value
    row, is_new = AgentState.objects.get_or_create(
        agent_id=agent_id, state_key=key, defaults={"state_value": stored, "expires_at": expires_at}
    )
    if not is_new and (canonical(row.state_value), row.expires_at) != (canonical(value), expires_at):
        row.state_value, row.expires_at = stored, expires_at
        row.save(update_fields=["state_value", "expires_at"])
        row.refresh_from_db(fields=["version", "updated_at", "checksum"])
    row.state_value = value
    return row


def canonical(value: Any) -> str:
    """Return what two spellings of one JSON value share. Python's == takes false for 0 and true for 1."""
    return json.dumps(value, sort_keys=True)


def read_state(agent_id: UUID, keys: Collection[str] | None = None) -> dict[str, Any]:
    """Return the agent's live state, or these keys of it; expired ones are left out. One query; empty for an unknown
    agent."""
    rows = AgentState.objects.filter(agent_id=agent_id)
    if keys is not None:
        rows = rows.filter(state_key__in=keys)
    now = timezone.now()
    return {
        key: value
        for key, value, expires_at in rows.values_list("state_key", "state_value", "expires_at")
        if expires_at is None or expires_at > now
    }


def delete_state(agent_id: UUID, keys: list[str]) -> int:
    """Delete keys; return how many there were."""
    rows = AgentState.objects.filter(agent_id=agent_id, state_key__in=keys)
    return sum(row.delete()[0] for row in rows)


def purge_expired_state(limit: int = 1000) -> int:
    """Delete up to `limit` expired rows, oldest first; return how many. Two at once share the work: each locks its own
    rows first (docs/decisions/0024)."""
    with transaction.atomic(), connection.cursor() as cursor:
        cursor.execute(LOCK_EXPIRED, [limit])
        rows = cursor.fetchall()
        if rows:
            cursor.execute(PURGE, [list(column) for column in zip(*rows, strict=True)])
    return len(rows)


LOCK_EXPIRED = """
SELECT agent_id::uuid, state_key::text FROM agents.state WHERE expires_at <= now()
ORDER BY expires_at LIMIT %s FOR UPDATE SKIP LOCKED
"""
PURGE = """
DELETE FROM agents.state s USING unnest(%s::uuid[], %s::text[]) AS expired (agent_id, state_key)
WHERE s.agent_id = expired.agent_id AND s.state_key = expired.state_key
"""
