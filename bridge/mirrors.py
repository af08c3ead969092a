"""Which table each bucket mirrors, in the words that reconcile needs. The triggers in sql/0001_*.sql say the same; a
test holds one against the other."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from django.db.backends.base.base import BaseDatabaseWrapper

from bridge.keys import decode_key, encode_key

IDENTIFIER = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}\Z")


@dataclass(frozen=True)
class Mirror:
    """A table and its bucket. `identity` names the columns, with their types, that the key is made of, in its order;
    `base_revision` is NULL where PostgreSQL owns the bucket."""

    bucket: str
    table: str
    identity: tuple[tuple[str, str], ...]
    key: str
    payload: str
    base_revision: str = "NULL::bigint"
    changed_at: str = "updated_at"
    expires_at: str = "NULL::timestamptz"

    @property
    def is_shared(self) -> bool:
        """Whether agents write to the bucket too."""
        return not self.base_revision.startswith("NULL")

    def parse(self, key: str) -> tuple[str, ...] | None:
        """Return the identity that `key` names, its id as text; None when no row could have it."""
        return parse_key(key, has_text=len(self.identity) == 2)


def parse_key(key: str, has_text: bool) -> tuple[str, ...] | None:
    """Return what a key is made of: an id and, with `has_text`, a state key; None when no row could have it."""
    first, dot, rest = key.partition(".")
    if not IDENTIFIER.match(first) or bool(dot) != has_text:
        return None
    if not has_text:
        return (first,)
    text = decode_key(rest)
    return (first, text) if text and encode_key(text) == rest and "\x00" not in text else None


@dataclass(frozen=True)
class Expected:
    """What PostgreSQL says of a key. `changed_at`: when its row last changed in any column; `seconds_left` None: it
    does not expire, 0 or less: it has."""

    key: str
    payload: str
    base_revision: int | None
    changed_at: datetime
    seconds_left: float | None = None


def seen_revision(bucket: str) -> str:
    """Return what a row of this bucket had seen of it, as its trigger says it (bridge/sql/0003_shared.sql)."""
    return (
        f"CASE WHEN kv_epoch = (SELECT s.kv_epoch FROM bridge.sources s WHERE s.bucket = '{bucket}')"
        " THEN kv_revision ELSE 0 END"
    )


MIRRORS = (
    Mirror(
        "AGENT_STATE",
        "agents.state",
        (("agent_id", "uuid"), ("state_key", "text")),
        "agent_id || '.' || bridge.encode_key(state_key)",
        "state_value",
        seen_revision("AGENT_STATE"),
        expires_at="expires_at",
    ),
    Mirror(
        "SESSION_DATA",
        "sessions.active",
        (("session_id", "uuid"),),
        "session_id::text",
        "session_data",
        seen_revision("SESSION_DATA"),
        "created_at",  # when the data last changed is not kept: what is missing later may have expired
    ),
    Mirror(
        "AGENT_CONFIG",
        "agents.registry",
        (("agent_id", "uuid"),),
        "agent_id::text",
        "jsonb_build_object('agent_id', agent_id, 'agent_type', agent_type, 'agent_name', agent_name,"
        " 'configuration', configuration, 'capabilities', capabilities)",
    ),
    Mirror(
        "TASK_STATE",
        "tasks.queue",
        (("task_id", "uuid"),),
        "task_id::text",
        "bridge.task_payload(task_id, task_type, status, status_reason, priority, attempt, worker, retry_count,"
        " progress, started_at, completed_at)",
    ),
)


def read_page(
    db: BaseDatabaseWrapper, mirror: Mirror, after: tuple[Any, ...] | None, limit: int
) -> list[tuple[Any, ...]]:
    """Return the identities of the next rows in key order; `after` None: from the beginning."""
    columns = ", ".join(name for name, _ in mirror.identity)
    bound = f"WHERE ({columns}) > ({', '.join('%s' for _ in mirror.identity)})" if after else ""
    with db.cursor() as cursor:
        cursor.execute(
            f"SELECT {columns} FROM {mirror.table} {bound} ORDER BY {columns} LIMIT %s",
            [*(after or ()), limit],
        )
        return list(cursor.fetchall())


def read_expected(db: BaseDatabaseWrapper, mirror: Mirror, keys: Sequence[str]) -> dict[str, Expected]:
    """Return what the keys should hold; those without a row are left out."""
    identities = [identity for key in keys if (identity := mirror.parse(key))]
    arrays = [list(column) for column in zip(*identities, strict=True)]
    if not arrays:
        return {}
    names = ", ".join(name for name, _ in mirror.identity)
    wanted = ", ".join(f"%s::{kind}[]" for _, kind in mirror.identity)
    with db.cursor() as cursor:
        cursor.execute(
            f"SELECT {mirror.key}, ({mirror.payload})::text, {mirror.base_revision}, {mirror.changed_at},"
            f" CASE WHEN isfinite({mirror.expires_at})"
            f" THEN extract(epoch FROM {mirror.expires_at} - now())::float8 END"
            f" FROM {mirror.table} JOIN unnest({wanted}) w ({names}) USING ({names})",
            arrays,
        )
        return {row[0]: Expected(*row) for row in cursor.fetchall()}


def key_of(mirror: Mirror, identity: tuple[Any, ...]) -> str:
    """Return the key of an identity, as `mirror.key` makes it."""
    return ".".join([str(identity[0]), *(encode_key(text) for text in identity[1:])])
