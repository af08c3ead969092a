"""A transaction that somebody holds open is told before claims suffer."""

import os

import psycopg
import pytest
from django.utils import timezone

from monitoring.alarms import evaluate_rules
from monitoring.defaults import install_alarms
from monitoring.models import AlarmEvent, AlarmRule
from tests.tasks.conftest import eventually

pytestmark = pytest.mark.django_db(transaction=True)
NAME = "a transaction is held open"


def judge(warning_seconds):
    AlarmRule.objects.filter(name=NAME).update(warning=warning_seconds)
    evaluate_rules(timezone.now())
    return AlarmRule.objects.get(name=NAME).state


AGE = "SELECT extract(epoch FROM clock_timestamp() - now())::float8"


def test_the_alarm_is_raised_by_a_transaction_that_is_older_than_its_threshold():
    install_alarms()
    assert AlarmRule.objects.get(name=NAME).warning == 300
    with psycopg.connect(os.environ["DATABASE_URL"]) as session:
        session.execute("SELECT count(*) FROM tasks.queue")  # from here on it holds back what is cleaned up
        assert judge(3600) == "ok", "it is younger"
        eventually(lambda: session.execute(AGE).fetchone()[0] > 0.2)
        (age,) = session.execute(AGE).fetchone()
        assert judge(0.2) == "warning"
        assert AlarmRule.objects.get(name=NAME).value >= age
    assert judge(3600) == "ok"
    told = AlarmEvent.objects.filter(rule__name=NAME).order_by("pk").values_list("to_state", flat=True)
    assert list(told) == ["warning", "ok"]
