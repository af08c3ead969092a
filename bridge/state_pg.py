"""One agent's keys in PostgreSQL, for the state API: what KV lacks, and everything while NATS is away."""

import json
import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from django.db import connection, transaction
from django.utils import timezone

from agents.state import delete_state, hold_epoch, write_state
from bridge.state_values import StateValue, Version, VersionConflict

PENDING = (
    "EXISTS (SELECT FROM bridge.outbox o WHERE o.target = 'AGENT_STATE'"
    " AND o.key = s.agent_id || '.' || bridge.encode_key(s.state_key))"
)


@dataclass(frozen=True)
class Row:
    """A live row. `text`: the value as JSON text. `is_pending`: a write of it is on its way to KV."""

    text: str
    version: int
    kv_epoch: int
    kv_revision: int
    expires_at: datetime | None
    is_pending: bool = False

    def seconds_left(self) -> int | None:
        """Return the whole seconds until it expires, at least 1; None: it does not."""
        if self.expires_at is None:
            return None
        return max(1, math.ceil((self.expires_at - timezone.now()).total_seconds()))

    def to_value(self, key: str) -> StateValue:
        return StateValue(key, json.loads(self.text), str(Version(row=self.version)), self.seconds_left())


def read_rows(agent_id: UUID, keys: Collection[str] | None = None, *, lock: bool = False) -> dict[str, Row]:
    """Return the live rows of these keys, or of all. One query."""
    wanted = "" if keys is None else "AND state_key = ANY(%s)"
    with connection.cursor() as cursor:
        cursor.execute(
            f"SELECT state_key, state_value::text, version, kv_epoch, kv_revision, expires_at, {PENDING}"
            " FROM agents.state s"
            f" WHERE agent_id = %s {wanted} AND (expires_at IS NULL OR expires_at > now())"
            f" ORDER BY state_key {'FOR UPDATE' if lock else ''}",
            [agent_id, *([] if keys is None else [list(keys)])],
        )
        return {key: Row(*rest) for key, *rest in cursor.fetchall()}


def put_rows(
    agent_id: UUID, values: Mapping[str, Any], ttl_seconds: int | None, epoch: int | None
) -> dict[str, Version]:
    """Write keys; the outbox carries them to KV. Raises StaleEpoch, UnknownAgent, ValueTooLarge."""
    rows = write_state(agent_id, values, expires_at=expiry(ttl_seconds), epoch=epoch)
    return {row.state_key: Version(row=row.version) for row in rows}


def delete_row(agent_id: UUID, key: str, epoch: int | None) -> None:
    with transaction.atomic():
        if epoch is not None:
            hold_epoch(agent_id, epoch)
        delete_state(agent_id, [key])


def compare_and_set_row(
    agent_id: UUID,
    key: str,
    value: Any,
    expected: Version,
    ttl_seconds: int | None,
    epoch: int | None,
    *,
    newest: int = 0,
    is_delete: bool = False,
) -> Version:
    """Write, or delete, where the row is what the caller had read; the writers of a key take turns by its lock.

    A version read from KV fits the row that was flushed from that revision, as long as nothing written here since waits
    for KV. `newest`: the revision in KV that an agent wrote, 0 where that is not known: PostgreSQL must have seen it.
    Should one come all the same, it stays (strategy `reject`). Raises VersionConflict, StaleEpoch, UnknownAgent.
    """
    with transaction.atomic():
        if epoch is not None:
            hold_epoch(agent_id, epoch)
        row = read_rows(agent_id, [key], lock=True).get(key)
        if newest > (row.kv_revision if row else 0) or not fits(agent_id, key, row, expected):
            raise VersionConflict(f"{key} is not what the caller had read", "read it again and decide anew")
        with connection.cursor() as cursor:
            cursor.execute("SELECT set_config('bridge.strategy', 'reject', true)")
        if is_delete:
            delete_state(agent_id, [key])
            return Version()
        return put_rows(agent_id, {key: value}, ttl_seconds, None)[key]


def fits(agent_id: UUID, key: str, row: Row | None, expected: Version) -> bool:
    if row is None or expected == Version():
        return row is None and expected == Version()
    if expected.row:
        return row.version == expected.row
    is_flushed = (row.kv_epoch, row.kv_revision) == (expected.epoch, expected.revision)
    return is_flushed and not row.is_pending


def expiry(ttl_seconds: int | None) -> datetime | None:
    return None if ttl_seconds is None else timezone.now() + timedelta(seconds=ttl_seconds)
