"""The home page: what it shows, to whom, at what cost, and what it survives."""

from datetime import timedelta
from threading import Thread

import pytest
from django.contrib.auth.models import Permission, User
from django.db import connection
from django.test.utils import CaptureQueriesContext
from django.urls import reverse
from django.utils import timezone

from agents.registry import register_agent, terminate_agent
from cockpit import fleet as glance
from cockpit.remember import Remembered
from monitoring import registry
from monitoring.registry import Finding, register_check
from pg.uuid7 import uuid7_at, uuid7_floor
from recovery.models import Backup
from tasks.claim import claim, finish
from tasks.enqueue import enqueue
from tasks.models import Execution
from tasks.stats import executions_by_minute

pytestmark = pytest.mark.django_db
MOST_QUERIES = 60


@pytest.fixture(autouse=True)
def look_anew():
    glance.forget()
    yield
    glance.forget()


@pytest.fixture
def worker(db):
    """And a partition for yesterday: shortly after midnight the last hour began there."""
    today = timezone.now().replace(hour=0, minute=0, second=0, microsecond=0)
    yesterday = today - timedelta(days=1)
    with connection.cursor() as cursor:
        cursor.execute(
            f"CREATE TABLE IF NOT EXISTS tasks.executions_{yesterday:%Y_%m_%d} PARTITION OF tasks.executions"
            f" FOR VALUES FROM ('{uuid7_floor(yesterday)}') TO ('{uuid7_floor(today)}')"
        )
    return register_agent("celery-worker", "w").pk


@pytest.fixture
def own_checks(monkeypatch):
    monkeypatch.setattr(registry, "_checks", dict(registry._checks))


def tile(title):
    return next(tile for tile in glance.read_fleet().tiles if tile.title.startswith(title))


def number_of(bars, status):
    return next(bar.number for bar in bars if bar.status == status)


def attempt(worker, ago_seconds, status="completed", number=1):
    moment = timezone.now() - timedelta(seconds=ago_seconds)
    return Execution.objects.create(
        execution_id=uuid7_at(moment, number),
        task_id=uuid7_at(moment, number),
        agent_id=worker,
        started_at=moment,
        completed_at=moment,
        status=status,
        result={} if status == "completed" else None,
        error_message="no" if status == "failed" else None,
    )


# -- what it shows ------------------------------------------------------------------------------------------
def test_agents_and_tasks_are_counted_by_status(worker):
    first = enqueue("echo")
    enqueue("echo", depends_on=[first])
    seen = glance.read_fleet()
    assert number_of(seen.agents, "initializing") == "1"
    assert (number_of(seen.tasks, "queued"), number_of(seen.tasks, "pending")) == ("1", "1")
    finish(claim("echo", worker)[0], {})
    assert number_of(glance.read_fleet().tasks, "completed") == "1"


def test_a_count_at_its_limit_says_so():
    assert glance.text_of(9_999) == "9,999"
    assert glance.text_of(10_000) == "10,000+"


def test_terminated_agents_are_not_of_the_fleet(worker):
    assert tile("Agents").value == "1"
    terminate_agent(worker, actor="test", reason="over")
    assert tile("Agents").value == "0"
    assert number_of(glance.read_fleet().agents, "terminated") == "1"


@pytest.mark.parametrize(("lost", "tone"), [(0, ""), (1, "bad")])
def test_a_lost_agent_turns_its_tile_bad(lost, tone):
    numbers = glance.Counter(alive=2, lost=lost)
    assert glance.agents_tile(glance.Counter(active=2 + lost), numbers).tone == tone


def test_attempts_fall_into_the_minute_they_ended_in(worker):
    attempt(worker, 120)
    attempt(worker, 120, number=2)
    attempt(worker, 120, "failed", number=3)
    attempt(worker, 2 * 3600)
    minutes = executions_by_minute()
    assert len(minutes) == 60
    assert [(m["completed"], m["failed"]) for m in minutes[56:59]].count((2, 1)) == 1
    assert sum(m["completed"] for m in minutes) == 2
    assert all(m["is_whole"] for m in minutes)


def test_minutes_beyond_the_newest_attempts_are_gaps(worker):
    attempt(worker, 30 * 60)
    attempt(worker, 5 * 60)
    minutes = executions_by_minute(limit=1)
    assert not minutes[0]["is_whole"]
    assert minutes[-1]["is_whole"]
    assert glance.make_chart(minutes)["datasets"][0]["data"][0] is None


def test_the_outbox_tile_turns_bad_when_the_oldest_row_is_late(worker):
    assert tile("Outbox").tone == ""
    with connection.cursor() as cursor:
        cursor.execute("UPDATE bridge.outbox SET created_at = now() - interval '1 minute'")
        assert cursor.rowcount > 0
    assert tile("Outbox").tone == "bad"


