"""A worker's turn at one type: store what ended well, claim what comes next. One statement, one transaction.

The statement is a function of the type's leaf, which keeps its plans: `tasks.make_turn`, by now that of
tasks/sql/0021_release_in_turn.sql (decision 0019).
"""

import json
import struct
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from django.conf import settings

from pg.arrays import ids, integers, jsons, numbers, texts
from pg.direct import run_direct
from pg.json import dump_json
from tasks.leaves import leaf_of
from tasks.usage import Usage

LEASE_MARGIN_SECONDS = 5.0  # the lease ends that much after the hard time-out, which is recorded first
NOT_MEASURED = Usage()
TURN = (
    "SELECT * FROM turn($1::text, $2::uuid, $3::uuid[], $4::integer[], $5::uuid[], $6::jsonb[],"
    " $7::bigint[], $8::integer[], $9::bigint[], $10::text[],"
    " $11::integer, $12::integer, $13::double precision, $14::double precision)"
)
INTEGER, FLOAT = struct.Struct(">i"), struct.Struct(">d")


@dataclass(frozen=True)
class Claimed:
    """A task leased to `worker`. `attempt` counts claims from 1, `retry_count` the failures so far."""

    task_id: UUID
    task_type: str
    worker: UUID
    attempt: int
    retry_count: int
    payload: Any
    execution_id: UUID
    timeout_seconds: float

    @property
    def fence(self) -> dict[str, Any]:
        return {
            "task_id": self.task_id,
            "task_type": self.task_type,
            "worker": self.worker,
            "attempt": self.attempt,
        }


@dataclass(frozen=True)
class Ended:
    """An attempt that ended well. `result`: what JSON can hold. `logs` None: nothing was logged."""

    claimed: Claimed
    result: Any = None
    usage: Usage = NOT_MEASURED
    logs: str | None = None


@dataclass(frozen=True)
class Turn:
    """What came of a turn. `stored`: the tasks that were still the worker's and are completed now; `next_types`: those
    that wait for them, or for what they held; `parked`: tasks that could not start, a resource of theirs is taken."""

    stored: list[UUID]
    next_types: set[str]
    claimed: list[Claimed]
    parked: list[UUID]


def lease_seconds() -> float:
    """Return how long a lease holds without a heartbeat (setting TASKS_LEASE_SECONDS)."""
    return float(getattr(settings, "TASKS_LEASE_SECONDS", 60))


def grace_seconds() -> float:
    """Return how long a handler has from the soft time-out to the hard one (setting TASKS_GRACE_SECONDS)."""
    return float(getattr(settings, "TASKS_GRACE_SECONDS", 10))


def lease_limits() -> dict[str, float]:
    """Return what the statements that set leases need: a lease ends soon after the hard time-out, whatever happens."""
    return {"lease_seconds": lease_seconds(), "grace_seconds": grace_seconds() + LEASE_MARGIN_SECONDS}


def take_turn(
    task_type: str,
    worker: UUID,
    ended: Iterable[Ended] = (),
    limit: int = 0,
    limit_if_limited: int | None = None,
) -> Turn:
    """Complete the `ended` tasks of this type and worker, and claim up to `limit` others.

    `limit_if_limited`: so many where limits bound the type; None: `limit`. Raises ValueError for a result that JSON
    cannot hold, before anything is written.
    """
    rows = run_direct(turn_of(task_type), parameters_of(task_type, worker, ended, limit, limit_if_limited))
    turn = Turn([], set(), [], [])
    for task_id, next_types, attempt, retry_count, payload, timeout_seconds, execution_id in rows:
        if attempt is None:
            turn.stored.append(task_id)
            turn.next_types.update(next_types)
        elif execution_id is None:
            turn.parked.append(task_id)
        else:
            told = (attempt, retry_count, json.loads(payload), execution_id, timeout_seconds)
            turn.claimed.append(Claimed(task_id, task_type, worker, *told))
    return turn


def turn_of(task_type: str) -> str:
    """Return the statement; `parameters_of` are its values."""
    return TURN.replace("turn", leaf_of(task_type).replace("tasks.", "tasks.turn_", 1), 1)


def parameters_of(
    task_type: str, worker: UUID, ended: Iterable[Ended], limit: int, limit_if_limited: int | None = None
) -> list[bytes]:
    """Return the values of a turn in binary: an array per column, in the order of the executions (the function asks for
    the first and the last)."""
    items = sorted(ended, key=lambda item: item.claimed.execution_id)
    columns = (
        ids([item.claimed.task_id for item in items]),
        integers([item.claimed.attempt for item in items]),
        ids([item.claimed.execution_id for item in items]),
        jsons([dump_json(item.result) for item in items]),
        numbers([item.usage.cpu_time_ms for item in items]),
        integers([item.usage.memory_peak_mb for item in items]),
        numbers([item.usage.io_operations for item in items]),
        texts([item.logs for item in items]),
    )
    return [
        task_type.encode(),
        worker.bytes,
        *(column.data for column in columns),
        INTEGER.pack(limit),
        INTEGER.pack(limit if limit_if_limited is None else limit_if_limited),
        FLOAT.pack(lease_seconds()),
        FLOAT.pack(grace_seconds() + LEASE_MARGIN_SECONDS),
    ]
