"""Put tasks into the queue, in the caller's transaction: rolled back with it, visible and run after it commits."""

import json
from collections.abc import Callable, Iterable, Sequence
from typing import Any
from uuid import UUID

from django.db import IntegrityError, OperationalError, connection, transaction
from psycopg.pq import Format

from pg import arrays
from pg.copying import copy_rows
from pg.direct import numbered, run_direct
from pg.prepared import run_prepared
from pg.queries import Queries
from tasks import tickets
from tasks.leaves import PARENT, leaf_of
from tasks.new_task import After, NewTask, TaskRefused, row_of

QUERIES = Queries("tasks")
BATCH = 5_000
CHUNK = 500  # rows that are made ready together, while the server stores those before
NOTHING = {type(None)}
Kind = Callable[[Any], arrays.Array]
# for tasks with keys: of each column its parameter, and how PostgreSQL receives it
COLUMNS: dict[str, tuple[str, Kind]] = {
    "task_id": ("task_ids", arrays.ids),
    "task_type": ("task_types", arrays.texts),
    "task_name": ("task_names", arrays.texts),
    "payload": ("payloads", arrays.jsons),
    "priority": ("priorities", arrays.texts),
    "scheduled_at": ("scheduled_ats", arrays.times),
    "expires_at": ("expires_ats", arrays.times),
    "max_retries": ("max_retries", arrays.integers),
    "timeout_seconds": ("timeouts", arrays.floats),
    "unique_key": ("unique_keys", arrays.texts),
    "concurrency_key": ("concurrency_keys", arrays.texts),
    "assigned_agent": ("assigned_agents", arrays.ids),
    "created_by": ("created_bys", arrays.ids),
    "parent": ("parents", arrays.ids),
    # arrays of arrays must be of one length: as text, for PostgreSQL to read
    "resources": ("resources", lambda values: arrays.texts([value and text_of(value) for value in values])),
    "unique_seconds": ("unique_seconds", arrays.floats),
    "free_at_start": ("free_at_starts", arrays.booleans),
    "blocked_by": ("blocked_bys", arrays.integers),
    "metadata": ("metadata", arrays.jsons),
}
# for tasks without: of each column its name in the table
COPIED: dict[str, tuple[str, Kind]] = {
    "task_id": ("task_id", arrays.ids),
    "task_type": ("task_type", arrays.texts),
    "task_name": ("task_name", arrays.texts),
    "payload": ("payload", arrays.jsons),
    "priority": ("priority", arrays.texts),
    "status": ("status", arrays.texts),
    "scheduled_at": ("scheduled_at", arrays.times),
    "expires_at": ("expires_at", arrays.times),
    "max_retries": ("max_retries", arrays.integers),
    "timeout_seconds": ("max_execution_time", arrays.intervals),
    "concurrency_key": ("concurrency_key", arrays.texts),
    "assigned_agent": ("assigned_agent_id", arrays.ids),
    "created_by": ("created_by_agent_id", arrays.ids),
    "parent": ("parent_task_id", arrays.ids),
    "resources": ("resources", arrays.lists),
    "blocked_by": ("blocked_by", lambda values: arrays.integers([value or 0 for value in values])),
    "metadata": ("metadata", arrays.jsons),
}
DEADLOCK = "40P01"
DEADLOCK_ATTEMPTS = 3
KEY_ATTEMPTS = 5  # a holder may end between the conflict and the look at who it is
__all__ = ["After", "NewTask", "TaskRefused", "enqueue", "enqueue_many", "parse_payload"]


def enqueue(task_type: str, payload: Any = None, **options: Any) -> UUID:
    """Enqueue one task and return its id; `options` are the fields of NewTask.

    Where an open task holds its `unique_key`, nothing is enqueued and that task's id is returned.
    Raises TaskRefused, before anything is written, for what breaks a rule.
    """
    return enqueue_many(
        [NewTask(task_type=task_type, payload={} if payload is None else payload, **options)]
    )[0]


