"""Task types that agents outside Celery do: registered by an operator, since no handler of ours declares them.

No ticket is sent for them; agents ask for work (docs/tasks.md, Agents on NATS).
"""

from typing import Any

from operators.audit import Actor, record
from pg.errors import Refused
from tasks.known import DONE_BY, FOR_AGENTS, remember
from tasks.leaves import register_leaf
from tasks.models import TaskType
from tasks.policy import Policy
from tasks.registry import has_handler


def register_for_agents(task_type: str, policy: Policy, by: Actor | None = None, reason: str = "") -> str:
    """Give the type its leaf and its row; return the leaf's name. Again: the options change.

    Raises Refused where a handler does the type: here, or, by what is registered, in a worker elsewhere.
    """
    if not 1 <= len(task_type) <= 100:
        raise Refused(f"task_type={task_type!r}: must have 1 to 100 characters")
    row = TaskType.objects.filter(pk=task_type).first()
    if has_handler(task_type) or (row is not None and row.options.get(DONE_BY) != FOR_AGENTS):
        raise Refused(
            f"{task_type!r} has a handler, which declares its options",
            "agents may claim it all the same, beside the workers; or name yours differently",
        )
    options: dict[str, Any] = {**policy.options(), DONE_BY: FOR_AGENTS}
    leaf = register_leaf(task_type, policy, options)
    remember(task_type, options)
    if by:
        record(by, "tasks.register", [task_type], reason=reason)
    return leaf
