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
from partitions.jobs import apply_partitions
from partitions.maintenance import apply_all, plan_all, table_lock
from partitions.models import Policy
from partitions.plan import days_of_cover

pytestmark = pytest.mark.django_db(transaction=True)
EVENTS = "agents.lifecycle_events"


def execute(statement: str) -> None:
    with connection.cursor() as cursor:
        cursor.execute(statement)


def today():
    return timezone.now().date()


def test_a_fresh_installation_needs_nothing():
    assert plan_all(today()) == []
    assert {name.name: name.strategy for name in read_tables()}[EVENTS] == "range"


def test_tomorrow_one_more_day_is_made_and_the_second_run_does_nothing():
    tomorrow = today() + timedelta(days=1)
    first = apply_all(tomorrow, [EVENTS])
    assert [(outcome.step.action, outcome.error) for outcome in first] == [("create", None)]
    assert apply_all(tomorrow, [EVENTS]) == []
    assert days_of_cover(read_ranges(EVENTS), tomorrow) == 14


def test_expired_partitions_are_dropped_only_where_the_policy_says_so():
    execute(f"SELECT partitions.create_time_partition('{EVENTS}', DATE '2020-01-01')")
    assert [outcome.step.action for outcome in apply_all(today(), [EVENTS])] == ["keep"]
    Policy.objects.filter(pk=EVENTS).update(on_expiry="drop")
    assert [outcome.step.action for outcome in apply_all(today(), [EVENTS])] == ["drop"]
    assert plan_all(today(), [EVENTS]) == []


def test_a_table_of_the_same_name_pattern_elsewhere_is_left_alone():
    execute("CREATE SCHEMA other")
    execute("CREATE TABLE other.lifecycle_events_2001_01_01 (kept int)")
    execute("CREATE TABLE public.lifecycle_eventsXY_2001_01_01 (kept int)")
    Policy.objects.filter(pk=EVENTS).update(on_expiry="drop")
    apply_all(today())
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
    name = f"lifecycle_events_{today() + timedelta(days=14):%Y_%m_%d}"
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
    actions = [(outcome.step.action, outcome.error) for outcome in apply_all(today(), [EVENTS])]
    assert ("finalize", None) in actions
    assert run_check(check)[0].ok


def test_a_second_runner_skips_the_table_that_the_first_one_holds():
    holding, release = threading.Event(), threading.Event()

    def hold() -> None:
        with table_lock(EVENTS):
            holding.set()
            release.wait(10)
        connection.close()

    thread = threading.Thread(target=hold)
    thread.start()
    assert holding.wait(10)
    tomorrow = today() + timedelta(days=1)
    assert apply_all(tomorrow, [EVENTS]) == []
    release.set()
    thread.join()
    assert len(apply_all(tomorrow, [EVENTS])) == 1


def test_one_tables_failure_does_not_stop_the_others():
    execute("CREATE TABLE agents.lifecycle_events_2031_01_15 (in_the_way int)")
    future = datetime(2031, 1, 15, tzinfo=UTC).date()
    outcomes = apply_all(future)
    failed = [outcome for outcome in outcomes if outcome.error]
    assert [outcome.step.partition for outcome in failed] == ["agents.lifecycle_events_2031_01_15"]
    assert "already exists" in failed[0].error
    assert sum(outcome.error is None for outcome in outcomes) > 40


def test_the_job_reports_what_it_did():
    assert apply_partitions() == {"steps": 0, "failed": 0}


def test_low_cover_is_found_by_doctor():
    with connection.cursor() as cursor:
        for found in read_ranges(EVENTS)[4:]:
            cursor.execute(f"DROP TABLE {found.name}")
    check = next(check for check in checks() if check.name == "partitions.cover")
    bad = [finding.detail for finding in run_check(check) if not finding.ok]
    assert bad == [f"{EVENTS}: 2 days of cover"]
    apply_all(today())
    assert all(finding.ok for finding in run_check(check))


def test_the_command_prints_plan_apply_and_list():
    def run(*arguments: str) -> dict:
        out = StringIO()
        call_command("partitions", *arguments, "--json", stdout=out)
        return json.loads(out.getvalue())

    execute(f"DROP TABLE {read_ranges(EVENTS)[-1].name}")
    planned = run("plan")
    assert [step["action"] for step in planned["steps"]] == ["create"]
    assert run("apply", "--dry-run")["steps"] == planned["steps"]
    assert run("apply")["counts"] == {"done": 1, "failed": 0, "kept": 0}
    assert run("plan")["steps"] == []
    listed = {item["table"]: item for item in run("list")["items"]}
    assert listed[EVENTS]["cover_days"] == 14
    assert listed["agents.state"]["partitions"] == 8
    assert run("list", EVENTS)["counts"] == {"partitions": 16}
    with pytest.raises(CommandError) as caught:
        run("plan", "agents.nothing")
    assert caught.value.returncode == 2