def enqueue_many(tasks: Iterable[NewTask]) -> list[UUID]:
    """Enqueue tasks, BATCH by one statement (and one for their dependencies); return their ids in the same order.

    For a `unique_key` that is taken, by an open task or an earlier one of the same call, the holder's id is returned.
    All or nothing: raises TaskRefused when one of them breaks a rule. Where PostgreSQL ends it for a deadlock, it is
    done again, DEADLOCK_ATTEMPTS times in all.
    """
    rows = [row_of(task) for task in tasks]
    if not rows:
        return []
    is_plain = not any(row["unique_key"] or row["edges"] for row in rows)
    try:
        if is_plain and len(rows) <= BATCH and not connection.in_atomic_block:
            ids = _insert_plain(rows)  # one statement is a transaction
        else:
            ids = _insert_despite_deadlocks(rows)
    except IntegrityError as error:
        raise _refusal(error) from error
    tickets.send_on_commit({row["task_type"] for row in rows})
    return ids


def _insert_despite_deadlocks(rows: list[dict[str, Any]]) -> list[UUID]:
    """`_insert_together`, again where PostgreSQL ended it to solve a deadlock: its locks, on the tasks that are waited
    for, are free again by then."""
    for _ in range(DEADLOCK_ATTEMPTS - 1):
        try:
            return _insert_together(rows)
        except OperationalError as error:
            if getattr(error.__cause__, "sqlstate", None) != DEADLOCK:
                raise
    return _insert_together(rows)


def _insert_together(rows: list[dict[str, Any]]) -> list[UUID]:
    """Insert what is to be inserted, in a transaction or a savepoint of the caller's; return for each row its own id or
    that of its key's holder."""
    ids: list[UUID] = []
    with transaction.atomic():
        for start in range(0, len(rows), BATCH):
            batch = rows[start : start + BATCH]
            ids += _insert_keyed(batch) if any(row["unique_key"] for row in batch) else _insert_plain(batch)
        _add_dependencies(rows, ids)
    return ids


def _insert_plain(rows: list[dict[str, Any]]) -> list[UUID]:
    """Insert tasks without keys by one statement; return their ids."""
    types = {row["task_type"] for row in rows}
    leaf = leaf_of(*types) if len(types) == 1 else PARENT  # straight into one leaf: no row is routed
    if len(rows) == 1:
        _insert_one(rows[0], leaf)
    else:
        chunks = (rows[start : start + CHUNK] for start in range(0, len(rows), CHUNK))
        names = [name for name, _ in COPIED.values()]
        copy_rows(leaf, names, (_columns(chunk) for chunk in chunks))
    return [row["task_id"] for row in rows]


def _insert_one(row: dict[str, Any], leaf: str) -> None:
    """In a transaction psycopg keeps the statement: pg.direct would have it planned each time."""
    text = QUERIES.text("enqueue_one", leaf=leaf)
    if connection.in_atomic_block:
        run_prepared(text, row)
    else:
        statement, names = numbered(text)
        values = [None if (value := row[name]) is None else bytes_of(value) for name in names]
        run_direct(statement, values, Format.TEXT)


def bytes_of(value: Any) -> bytes:
    """Return a value as PostgreSQL reads it."""
    return (text_of(value) if isinstance(value, list) else str(value)).encode()


def _columns(rows: list[dict[str, Any]]) -> list[arrays.Array]:
    return [to_array([row[name] for row in rows]) for name, (_, to_array) in COPIED.items()]


