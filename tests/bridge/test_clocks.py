"""PostgreSQL's clock is made wrong by a function that hides its own: the session's, as if it were the server's."""

from datetime import timedelta

import pytest
from django.db import connection as db
from django.utils import timezone

from bridge import checks, connection, metrics
from bridge.clocks import Skew, read_skew
from bridge.figures import Reporter
from bridge.session import execute, open_session
from monitoring import alarms
from monitoring.models import AlarmRule
from pg.errors import Unreachable
from tests.bridge.conftest import rows

pytestmark = pytest.mark.usefixtures("committed", "jetstream")


@pytest.fixture
def wrong():
    """Room for a function that `hide` puts before PostgreSQL's own."""
    rows("CREATE SCHEMA wrong")
    yield
    rows("DROP SCHEMA wrong CASCADE")


def hide(session, interval):
    """Let PostgreSQL's clock be ahead in this session."""
    execute(
        session,
        "CREATE OR REPLACE FUNCTION wrong.clock_timestamp() RETURNS timestamptz LANGUAGE sql"
        f" AS $$ SELECT pg_catalog.clock_timestamp() + interval '{interval}' $$",
    )
    execute(session, "SET search_path = wrong, pg_catalog")


def test_two_servers_of_one_machine_have_one_clock():
    skew = read_skew(db)
    assert skew.error_seconds > 0
    assert skew.certain_seconds < 0.05


@pytest.mark.parametrize(
    ("interval", "seconds"), [("1 hour", -3600), ("-2 seconds", 2), ("40 years", -1.26e9)]
)
def test_a_wrong_clock_is_measured_with_its_direction(wrong, interval, seconds):
    with open_session() as session:
        hide(session, interval)
        skew = read_skew(session)
    assert skew.seconds == pytest.approx(seconds, rel=0.01, abs=skew.error_seconds + 0.05)
    assert skew.certain_seconds > 1


def test_a_slow_answer_is_no_wrong_clock():
    assert Skew(0.9, 1.0).certain_seconds == 0
    assert Skew(-1.9, 0.5).certain_seconds == pytest.approx(1.4)


def test_doctor_names_clocks_that_differ(wrong):
    assert all(finding.ok for finding in checks.check_clocks())
    hide(db, "90 seconds")
    (finding,) = checks.check_clocks()
    db.close()
    assert not finding.ok
    assert "s behind PostgreSQL's" in finding.detail
    assert "time servers" in finding.hint


def test_doctor_says_that_nobody_answers(settings):
    settings.NATS_URL = "nats://127.0.0.1:1"
    connection.close()
    (finding,) = checks.check_clocks()
    connection.close()
    assert not finding.ok
    assert "127.0.0.1:1" in finding.detail


def test_the_metric_and_its_alarm_ring_and_end(wrong):
    rule = AlarmRule.objects.get(metric="mistersmith_bridge_clocks_apart_seconds")
    reporter, now = Reporter([]), timezone.now()
    reporter.is_stopping = True  # one turn, without the pause
    with open_session() as session:
        reporter.turn(session)
        assert value() < 0.05
        hide(session, "2 minutes")
        reporter.turn(session)
        assert value() < 0.05, "measured twice a minute, not at every turn"
        reporter._next_clocks = 0
        reporter.turn(session)
    assert value() == pytest.approx(120, abs=5)
    waiting = alarms.judge(rule, value(), now)
    for field in ("state", "pending_state", "pending_since"):
        setattr(rule, field, getattr(waiting, field))
    assert alarms.judge(rule, value(), now + timedelta(seconds=60)).state == "critical"
    rows("DELETE FROM bridge.processes")


def value():
    return next(iter(metrics.clocks()))[1]


def test_without_nats_there_is_no_figure_rather_than_an_old_one(settings):
    reporter = Reporter([])
    reporter.skew = Skew(0.0, 0.0)
    settings.NATS_URL = "nats://127.0.0.1:1"
    connection.close()
    with open_session() as session:
        with pytest.raises(Unreachable):
            read_skew(session, 0.2)
        reporter.compare_clocks(session)
    assert "clock_apart_ms" not in reporter.collect()["nats"]
    connection.close()
