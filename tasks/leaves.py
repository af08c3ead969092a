"""The leaf of tasks.queue that holds a type's rows, and the making of leaves when a worker starts."""

import json
import logging
import time
from typing import Any
from weakref import WeakKeyDictionary

from django.db import DEFAULT_DB_ALIAS, OperationalError, connections, transaction

from pg.queries import Queries
from tasks.limits import declare_limit
from tasks.policy import Policy
from tasks.registry import Handler, all_handlers

log = logging.getLogger(__name__)
QUERIES = Queries("tasks")
PARENT = "tasks.queue"
LOCK_TIMEOUT = "500ms"
# per server connection: type -> quoted name. A leaf never goes away while its database is there.
_leaves: WeakKeyDictionary[Any, dict[str, str]] = WeakKeyDictionary()


def leaf_of(task_type: str) -> str:
    """Return the quoted name of the table that statements about `task_type` should name.

    A registered type's own leaf: the planner then looks at one table. The parent for other types: their rows are in
    DEFAULT, and registering the type may move them to a leaf between two statements. One query the first time.
    """
    db = connections[DEFAULT_DB_ALIAS]  # each look through `connection` would find it anew
    db.ensure_connection()
    known = _leaves.get(db.connection)
    if known is None:
        known = _leaves[db.connection] = {}
    if task_type in known:
        return known[task_type]
    found = QUERIES.run("leaf_of", {"task_type": task_type})
    if not found:
        return PARENT
    leaf: str = found[0]["partition_name"]
    if not db.in_atomic_block:  # what this transaction made may be rolled back
        known[task_type] = leaf
    return leaf


def register_types(timeout_seconds: float = 60) -> list[str]:
    """Give every handler's type its leaf and its row in tasks.types; return the types that were new or had changed.

    One query when nothing is to do. Waits in short steps for locks, so that enqueuing goes on meanwhile. Several
    workers at once: an advisory lock lets one after the other in, the later ones find the work done. Raises
    OperationalError where a lock was not to be had for `timeout_seconds`.
    """
    known = {row["task_type"]: json.loads(row["options"]) for row in QUERIES.run("known_types")}
    due = [item for item in all_handlers() if known.get(item.task_type) != item.options]
    for item in due:
        register_type(item, timeout_seconds)
    return [item.task_type for item in due]


def register_type(item: Handler, timeout_seconds: float = 60) -> str:
    """Make the leaf and the row of one type in one transaction; return the leaf's quoted name. Safe to repeat."""
    return register_leaf(item.task_type, item.policy, item.options, timeout_seconds)


def register_leaf(
    task_type: str, policy: Policy, options: dict[str, Any], timeout_seconds: float = 60
) -> str:
    """The same for a type without a handler here; `options` are what is kept in tasks.types."""
    deadline = time.monotonic() + timeout_seconds
    while True:
        try:
            return _register_once(task_type, policy, options)
        except OperationalError as error:
            if not is_lock_timeout(error) or time.monotonic() > deadline:
                raise
            log.info("registering task type %s waits for a lock: %s", task_type, error)


def _register_once(task_type: str, policy: Policy, options: dict[str, Any]) -> str:
    parameters = {
        "task_type": task_type,
        "options": json.dumps(options),
        "queue": policy.queue,
        "lock_timeout": LOCK_TIMEOUT,
    }
    with transaction.atomic():
        leaf: str = QUERIES.run("create_leaf", parameters)[0]["leaf"]
        QUERIES.run("copy_grants", {"leaf": leaf})
        QUERIES.run("register_type", {**parameters, "leaf": leaf})
        declare_limit(task_type, policy)
    return leaf


def is_lock_timeout(error: BaseException) -> bool:
    return getattr(error.__cause__, "sqlstate", None) in ("55P03", "40P01")
