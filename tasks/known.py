"""What is known of a type: what its handler declares where this process has it, else what a worker has registered."""

import json
import time
from collections.abc import Iterable
from typing import Any

from pg.queries import Queries
from tasks.policy import Policy
from tasks.registry import has_handler, policy_of

QUERIES = Queries("tasks")
REMEMBER_SECONDS = 60.0
TAKEN_OVER = (
    "max_retries", "retry_delay_seconds", "max_retry_delay_seconds", "retry_factor", "retry_jitter", "timeout_seconds",
    "priority", "queue", "payload_schema")  # fmt: skip
DONE_BY, FOR_AGENTS = (
    "done_by",
    "agents",
)  # an option of types that agents outside Celery do (tasks.agent_types)
_learned: dict[str, tuple[Policy, float]] = {}  # until when it is believed, by the monotonic clock
_for_agents: set[str] = set()


def policy_for(task_type: str) -> Policy:
    """Return what the type's tasks take over, and how they are tried again; the defaults for a type that nobody has
    registered.

    One query per REMEMBER_SECONDS for a type whose handler is elsewhere.
    """
    if has_handler(task_type):
        return policy_of(task_type)
    known = _learned.get(task_type)
    if known is None or known[1] < time.monotonic():
        found = QUERIES.run("options_of", {"task_type": task_type})
        known = remember(task_type, json.loads(found[0]["options"]) if found else {})
    return known[0]


def last_known(task_type: str) -> Policy:
    """The same without ever asking: for threads that have no connection."""
    return policy_of(task_type) if has_handler(task_type) else _learned.get(task_type, (Policy(), 0.0))[0]


def learn(task_types: Iterable[str]) -> None:
    for task_type in task_types:
        policy_for(task_type)


def is_for_agents(task_type: str) -> bool:
    """Tell whether agents outside Celery do the type, as far as this process knows; never asks."""
    return task_type in _for_agents


def remember(task_type: str, options: dict[str, Any]) -> tuple[Policy, float]:
    (_for_agents.add if options.get(DONE_BY) == FOR_AGENTS else _for_agents.discard)(task_type)
    policy = Policy(**{name: options[name] for name in TAKEN_OVER if name in options})
    _learned[task_type] = policy, time.monotonic() + REMEMBER_SECONDS
    return _learned[task_type]
