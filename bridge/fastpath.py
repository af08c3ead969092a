"""The fast path: what a small transaction changed is in KV within milliseconds of its commit.

Signals only say which keys to look at. On commit the newest outbox row of each is read, and that row is published under
its own id by the relay's compare-and-set: two processes whose callbacks run in reverse order end at the newer value.
Nothing is deleted and nothing is raised: whatever fails here, the relay does. It waits at most
BRIDGE_FAST_PATH_WAIT_MS for NATS, and not at all for a few seconds after NATS did not answer three times in a row.
"""

import logging
import weakref
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from django.conf import settings
from django.db import DEFAULT_DB_ALIAS, connections, transaction
from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.models import Model
from django.db.models.signals import post_delete, post_save

from bridge.breaker import Breaker
from bridge.connection import Client, link
from bridge.delivery import (
    WAKE_SUBJECT,
    WORK,
    find_refusal,
    is_conflict,
    is_superseded,
    publish_rows,
    read_limits,
    read_slots,
)
from bridge.fence import join_fence
from bridge.keys import agent_state_key
from bridge.outbox import Row, read_newest
from pg.errors import Unreachable
from tasks.signals import tasks_changed, work_came

log = logging.getLogger(__name__)

MAX_KEYS = 10  # a larger transaction is the relay's

Key = tuple[str, str]  # bucket, key in it


def touch(bucket: str, key: str, using: str = DEFAULT_DB_ALIAS) -> None:
    """Have the key pushed when the current transaction commits (at once outside of one); cheap to repeat."""
    db = connections[using]
    hook = find_hook(db)
    if hook is None:
        hook = CommitHook(using, (bucket, key))
        _hooks[db] = (len(db.run_on_commit), hook)
        transaction.on_commit(hook, using=using, robust=True)
    else:
        hook.add((bucket, key))


class CommitHook:
    """The one callback of a transaction, with the keys that it touched."""

    def __init__(self, using: str, *keys: Key) -> None:
        self.using = using
        self.keys = set(keys)

    def add(self, key: Key) -> None:
        if len(self.keys) <= MAX_KEYS:
            self.keys.add(key)

    def __call__(self) -> None:
        try:
            if len(self.keys) <= MAX_KEYS and not breaker.is_open():
                push(self.using, self.keys)
                breaker.reset()
            link().send(WAKE_SUBJECT)
        except Unreachable as error:
            breaker.miss() if link().is_connected() else breaker.trip()
            log.debug("left to the relay: %s", error)
        except Exception as error:  # the caller's work is committed: nothing here may fail it
            log.debug("left to the relay: %s", error, exc_info=True)


_hooks: "weakref.WeakKeyDictionary[BaseDatabaseWrapper, tuple[int, CommitHook]]" = weakref.WeakKeyDictionary()


def find_hook(db: BaseDatabaseWrapper) -> CommitHook | None:
    """Return the callback that waits for this transaction's commit. Rolling back to a savepoint cuts the end off
    Django's list of callbacks, so one that is not where it was put is gone."""
    place, hook = _hooks.get(db, (0, None))
    waiting = db.run_on_commit
    return hook if place < len(waiting) and waiting[place][1] is hook else None


def push(using: str, keys: Iterable[Key]) -> int:
    """Publish the newest outbox rows of `keys`; return how many were stored. Raises Unreachable."""
    with transaction.atomic(using=using):
        db = connections[using]
        rows = read_newest(db, keys) if join_fence(db) else []
        wait_seconds = settings.BRIDGE_FAST_PATH_WAIT_MS / 1000
        return (
            link().call(lambda client: publish_newest(client, rows, wait_seconds), wait_seconds)
            if rows
            else 0
        )


async def publish_newest(client: Client, rows: Sequence[Row], timeout_seconds: float) -> int:
    """Publish what JetStream lacks, but for conflicts and impossible rows: the relay records those."""
    limits = read_limits()
    rows = [row for row in rows if not find_refusal(row, limits)]
    lasts = await read_slots(client, [row.slot for row in rows], timeout_seconds)
    lasting = [(row, lasts[row.slot]) for row in rows]
    todo = [row for row, last in lasting if not is_superseded(row, last) and not is_conflict(row, last)]
    outcomes = await publish_rows(client, todo, lasts, timeout_seconds) if todo else []
    return sum(outcome.is_stored for outcome in outcomes)


breaker = Breaker(misses=3)


# -- Django's signals -------------------------------------------------------------------------------------------
def state_key_of(state: Any) -> Key:
    return "AGENT_STATE", agent_state_key(state.agent_id, state.state_key)


def config_key_of(agent: Any) -> Key:
    return "AGENT_CONFIG", str(agent.agent_id)


def task_key_of(task: Any) -> Key:
    return "TASK_STATE", str(task.task_id)


MODELS: dict[str, Callable[[Any], Key]] = {
    "agents.AgentState": state_key_of,
    "agents.Agent": config_key_of,
    "tasks.Task": task_key_of,
}


def connect_signals() -> None:
    """Touch the key of each row that the ORM saves or deletes, and of each task that the tasks room moves by SQL. A
    second call changes nothing."""
    tasks_changed.connect(touch_tasks, dispatch_uid="bridge.tasks")
    work_came.connect(tell_of_work, dispatch_uid="bridge.work")
    for name, key_of in MODELS.items():
        receiver = make_receiver(key_of)
        for signal in (post_save, post_delete):
            signal.connect(receiver, sender=name, weak=False, dispatch_uid=f"bridge.{name}")


def touch_tasks(task_ids: Iterable[Any], is_work: bool = False, **kwargs: Any) -> None:
    """Push what people and agents do to tasks. The work itself, thousands of steps a second, is the relay's."""
    if not is_work:
        for task_id in task_ids:
            touch("TASK_STATE", str(task_id))


def tell_of_work(**kwargs: Any) -> None:
    """Tell those whose claims wait for ready tasks (bridge.task_service); the relay comes by soon enough."""
    link().send(WAKE_SUBJECT, WORK)


def make_receiver(key_of: Callable[[Any], Key]) -> Callable[..., None]:
    def touch_row(instance: Model, using: str, raw: bool = False, **kwargs: Any) -> None:
        if not raw:  # loading a fixture: the relay's
            touch(*key_of(instance), using=using)

    return touch_row
