"""The demo's story, shortened to a handful of modules, through the real queue."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace
from io import StringIO
from pathlib import Path

import pytest
from django.core.management import call_command
from django.db import connection

from agents.models import Agent, AgentStatus, Checkpoint
from agents.registry import register_agent, suspend_agent, terminate_agent
from agents.state import read_state, write_state
from demo.fleet import gather_fleet, show_busy
from demo.journal import CHECKPOINT_MODULES, note_read
from demo.run import Watch, attempt, run_demo, start_plan
from demo.status import read_progress
from knowledge.models import Fact
from knowledge.search import search_text
from tasks import registry
from tasks.claim import claim
from tasks.context import TaskContext
from tasks.jobs import settle_failed, settle_one
from tasks.models import Dependency, Execution, Task
from tasks.run import run_handler
from tasks.turn import Ended

pytestmark = pytest.mark.django_db
ROOT = Path(__file__).parents[2]
MODULES = ["argparse", "getopt", "json", "optparse", "demo_poisoned"]
TYPES = ("demo.plan", "demo.read_module", "demo.sum_up")


@pytest.fixture
def at_once(monkeypatch):
    """Retries wait for nothing."""
    for task_type in TYPES:
        item = registry.get_handler(task_type)
        policy = replace(item.policy, retry_delay_seconds=0)
        monkeypatch.setitem(registry._handlers, task_type, replace(item, policy=policy))


@pytest.fixture
def fleet(db):
    return gather_fleet()


def work(limit=1_000):
    """Do what a worker process does, in this one, until nothing is ready; return how many attempts that took."""
    worker = register_agent("celery-worker", "test").pk
    attempts = 0
    while claimed := [item for task_type in TYPES for item in claim(task_type, worker)]:
        for item in claimed:
            outcome = run_handler(item, TaskContext(item))
            if outcome.failure:
                settle_failed(item, outcome.failure, outcome.usage, outcome.logs)
            else:
                settle_one(Ended(item, outcome.result, outcome.usage, outcome.logs))
            attempts += 1
            assert attempts < limit
    return attempts


@pytest.mark.usefixtures("at_once")
def test_the_fleet_reads_and_knows(fleet):
    start_plan(fleet, modules=MODULES)
    work()
    progress = read_progress()
    assert (progress.open, progress.failed) == (0, 1)
    assert progress.is_done
    assert progress.facts == Fact.objects.exclude(predicate="holds").count() > 300
    best = search_text("command line options")[0]
    assert best.entity_id.startswith("argparse")
    assert best.source_agent.startswith("reader-")


@pytest.mark.usefixtures("at_once")
def test_the_poisoned_module_is_tried_again_and_then_fails(fleet):
    start_plan(fleet, modules=["demo_poisoned"])
    work()
    task = Task.objects.get(payload__module="demo_poisoned")
    assert (task.status, task.retry_count) == ("failed", 2)
    attempts = Execution.objects.filter(task_id=task.pk).order_by("execution_attempt")
    assert [attempt.status for attempt in attempts] == ["failed"] * 3
    assert "demo_poisoned, line 6" in attempts[0].error_message


@pytest.mark.usefixtures("at_once")
def test_packages_spawn_a_task_for_each_submodule(fleet):
    start_plan(fleet, modules=["json"])
    work()
    parent = Task.objects.get(payload__module="json")
    children = Task.objects.filter(parent_id=parent.pk).values_list("payload__module", "status")
    assert ("json.decoder", "completed") in children
    assert Fact.objects.filter(entity_id="json.decoder.JSONDecoder", predicate="signature").exists()


@pytest.mark.usefixtures("at_once")
def test_what_was_read_of_a_package_is_summed_up(fleet):
    start_plan(fleet, modules=["json"])
    work()
    task = Task.objects.get(task_type="demo.sum_up")
    read = Task.objects.filter(payload__module__startswith="json.")
    assert set(Dependency.objects.filter(task=task.pk).values_list("depends_on", flat=True)) == {
        t.pk for t in read
    }
    definitions = Execution.objects.filter(task_id__in=[t.pk for t in read]).values_list(
        "result__definitions", flat=True
    )
    said = Fact.objects.get(entity_id="json", predicate="holds").object_value
    assert said == {"modules": len(read), "definitions": sum(definitions)}


@pytest.mark.usefixtures("at_once")
def test_reading_again_changes_no_fact(fleet):
    start_plan(fleet, modules=["argparse"])
    work()
    before = list(Fact.objects.order_by("pk").values_list("pk", "updated_at"))
    start_plan(fleet, again=True, modules=["argparse"])
    work()
    assert list(Fact.objects.order_by("pk").values_list("pk", "updated_at")) == before
    last = Execution.objects.filter(result__module="argparse").latest("execution_id")
    assert last.result["new_facts"] == 0


def test_a_module_that_is_none_fails_at_once(fleet):
    start_plan(fleet, modules=["../etc/passwd"])
    assert work() == 1
    assert "not a module" in Task.objects.get(task_type="demo.plan").status_reason


def test_facts_name_file_and_line(fleet):
    start_plan(fleet, modules=["getopt"])
    work()
    fact = Fact.objects.get(entity_id="getopt.gnu_getopt", predicate="defined_at")
    line = Path(fact.object_value["file"]).read_text("utf-8").splitlines()[fact.object_value["line"] - 1]
    assert line.startswith("def gnu_getopt(")
    assert fact.evidence == fact.object_value


# -- the fleet ----------------------------------------------------------------------------------------------
def test_the_plan_is_started_once(fleet):
    assert start_plan(fleet)
    assert start_plan(fleet) is None
    assert Task.objects.filter(task_type="demo.plan").count() == 1


def test_another_plan_waits_until_the_first_is_finished(fleet):
    first = start_plan(fleet, modules=["getopt"])
    assert start_plan(fleet, again=True, modules=["getopt"]) == first
    work()
    assert start_plan(fleet, again=True, modules=["getopt"]) not in (None, first)


def test_the_fleet_is_found_again():
    first = gather_fleet()
    assert gather_fleet() == first
    assert Agent.objects.filter(parent_id=first.planner).count() == len(first.readers) == 4


def test_a_terminated_reader_is_replaced():
    first = gather_fleet()
    terminate_agent(first.readers[0])
    second = gather_fleet()
    assert second.readers[0] != first.readers[0]
    assert second.readers[1:] == first.readers[1:]


def test_readers_keep_counters_and_save_checkpoints(fleet):
    reader = fleet.readers[0]
    write_state(reader, {"modules_read": CHECKPOINT_MODULES - 2, "facts": 10})
    note_read(reader, "a", 5)
    assert not Checkpoint.objects.exists()
    note_read(reader, "b", 5)
    checkpoint = Checkpoint.objects.get(agent_id=reader)
    assert checkpoint.state_snapshot["facts"]["value"] == 20
    state = read_state(reader)
    assert state["last_module"] == "b"
    assert state["module.b"]["facts"] > 0


def test_a_suspended_agent_stays_suspended(fleet):
    show_busy(fleet, True)
    suspend_agent(fleet.readers[0])
    show_busy(fleet, False)
    statuses = dict(Agent.objects.filter(pk__in=list(fleet)).values_list("pk", "status"))
    assert statuses.pop(fleet.readers[0]) == AgentStatus.SUSPENDED
    assert set(statuses.values()) == {AgentStatus.IDLE}


# -- its process --------------------------------------------------------------------------------------------
def test_a_tick_starts_the_plan_and_keeps_the_agents_alive(caplog):
    caplog.set_level("INFO", "demo.run")
    watch = Watch(again=False)
    watch.tick()
    fleet = watch.fleet
    assert set(Agent.objects.filter(heartbeat__isnull=False).values_list("pk", flat=True)) == set(fleet)
    assert read_state(fleet.planner)["progress"]["open"] == 1
    assert Agent.objects.get(pk=fleet.planner).status == AgentStatus.ACTIVE
    watch.tick()
    assert len([line for line in caplog.messages if "tasks done" in line]) == 1, (
        "a line only when something changed"
    )
    watch.leave()
    assert Agent.objects.get(pk=fleet.planner).status == AgentStatus.IDLE


def test_an_outage_is_waited_out(monkeypatch, caplog):
    from django.db import OperationalError

    def fail():
        raise OperationalError("server closed the connection\nfor good")

    monkeypatch.setattr(connection, "close", lambda: None)
    attempt(fail)
    assert caplog.messages == ["PostgreSQL is away: server closed the connection"]


def test_the_loop_ends_when_it_is_told_to():
    stopping = threading.Event()
    stopping.set()
    run_demo(stopping)
    assert not Task.objects.exists()


@pytest.mark.usefixtures("at_once")
def test_status_shows_agents_counts_and_failures(fleet):
    start_plan(fleet, modules=["getopt", "demo_poisoned"])
    work()
    out = StringIO()
    call_command("demo", "status", "--json", stdout=out)
    answer = json.loads(out.getvalue())
    assert answer["counts"]["completed"] == 2
    assert answer["counts"]["failed"] == 1
    assert [item["agent"] for item in answer["items"]] == ["planner", *(f"reader-{n}" for n in range(1, 5))]
    assert answer["warnings"] == [
        "read demo_poisoned failed after 3 attempts: SyntaxError: '(' was never closed (demo_poisoned, line 6)"
    ]


def test_the_process_stops_at_sigterm(own_database):
    with own_database.connect() as database:
        process = subprocess.Popen(
            [sys.executable, "manage.py", "demo", "run"],
            cwd=ROOT,
            env={**os.environ, **own_database.environ},
            stderr=subprocess.PIPE,
            text=True,
        )
        try:
            deadline = time.monotonic() + 30
            count = "SELECT count(*) FROM tasks.queue WHERE task_type = 'demo.plan'"
            while not database.execute(count).fetchone()[0]:
                assert process.poll() is None, process.communicate()[1]
                assert time.monotonic() < deadline
                time.sleep(0.05)
            process.send_signal(signal.SIGTERM)
            _, log = process.communicate(timeout=60)
        finally:
            process.kill()
            process.wait()
        assert process.returncode == 0, log
        statuses = database.execute(
            "SELECT DISTINCT status::text FROM agents.registry WHERE agent_type LIKE 'demo-%'"
        ).fetchall()
        assert statuses == [("idle",)]
