import json
import threading
from datetime import UTC, datetime, timedelta
from io import StringIO

import pytest
from django.core.management import CommandError, call_command
from django.db import connection
from django.utils import timezone

from monitoring.registry import checks, run_check
from partitions.catalog import read_ranges, read_tables
from partitions.history import Asked
from partitions.jobs import apply_partitions, watch_cover
from partitions.locks import table_lock
from partitions.maintenance import apply_all, plan_all
from partitions.models import Policy, Run
from partitions.plan import Clock, days_of_cover, plan_creation

pytestmark = pytest.mark.django_db(transaction=True)
EVENTS = "agents.lifecycle_events"


def execute(statement: str) -> None:
    with connection.cursor() as cursor:
        cursor.execute(statement)


def now():
    return timezone.now()


def tomorrow() -> Clock:
    return Clock.at(now() + timedelta(days=1))


def test_a_fresh_installation_needs_nothing():
    assert plan_all() == []
    assert {name.name: name.strategy for name in read_tables()}[EVENTS] == "range"


def test_tomorrow_one_more_day_is_made_and_the_second_run_does_nothing():
    first = apply_all(tomorrow(), [EVENTS])
    assert [(outcome.step.action, outcome.error) for outcome in first] == [("create", None)]
    assert apply_all(tomorrow(), [EVENTS]) == []
    assert days_of_cover(read_ranges(EVENTS), tomorrow().latest) == 14


def test_expired_partitions_go_as_the_policy_says(settings, tmp_path):
    settings.PARTITIONS_ARCHIVE_DIR = tmp_path
    for policy, actions in {
        "keep": ["keep"],
        "archive": ["archive", "detach", "drop"],
        "drop": ["detach", "drop"],
    }.items():
        execute(f"SELECT partitions.create_time_partition('{EVENTS}', DATE '2020-01-01')")
        Policy.objects.filter(pk=EVENTS).update(on_expiry=policy)
        outcomes = apply_all(tables=[EVENTS])
        assert [(one.step.action, one.error) for one in outcomes] == [(action, None) for action in actions]
    assert plan_all(tables=[EVENTS]) == []


def test_a_table_of_the_same_name_pattern_elsewhere_is_left_alone():
    execute("CREATE SCHEMA other")
    execute("CREATE TABLE other.lifecycle_events_2001_01_01 (kept int)")
    execute("CREATE TABLE public.lifecycle_eventsXY_2001_01_01 (kept int)")
    Policy.objects.filter(pk=EVENTS).update(on_expiry="drop")
    apply_all()
    execute("SELECT partitions.manage_time_partitions('agents.lifecycle_events', 30, 7)")
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT to_regclass('other.lifecycle_events_2001_01_01') IS NOT NULL"
            " AND to_regclass('public.lifecycle_eventsXY_2001_01_01') IS NOT NULL"
        )
        assert cursor.fetchone() == (True,)


def test_bounds_do_not_depend_on_the_session_time_zone():
    execute("SET timezone = 'Pacific/Auckland'")
    execute(f"SELECT partitions.create_time_partition('{EVENTS}', DATE '2030-06-01')")
    execute("RESET timezone")
    assert read_ranges(EVENTS)[-1].lower == datetime(2030, 6, 1, tzinfo=UTC)


def test_an_interrupted_detach_is_finished_by_the_next_run():
    """A reader's snapshot holds the detach up; cancelling it leaves the partition pending."""
    name = f"lifecycle_events_{now() + timedelta(days=14):%Y_%m_%d}"
    detacher = connection.copy()
    reader = connection.copy()
    with reader.cursor() as reading, detacher.cursor() as detaching:
        reading.execute("BEGIN ISOLATION LEVEL REPEATABLE READ")
        reading.execute("SELECT count(*) FROM agents.lifecycle_events")
        detaching.execute("SET statement_timeout = '500ms'")
        with pytest.raises(Exception, match="statement timeout"):
            detaching.execute(
                f'ALTER TABLE agents.lifecycle_events DETACH PARTITION agents."{name}" CONCURRENTLY'
            )
        reading.execute("ROLLBACK")
    reader.close()
    detacher.close()
    check = next(check for check in checks() if check.name == "partitions.detach")
    assert not run_check(check)[0].ok
    actions = [(outcome.step.action, outcome.error) for outcome in apply_all(tables=[EVENTS])]
    assert actions[:2] == [("finalize", None), ("create", None)]
    assert run_check(check)[0].ok
    assert [step.action for step in plan_all(tables=[EVENTS])] == ["keep"], (
        "the table is the person's who detached it"
    )


