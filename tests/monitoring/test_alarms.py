"""Rules change their state when they should, tell whom they should, and never twice."""

from datetime import UTC, datetime, timedelta

import pytest
from django.db import connections

from monitoring import registry
from monitoring.alarms import deaf, evaluate_rules, judge, ringing, silence, unsilence
from monitoring.defaults import install_alarms
from monitoring.models import AlarmChannel, AlarmEvent, AlarmRule, Notification
from monitoring.registry import Metric
from operators.audit import Actor
from operators.models import AuditEntry
from pg.errors import Refused

NOW = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)
ANN = Actor("ann", "admin")
SECOND = timedelta(seconds=1)


def rule(**fields):
    return AlarmRule(**{"name": "r", "metric": "m", "warning": 10, "critical": 20, "state": "ok", **fields})


@pytest.mark.parametrize(
    ("value", "state"), [(10, "ok"), (10.1, "warning"), (20, "warning"), (20.1, "critical"), (-5, "ok")]
)
def test_above_its_threshold_a_value_rings(value, state):
    assert judge(rule(), value, NOW).state == state


@pytest.mark.parametrize(("value", "state"), [(7, "ok"), (6.9, "warning"), (3, "warning"), (2.9, "critical")])
def test_below_its_threshold_a_value_rings(value, state):
    assert judge(rule(direction="below", warning=7, critical=3), value, NOW).state == state


@pytest.mark.parametrize(("value", "state"), [(9, "warning"), (8.1, "warning"), (8, "ok")])
def test_a_state_ends_only_beyond_its_margin(value, state):
    assert judge(rule(state="warning", clear_margin=2), value, NOW).state == state


@pytest.mark.parametrize(("value", "state"), [(19, "critical"), (18, "warning"), (9, "warning"), (8, "ok")])
def test_a_critical_state_steps_down_by_the_same_margin(value, state):
    assert judge(rule(state="critical", clear_margin=2), value, NOW).state == state


def test_a_value_must_hold_before_the_state_changes():
    waiting = judge(rule(hold_seconds=30), 11, NOW)
    assert (waiting.state, waiting.pending_state, waiting.pending_since) == ("ok", "warning", NOW)
    held = rule(hold_seconds=30, pending_state="warning", pending_since=NOW)
    assert judge(held, 11, NOW + 29 * SECOND).state == "ok"
    assert judge(held, 11, NOW + 30 * SECOND).state == "warning"
    assert judge(held, 9, NOW + 29 * SECOND).pending_state is None
    assert (
        judge(held, 21, NOW + 29 * SECOND).pending_since == NOW + 29 * SECOND
    )  # another state begins to wait anew


# -- in the database ----------------------------------------------------------------------------------------
@pytest.fixture
def metric(monkeypatch):
    """A metric whose series a test sets; `None` makes it fail."""
    found = [({}, 0.0)]

    def read():
        if found == [None]:
            raise ZeroDivisionError
        return found

    monkeypatch.setattr(registry, "_metrics", {"m": Metric("m", "", read)})
    AlarmRule.objects.all().delete()
    return found


@pytest.mark.django_db
def test_change_of_state_is_an_event_and_a_notification_each(metric):
    AlarmRule.objects.create(name="r", metric="m", warning=10, critical=20)
    AlarmChannel.objects.create(name="all", kind="email", target="ops@example.org")
    AlarmChannel.objects.create(
        name="worst", kind="email", target="ops@example.org", minimum_state="critical"
    )
    AlarmChannel.objects.create(name="off", kind="email", target="ops@example.org", is_enabled=False)
    for value, changed in ((5, 0), (11, 1), (12, 0), (21, 1), (0, 1)):
        metric[:] = [({}, value)]
        assert evaluate_rules(NOW) == changed
    assert list(AlarmEvent.objects.order_by("pk").values_list("from_state", "to_state")) == [
        ("ok", "warning"),
        ("warning", "critical"),
        ("critical", "ok"),
    ]
    told = [
        list(event.notifications.order_by("channel__name").values_list("channel__name", flat=True))
        for event in AlarmEvent.objects.order_by("pk")
    ]
    assert told == [["all"], ["all", "worst"], ["all", "worst"]], "who heard that it rang hears that it ended"


