"""What an agent outside Celery may ask of the task engine: claim, renew, report, end. JSON in, JSON out.

The same functions as a Celery worker's: the agent holds the lease; holder and attempt fence whatever comes too late.
Nothing here knows NATS; bridge.task_service carries it.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from agents.liveness import record_heartbeats
from agents.models import Agent, AgentStatus
from pg.errors import MisterSmithError, Refused
from pg.json import dump_json, without_nul
from tasks.claim import (
    Claimed,
    Failure,
    claim,
    fail,
    finish,
    give_back,
    heartbeat_leases,
    lease_seconds,
    set_progress,
)
from tasks.dependencies import read_inputs
from tasks.held import held_by, held_of, statuses_of
from tasks.models import TaskType
from tasks.redact import redact
from tasks.task_pauses import keep_standing
from tasks.usage import Usage

MOST_AT_ONCE = 100
MOST_IDS = 1_000
MESSAGE_LENGTH = 1_000
LOG_LENGTH = 200_000
ALL = "*"
Answer = dict[str, Any]


class Forbidden(MisterSmithError):
    """The agent is who it says, and may not do this."""


@dataclass(frozen=True)
class Caller:
    """Who asks. `types`: the task types that its session names, or ALL."""

    agent: Agent
    types: frozenset[str]

    @property
    def agent_id(self) -> UUID:
        return UUID(str(self.agent.pk))


def caller_of(agent: Agent, permissions: Any) -> Caller:
    """Read what a session permits: `{"tasks": ["fetch"]}` or `{"tasks": "*"}`. Raises Forbidden where it does not."""
    named = permissions.get("tasks") if isinstance(permissions, dict) else None
    if isinstance(named, str):
        named = [named]
    if not isinstance(named, list) or not all(isinstance(name, str) for name in named) or not named:
        raise Forbidden(
            "this session may not work on tasks",
            'open one that may: manage.py sessions open --agent ID --permissions \'{"tasks": ["fetch"]}\'',
        )
    return Caller(agent, frozenset(named))


# -- reading what was asked ---------------------------------------------------------------------------------
def text(asked: Answer, name: str, default: str | None = None) -> str:
    value = asked.get(name, default)
    if not isinstance(value, str):
        raise Refused(f"{name}={value!r}: must be text")
    return value


def number(asked: Answer, name: str, default: float, least: float, most: float) -> float:
    value = asked.get(name, default)
    if isinstance(value, bool) or not isinstance(value, int | float) or not least <= value <= most:
        raise Refused(f"{name}={value!r}: must be a number from {least:g} to {most:g}")
    return value


def storable(name: str, value: Any) -> None:
    """Raise Refused for what JSON has and PostgreSQL has not: NaN, U+0000, half a surrogate pair."""
    try:
        dump_json(value)
    except ValueError as error:
        raise Refused(f"{name}: {error}") from error


def uuid_of(value: Any) -> UUID:
    try:
        return UUID(str(value))
    except ValueError:
        raise Refused(f"{value!r}: must be the id of a task") from None


def mine(caller: Caller, asked: Answer) -> Claimed | None:
    """Return the task that `task_id` and `attempt` name, if it is leased to the caller by that attempt."""
    attempt = number(asked, "attempt", 0, 1, 1 << 31)
    found = held_of(caller.agent_id, [uuid_of(asked.get("task_id"))])
    return found[0] if found and found[0].attempt == attempt else None


def too_late(asked: Answer) -> Answer:
    """It was cancelled, taken over, or ended already, by this same call sent twice for instance."""
    task_id = uuid_of(asked.get("task_id"))
    return {"is_stored": False, "status": statuses_of([task_id]).get(task_id)}


# -- calls --------------------------------------------------------------------------------------------------
def claim_tasks(caller: Caller, asked: Answer) -> list[Claimed]:
    """Lease up to `limit` ready tasks of `task_type`; [] where there are none."""
    task_type = text(asked, "task_type")
    if caller.agent.status in (AgentStatus.SUSPENDED, AgentStatus.ERROR, AgentStatus.TERMINATED):
        raise Forbidden(
            f"agent {caller.agent_id} is {caller.agent.status}: it may end what it has, and claim nothing",
            "manage.py agents resume",
        )
    if ALL not in caller.types and task_type not in caller.types:
        raise Forbidden(
            f"this session may not claim {task_type!r}", f"it may: {', '.join(sorted(caller.types))}"
        )
    if not TaskType.objects.filter(pk=task_type).exists():
        raise Refused(f"{task_type!r}: no such task type", f"manage.py tasks register {task_type}")
    return claim(task_type, caller.agent_id, int(number(asked, "limit", 1, 1, MOST_AT_ONCE)))


def describe(item: Claimed) -> Answer:
    return {
        "task_id": str(item.task_id),
        "task_type": item.task_type,
        "attempt": item.attempt,
        "retry_count": item.retry_count,
        "payload": item.payload,
        "timeout_seconds": item.timeout_seconds,
    }


def held(caller: Caller, asked: Answer) -> Answer:
    """Return everything leased to the agent, for it may have lost an answer or its memory. `payloads` False: without
    them, where they are too much for one answer."""
    tasks = [describe(item) for item in held_by(caller.agent_id)]
    if asked.get("payloads") is False:
        tasks = [{**task, "payload": None} for task in tasks]
    return {"tasks": tasks, "lease_seconds": lease_seconds()}


def heartbeat(caller: Caller, asked: Answer) -> Answer:
    """Renew the leases of `tasks`, a list of {task_id, attempt}; say which are lost, and why, and which are paused.
    `is_standing` of one: the agent stands still with it."""
    named = asked.get("tasks", [])
    if (
        not isinstance(named, list)
        or len(named) > MOST_IDS
        or not all(isinstance(item, dict) for item in named)
    ):
        raise Refused(f"tasks: must be a list of at most {MOST_IDS} objects with task_id and attempt")
    attempts = {uuid_of(item.get("task_id")): number(item, "attempt", 0, 1, 1 << 31) for item in named}
    record_heartbeats([caller.agent_id])
    ours = [item for item in held_of(caller.agent_id, attempts) if item.attempt == attempts[item.task_id]]
    standing = {uuid_of(item.get("task_id")) for item in named if item.get("is_standing") is True}
    paused = keep_standing(ours, standing)
    renewed = heartbeat_leases(caller.agent_id, ours)
    gone = attempts.keys() - renewed
    statuses = statuses_of(gone) if gone else {}
    lost = [{"task_id": str(task_id), "status": statuses.get(task_id)} for task_id in sorted(gone)]
    return {
        "held": sorted(map(str, renewed)),
        "lost": lost,
        "paused": sorted(map(str, paused)),
        "lease_seconds": lease_seconds(),
    }


def progress(caller: Caller, asked: Answer) -> Answer:
    told = asked.get("percent")
    percent = None if told is None else number(asked, "percent", 0, 0, 100)
    note = text(asked, "note", "")
    item = mine(caller, asked)
    return {"is_stored": True} if item and set_progress(item, percent, note) else too_late(asked)


def complete(caller: Caller, asked: Answer) -> Answer:
    item = mine(caller, asked)
    if item is None:
        return too_late(asked)
    storable("result", asked.get("result"))
    is_stored = finish(item, asked.get("result"), usage_of(asked), logs_of(asked))
    return {"is_stored": True, "status": "completed"} if is_stored else too_late(asked)


def fail_task(caller: Caller, asked: Answer) -> Answer:
    message = without_nul(redact(text(asked, "message")[:MESSAGE_LENGTH]))
    details = asked.get("details", {})
    if not isinstance(details, dict):
        raise Refused("details: must be an object")
    storable("details", details)
    delay = None if asked.get("delay_seconds") is None else number(asked, "delay_seconds", 0, 0, 365 * 86_400)
    item = mine(caller, asked)
    if item is None:
        return too_late(asked)
    failure = Failure(message, details, asked.get("is_permanent") is True, delay)
    status = fail(item, failure, usage_of(asked), logs_of(asked))
    return too_late(asked) if status == "lost" else {"is_stored": True, "status": status}


def release(caller: Caller, asked: Answer) -> Answer:
    """Give a task back that the agent has not begun: ready again, no retry is spent."""
    item = mine(caller, asked)
    return {"is_stored": True, "status": "queued"} if item and give_back([item]) else too_late(asked)


def inputs(caller: Caller, asked: Answer) -> Answer:
    item = mine(caller, asked)
    return {"inputs": read_inputs(item.task_id)} if item else too_late(asked)


def usage_of(asked: Answer) -> Usage:
    names = ("cpu_time_ms", "memory_peak_mb", "io_operations")
    given = {
        name: int(number(asked, name, 0, 0, (1 << 31) - 1)) for name in names if asked.get(name) is not None
    }
    return Usage(**given)


def logs_of(asked: Answer) -> str | None:
    logs = asked.get("logs")
    if logs is None:
        return None
    return without_nul(redact(text(asked, "logs")[-LOG_LENGTH:]))


CALLS: dict[str, Callable[[Caller, Answer], Answer]] = {
    "held": held,
    "heartbeat": heartbeat,
    "progress": progress,
    "complete": complete,
    "fail": fail_task,
    "release": release,
    "inputs": inputs,
}