def test_a_second_runner_skips_the_table_that_the_first_one_holds():
    holding, release = threading.Event(), threading.Event()

    def hold() -> None:
        with table_lock(EVENTS):
            holding.set()
            release.wait(10)
        connection.close()

    thread = threading.Thread(target=hold)
    thread.start()
    assert holding.wait(60)
    assert apply_all(tomorrow(), [EVENTS]) == []
    release.set()
    thread.join()
    assert len(apply_all(tomorrow(), [EVENTS])) == 1


def test_one_tables_failure_does_not_stop_the_others(settings):
    settings.PARTITIONS_ARCHIVE_DIR = "/proc/nowhere"  # nobody can make a folder there
    execute(f"SELECT partitions.create_time_partition('{EVENTS}', DATE '2020-01-01')")
    outcomes = apply_all(tomorrow())
    failed = [outcome for outcome in outcomes if outcome.error]
    assert [(one.step.action, one.step.partition) for one in failed] == [
        ("archive", "agents.lifecycle_events_2020_01_01")
    ]
    assert "nothing was dropped" in failed[0].error
    assert sum(outcome.error is None for outcome in outcomes) == len(Policy.objects.all())
    run = Run.objects.first()
    assert run.status == "failed"
    assert "lifecycle_events_2020_01_01" in run.error


def test_a_name_that_is_taken_is_no_obstacle():
    execute("CREATE TABLE agents.lifecycle_events_2031_01_15 (in_the_way int)")
    future = Clock.at(datetime(2031, 1, 15, tzinfo=UTC))
    assert not [
        outcome.error for outcome in apply_all(future, [EVENTS], planner=plan_creation) if outcome.error
    ]
    lower = {one.name: one.lower for one in read_ranges(EVENTS)}
    assert lower["agents.lifecycle_events_2031_01_15_2"] == datetime(2031, 1, 15, tzinfo=UTC)


def test_every_run_is_written_down():
    apply_all(tomorrow(), [EVENTS], Asked("command", "ada", "before the weekend"))
    run = Run.objects.first()
    assert (run.status, run.origin, run.actor, run.reason) == ("done", "command", "ada", "before the weekend")
    assert run.finished_at >= run.started_at
    (step,) = run.steps
    assert step["action"] == "create"
    assert step["why"] == "14 days are made ahead"
    assert step["status"] == "done"
    assert step["lock_wait_ms"] >= 0


def test_the_job_reports_what_it_did():
    assert apply_partitions() == {"steps": 0, "failed": 0}


def test_low_cover_is_found_by_doctor():
    with connection.cursor() as cursor:
        for found in read_ranges(EVENTS)[4:]:
            cursor.execute(f"DROP TABLE {found.name}")
    check = next(check for check in checks() if check.name == "partitions.cover")
    bad = [finding.detail for finding in run_check(check) if not finding.ok]
    assert bad == [f"{EVENTS}: 2 days of cover"]
    assert watch_cover() == {"steps": 12, "failed": 0}
    assert all(finding.ok for finding in run_check(check))
    assert watch_cover() == {"steps": 0, "failed": 0}


def test_the_command_prints_plan_apply_and_list():
    def run(*arguments: str) -> dict:
        out = StringIO()
        call_command("partitions", *arguments, "--json", stdout=out)
        return json.loads(out.getvalue())

    execute(f"DROP TABLE {read_ranges(EVENTS)[-1].name}")
    planned = run("plan")
    assert [step["action"] for step in planned["steps"]] == ["create"]
    assert run("apply", "--dry-run")["steps"] == planned["steps"]
    counts = run("apply")["counts"]
    assert (counts["done"], counts["failed"], counts["kept"]) == (1, 0, 0)
    assert run("plan")["steps"] == []
    listed = {item["table"]: item for item in run("list")["items"]}
    assert listed[EVENTS]["cover_days"] == 14
    assert listed["agents.state"]["partitions"] == 8
    assert run("list", EVENTS)["counts"] == {"partitions": 16}
    with pytest.raises(CommandError) as caught:
        run("plan", "agents.nothing")
    assert caught.value.returncode == 2