@pytest.mark.django_db
def test_the_worst_series_with_the_labels_counts(metric):
    AlarmRule.objects.create(name="r", metric="m", labels={"pool": "web"}, direction="below", critical=5)
    metric[:] = [({"pool": "web", "state": "a"}, 9), ({"pool": "web", "state": "b"}, 4), ({"pool": "job"}, 1)]
    evaluate_rules(NOW)
    assert (ringing()[0].value, ringing()[0].state) == (4, "critical")


@pytest.mark.django_db
@pytest.mark.parametrize(
    ("series", "problem"), [([None], "ZeroDivisionError"), ([], "no series with these labels")]
)
def test_a_rule_without_a_value_keeps_its_state_and_is_reported_deaf(metric, series, problem):
    one = AlarmRule.objects.create(name="r", metric="m", critical=5, state="critical")
    metric[:] = series
    evaluate_rules(NOW)
    one.refresh_from_db()
    assert (one.state, one.value) == ("critical", None)
    assert problem in one.problem
    assert [found.name for found in deaf(NOW)] == ["r"]
    metric[:] = [({}, 6)]
    evaluate_rules(NOW)
    assert deaf(NOW) == []
    assert [found.name for found in deaf(NOW + timedelta(minutes=6))] == ["r"]


@pytest.mark.django_db
def test_a_silenced_rule_is_judged_and_told_to_nobody(metric):
    one = AlarmRule.objects.create(name="r", metric="m", warning=10)
    AlarmChannel.objects.create(name="all", kind="email", target="ops@example.org")
    silence([one], NOW + timedelta(hours=1), by=ANN, reason="known", now=NOW)
    metric[:] = [({}, 11)]
    evaluate_rules(NOW)
    assert AlarmEvent.objects.get().was_silenced
    assert not Notification.objects.exists()
    metric[:] = [({}, 0)]
    evaluate_rules(NOW + timedelta(hours=1))
    assert Notification.objects.count() == 1, "the silence is over"
    assert AuditEntry.objects.get().reason == "known"


@pytest.mark.django_db
def test_silence_ends_by_hand_and_has_a_limit(metric):
    one = AlarmRule.objects.create(name="r", metric="m", warning=10)
    for until in (NOW, NOW + timedelta(days=31)):
        with pytest.raises(Refused):
            silence([one], until, by=ANN, reason="known", now=NOW)
    silence([one], NOW + timedelta(days=30), by=ANN, reason="known", now=NOW)
    unsilence([one], by=ANN, reason="done")
    one.refresh_from_db()
    assert one.silenced_until is None


@pytest.mark.django_db(transaction=True)
def test_two_judges_at_once_make_one_event(metric, own_second_connection):
    AlarmRule.objects.create(name="r", metric="m", warning=10)
    metric[:] = [({}, 11)]
    with own_second_connection.transaction():
        own_second_connection.execute("SELECT FROM monitoring.alarm_rules FOR UPDATE")
        assert evaluate_rules(NOW) == 0, "the other one has it: passed over, not waited for"
    assert evaluate_rules(NOW) == 1
    assert evaluate_rules(NOW) == 0
    assert AlarmEvent.objects.count() == 1


@pytest.fixture
def own_second_connection():
    import psycopg

    with psycopg.connect(**connections["default"].get_connection_params() | {"cursor_factory": psycopg.Cursor},
                         autocommit=True) as connection:  # fmt: skip
        yield connection


@pytest.mark.django_db
def test_declared_rules_are_installed_once_and_edits_stay():
    known = AlarmRule.objects.count()
    assert known >= 7
    edited = AlarmRule.objects.get(name="partitions run out")
    AlarmRule.objects.filter(pk=edited.pk).update(warning=9, is_enabled=False)
    AlarmRule.objects.get(name="tasks wait").delete()
    assert install_alarms() == 1
    edited.refresh_from_db()
    assert (edited.warning, edited.is_enabled, AlarmRule.objects.count()) == (9, False, known)


@pytest.mark.django_db
def test_every_declared_rule_finds_a_value_or_says_that_there_is_none_yet():
    evaluate_rules(NOW)
    problems = dict(AlarmRule.objects.exclude(problem="").values_list("name", "problem"))
    assert set(problems.values()) <= {"no series with these labels"}, problems
