"""Tasks that somebody else is changing meanwhile are cancelled, paused and opened again with the others.

PostgreSQL 18 loses rows in statements that lock and prune partitions at once (docs/decisions/0024): as the planner is
set here, ours would.
"""

import threading

import pytest
from django.db import connection, transaction

from tasks.claim import cancel
from tasks.control import retry
from tasks.enqueue import NewTask, enqueue_many
from tasks.leaves import register_types
from tasks.registry import all_handlers
from tasks.task_pauses import pause_tasks, resume_tasks
from tests.tasks.conftest import eventually, somebody_waits

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.usefixtures("no_broker")]
LOOPS = "SET enable_seqscan = off; SET enable_hashjoin = off; SET enable_mergejoin = off"
TOUCH = "UPDATE tasks.queue SET metadata = '{\"touched\": true}' WHERE task_id = ANY(%s)"


def meet(step, task_ids):
    """Run `step` while another session has changed some of the tasks, and commits once it is waited for."""
    found = []

    def run():
        try:
            with connection.cursor() as cursor:
                cursor.execute(LOOPS)
            found.append(step(task_ids))
        finally:
            connection.close()

    thread = threading.Thread(target=run)
    with transaction.atomic(), connection.cursor() as cursor:
        cursor.execute(TOUCH, [task_ids[::7]])
        thread.start()
        eventually(somebody_waits)
    thread.join(60)
    return sorted(found[0])


def test_tasks_that_are_being_changed_are_found_by_every_step():
    register_types()
    types = [item.task_type for item in all_handlers()][:4]
    ids = sorted(enqueue_many(NewTask(task_type=types[number % len(types)]) for number in range(60)))
    for step in (pause_tasks, resume_tasks, cancel, retry):
        assert meet(step, ids) == ids, step.__name__
