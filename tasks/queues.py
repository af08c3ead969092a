"""Queues of task types: types of one queue share workers. To Celery `gpu` is `tasks.gpu`, and `default` is `tasks`.

A worker takes tickets of the queues of all handlers that it knows, or of those that TASKS_QUEUES names.
"""

import time
from collections.abc import Iterable, Mapping
from typing import Any

from django.conf import settings

from pg.queries import Queries
from tasks.registry import all_handlers, has_handler, policy_of

QUERIES = Queries("tasks")
DEFAULT = "default"
CELERY_QUEUE = "tasks"
REMEMBER_SECONDS = 60.0
_learned: dict[str, tuple[str, float]] = {}  # type -> its queue, and until when that is believed


def celery_queue(queue: str) -> str:
    return CELERY_QUEUE if queue == DEFAULT else f"{CELERY_QUEUE}.{queue}"


def queue_of(task_type: str) -> str:
    """Return the type's queue as far as this process knows; never asks. `default` for what it does not know."""
    if has_handler(task_type):
        return policy_of(task_type).queue
    return _learned.get(task_type, (DEFAULT, 0.0))[0]


def learn(task_types: Iterable[str]) -> None:
    """Look up the queues of types that this process has no handler for; one query each per REMEMBER_SECONDS."""
    now = time.monotonic()
    for task_type in task_types:
        if not has_handler(task_type) and _learned.get(task_type, ("", 0.0))[1] < now:
            found = QUERIES.run("queue_of", {"task_type": task_type})
            remember({task_type: found[0]["queue"] if found else DEFAULT})


def remember(queues: Mapping[str, str]) -> None:
    until = time.monotonic() + REMEMBER_SECONDS
    _learned.update({task_type: (queue, until) for task_type, queue in queues.items()})


def wanted_queues() -> list[str]:
    """Return the queues that this process works for."""
    named: list[str] = getattr(settings, "TASKS_QUEUES", [])
    return sorted(set(named) or {DEFAULT, *(item.policy.queue for item in all_handlers())})


def consume(app: Any) -> None:
    """Let a worker that takes tickets take them from `wanted_queues()`. Others, such as upkeep's, stay as they are."""
    queues = app.amqp.queues
    if CELERY_QUEUE not in queues.consume_from:
        return
    wanted = [celery_queue(queue) for queue in wanted_queues()]
    for name in wanted:
        queues.select_add(name)
    if CELERY_QUEUE not in wanted:
        queues.deselect([CELERY_QUEUE])
