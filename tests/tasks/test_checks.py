from datetime import timedelta

import pytest
from django.db import connection
from django.utils import timezone

from monitoring.registry import checks, metrics, run_check
from tasks.agent_types import register_for_agents
from tasks.claim import claim
from tasks.enqueue import enqueue
from tasks.leaves import register_types
from tasks.models import Task, TaskType
from tasks.policy import Policy
from tasks.worker import Worker

pytestmark = pytest.mark.django_db


def findings(name):
    (check,) = [check for check in checks() if check.name == name]
    return run_check(check)


def is_ok(name):
    return all(finding.ok for finding in findings(name))


NAMES = [
    "tasks.workers",
    "tasks.oldest_ready",
    "tasks.leases",
    "tasks.default_leaf",
    "tasks.leaf_triggers",
]


@pytest.mark.parametrize("name", NAMES)
def test_an_idle_queue_is_in_order(name):
    register_types()
    assert is_ok(name), findings(name)


def make_older(task_id, seconds):
    Task.objects.filter(pk=task_id).update(created_at=timezone.now() - timedelta(seconds=seconds))


def test_ready_tasks_without_a_living_worker_are_reported():
    make_older(enqueue("echo"), 60)
    assert not is_ok("tasks.workers")
    Worker()
    assert is_ok("tasks.workers")


def test_ready_tasks_that_only_agents_do_ask_for_no_worker():
    register_for_agents("crawl", Policy())
    make_older(enqueue("crawl"), 301)
    assert is_ok("tasks.workers")
    assert not is_ok("tasks.oldest_ready")
    make_older(enqueue("echo"), 60)
    assert not is_ok("tasks.workers")


def test_a_task_that_waits_for_long_is_reported():
    make_older(enqueue("echo"), 301)
    assert not is_ok("tasks.oldest_ready")


def test_a_lease_that_nobody_took_back_is_reported(agent_id):
    task_id = enqueue("echo")
    claim("echo", agent_id)
    Task.objects.filter(pk=task_id).update(lease_until=timezone.now() - timedelta(hours=1))
    assert not is_ok("tasks.leases")


def test_rows_of_an_unregistered_type_are_reported_with_their_type():
    enqueue("outside")
    (finding,) = findings("tasks.default_leaf")
    assert not finding.ok
    assert "outside" in finding.detail


def test_rows_of_a_registered_type_in_default_are_reported_with_the_cure():
    enqueue("half")
    TaskType.objects.create(task_type="half", partition_name="tasks.queue_half")
    (finding,) = findings("tasks.default_leaf")
    assert "create_task_type_partition('half')" in finding.hint


def test_a_leaf_without_its_triggers_is_reported():
    with connection.cursor() as cursor:
        cursor.execute("SET CONSTRAINTS ALL IMMEDIATE")
        cursor.execute("DROP TRIGGER release_dependents ON tasks.queue_default")
    assert [finding.ok for finding in findings("tasks.leaf_triggers")] == [False]


def test_a_leaf_that_nobody_can_claim_from_is_reported_with_the_cure():
    """As after attaching a table by hand."""
    with connection.cursor() as cursor:
        cursor.execute("ALTER FUNCTION tasks.turn_queue_default RENAME TO gone")
        (finding,) = findings("tasks.leaf_triggers")
        assert (finding.ok, "turn_queue_default" in finding.detail) == (False, True)
        cursor.execute(finding.hint)
    assert [finding.ok for finding in findings("tasks.leaf_triggers")] == [True]


def test_every_metric_can_be_read(agent_id):
    enqueue("echo")
    ours = [metric for metric in metrics() if metric.name.startswith("mistersmith_task")]
    assert len(ours) == 4
    for metric in ours:
        assert all(value >= 0 for _, value in metric.read())