def _insert_keyed(rows: list[dict[str, Any]]) -> list[UUID]:
    settled: dict[UUID, UUID] = {}
    left = rows
    for _ in range(KEY_ATTEMPTS):
        stored = {task_id for (task_id,) in run_prepared(QUERIES.text("enqueue"), _arrays(left))}
        settled |= {task_id: task_id for task_id in stored}
        left = [row for row in left if row["task_id"] not in stored]
        if not left:
            break
        keys = [row["unique_key"] for row in left]
        holders = {
            row["unique_key"]: row["task_id"] for row in QUERIES.run("key_holders", {"unique_keys": keys})
        }
        settled |= {
            row["task_id"]: holders[row["unique_key"]] for row in left if row["unique_key"] in holders
        }
        left = [row for row in left if row["unique_key"] not in holders]
        if not left:
            break
    else:
        raise TaskRefused(f"unique_key={left[0]['unique_key']!r}: it changes hands too fast", "try again")
    return [settled[row["task_id"]] for row in rows]


def _arrays(rows: list[dict[str, Any]]) -> dict[str, arrays.Array | None]:
    """Turn rows into one array per column, as unnest wants them: it fills up one that is too short with NULL, so that a
    column of nothing needs none."""
    found: dict[str, arrays.Array | None] = {}
    for name, (parameter, to_array) in COLUMNS.items():
        column = [row[name] for row in rows]
        found[parameter] = None if set(map(type, column)) == NOTHING else to_array(column)
    return found


def text_of(texts: Sequence[str]) -> str:
    """Return texts as PostgreSQL writes an array."""
    quoted = (text.replace("\\", "\\\\").replace('"', '\\"') for text in texts)
    return "{" + ",".join(f'"{text}"' for text in quoted) + "}"


def _add_dependencies(rows: list[dict[str, Any]], ids: list[UUID]) -> None:
    """Insert the edges of the tasks that were inserted; of completion are those whose kind is left out. Nothing is made
    for each edge: Python's collector would go through all that the process has, every few thousand tasks."""
    edges: list[UUID | After] = []
    task_ids: list[UUID] = []
    for row, task_id in zip(rows, ids, strict=True):
        if row["edges"] and task_id == row["task_id"]:
            edges += row["edges"]
            task_ids += [task_id] * len(row["edges"])
    if edges:
        afters = [edge if isinstance(edge, After) else None for edge in edges]
        is_plain = not any(afters)
        columns = {
            "task_ids": arrays.ids(task_ids),
            "depends_on": arrays.ids([edge.task_id if isinstance(edge, After) else edge for edge in edges]),
            "kinds": None if is_plain else arrays.texts([after.kind if after else None for after in afters]),
            "input_names": None
            if is_plain
            else arrays.texts([after.name if after else None for after in afters]),
        }
        run_prepared(QUERIES.text("add_dependencies"), columns)


REFUSALS = {
    "no_dependency_cycle": "the dependencies form a cycle",
    "no_self_dependency": "a task cannot depend on itself",
    "dependency_can_complete": "a task that it depends on has failed or was cancelled",
    "dependencies_depends_on_task_id_fkey": "a task that it depends on does not exist",
    "parent_task_id": "the parent task does not exist",
    "assigned_agent_id": "the assigned agent does not exist",
    "created_by_agent_id": "the creating agent does not exist",
    "valid_timing": "expires_at must lie in the future",
    "identity_pkey": "a task with this task_id exists",
}


def _refusal(error: IntegrityError) -> TaskRefused:
    """Name the rule that the database enforced; its own words for one that we do not know."""
    diagnostics = getattr(error.__cause__, "diag", None)
    constraint = getattr(diagnostics, "constraint_name", None) or ""
    text = next((words for name, words in REFUSALS.items() if name in constraint), "")
    return TaskRefused(text or str(error).splitlines()[0], getattr(diagnostics, "message_detail", None) or "")


def parse_payload(text: str) -> Any:
    """Read a payload from a command line or a form; raise TaskRefused for what is not JSON."""
    try:
        return json.loads(text)
    except ValueError as error:
        raise TaskRefused(f"payload={text!r}: not JSON: {error}", 'for instance {"path": "a.txt"}') from error