def test_the_newest_verified_backup_is_named():
    assert tile("Verified").value == "none yet"
    Backup.objects.create(
        status="verified",
        location="x",
        database_name="d",
        server_version="18",
        tool_version="18",
        started_at=timezone.now() - timedelta(hours=3),
        completed_at=timezone.now(),
        verified_at=timezone.now(),
        database_bytes=1,
        size_bytes=2048,
        manifest_sha256="0" * 64,
    )
    assert tile("Verified").value == "3 h old"


def test_findings_that_are_not_ok_are_alarms(own_checks):
    register_check("agents.lost", lambda: [Finding(False, "seven are lost", "look"), Finding(True, "fine")])
    assert glance.Alarm("agents.lost", "seven are lost", "look") in glance.read_alarms()


def test_a_check_that_breaks_is_an_alarm(own_checks):
    register_check("agents.lost", lambda: 1 / 0)
    assert any("ZeroDivisionError" in alarm.detail for alarm in glance.read_alarms())


def test_checks_that_ask_other_servers_are_not_run(own_checks, monkeypatch):
    """A request must not wait for a server that is down."""
    asked = []
    monkeypatch.setattr(glance, "run_check", lambda check: asked.append(check.name) or [])
    glance.read_alarms()
    slow = {"cockpit.nats", "cockpit.broker", "cockpit.worker", "bridge.topology", "recovery.tools"}
    assert set(asked) == glance.QUICK_CHECKS
    assert slow <= set(registry._checks)
    assert not slow & set(asked)


# -- the page -----------------------------------------------------------------------------------------------
def test_the_page_and_its_renewed_part_show_the_fleet(admin_client):
    page = admin_client.get(reverse("admin:index")).content.decode()
    assert "Ready tasks" in page
    assert 'id="throughput"' in page
    answer = admin_client.get(reverse("fleet"))
    assert "Ready tasks" in answer.content.decode()
    assert "no-store" in answer["Cache-Control"]


def test_every_link_of_the_page_opens(admin_client):
    seen = glance.read_fleet()
    for link in [shown.link for shown in (*seen.tiles, *seen.agents, *seen.tasks)]:
        assert admin_client.get(link).status_code == 200, link


def test_the_page_works_while_nats_and_broker_are_down(admin_client, settings):
    settings.NATS_URL = settings.CELERY_BROKER_URL = "redis://127.0.0.1:1"
    assert admin_client.get(reverse("admin:index")).status_code == 200
    assert admin_client.get(reverse("fleet")).status_code == 200


# -- to whom ------------------------------------------------------------------------------------------------
def test_the_renewed_part_is_refused_to_strangers(client):
    assert client.get(reverse("fleet")).status_code == 403


def test_staff_without_rights_see_neither_figures_nor_the_part(client):
    client.force_login(User.objects.create_user("nobody", is_staff=True))
    assert client.get(reverse("fleet")).status_code == 403
    assert "Ready tasks" not in client.get(reverse("admin:index")).content.decode()


def test_rights_without_staff_are_not_enough(client):
    user = User.objects.create_user("visitor")
    user.user_permissions.set(Permission.objects.filter(codename__in=["view_agent", "view_task"]))
    client.force_login(user)
    assert client.get(reverse("fleet")).status_code == 403
    user.is_staff = True
    user.save()
    assert client.get(reverse("fleet")).status_code == 200


# -- at what cost -------------------------------------------------------------------------------------------
def test_many_viewers_cost_one_look(admin_client):
    admin_client.get(reverse("fleet"))
    with CaptureQueriesContext(
        connection,
    ) as queries:
        admin_client.get(reverse("fleet"))
    assert [query["sql"] for query in queries if "tasks." in query["sql"]] == []


def test_one_look_is_a_bounded_number_of_queries():
    with CaptureQueriesContext(connection) as queries:
        glance.read_fleet()
    assert len(queries) <= MOST_QUERIES


def test_those_who_ask_together_share_an_answer():
    asked = []
    answer = Remembered(lambda: asked.append(1) or len(asked), 60)
    threads = [Thread(target=answer) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (answer(), len(asked)) == (1, 1)
    answer.forget()
    assert answer() == 2


def test_an_answer_is_not_kept_beyond_its_time_nor_an_error_at_all():
    asked = []
    answer = Remembered(lambda: asked.append(1) or 6 // (len(asked) - 1), 0)
    with pytest.raises(ZeroDivisionError):
        answer()
    assert [answer(), answer()] == [6, 3]
