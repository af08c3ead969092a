import pytest

from messaging.checks import look_for_dead_deliveries, look_for_overdue_deliveries, read_deliveries
from messaging.delivery import reject, take
from messaging.send import send
from tests.messaging.conftest import pass_time

pytestmark = pytest.mark.django_db


def verdict(look):
    [finding] = look()
    return finding.ok


def test_dead_deliveries_are_found(bob):
    assert verdict(look_for_dead_deliveries)
    send(1, to_agent=bob.pk)
    reject(take(bob.pk)[0], "broken", may_retry=False)
    assert not verdict(look_for_dead_deliveries)


def test_what_nobody_takes_is_found_after_an_hour(bob):
    send(1, to_agent=bob.pk)
    pass_time(minutes=59)
    assert verdict(look_for_overdue_deliveries)
    pass_time(minutes=2)
    assert not verdict(look_for_overdue_deliveries)
    assert {labels["state"]: number for labels, number in read_deliveries()} == {
        "open": 1,
        "overdue": 1,
        "dead": 0,
    }
