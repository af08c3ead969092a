"""Queues of task types: types of one queue share workers. To Celery `gpu` is `tasks.gpu`, and `default` is `tasks`.

A worker takes tickets of the queues of all handlers that it knows, or of those that TASKS_QUEUES names.
"""

from typing import Any

from django.conf import settings

from tasks.known import last_known
from tasks.registry import all_handlers

DEFAULT = "default"
CELERY_QUEUE = "tasks"


def celery_queue(queue: str) -> str:
    return CELERY_QUEUE if queue == DEFAULT else f"{CELERY_QUEUE}.{queue}"


def queue_of(task_type: str) -> str:
    """Return the type's queue as far as this process knows; never asks. `default` for what it does not know."""
    return last_known(task_type).queue


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
