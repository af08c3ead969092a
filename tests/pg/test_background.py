"""Long jobs of a worker go through the background pool."""

from types import SimpleNamespace

import pytest
from django.db import connection, connections

from pg import background
from pg.background import change_back, change_pool, is_background_job


@pytest.fixture
def own_pool(monkeypatch):
    """As in a worker of two servers."""
    entry = {**connections.settings["background"], "IS_SHARED": False}
    monkeypatch.setitem(connections.settings, "background", entry)


def job(name, is_eager=False):
    return SimpleNamespace(name=name, request=SimpleNamespace(is_eager=is_eager))


@pytest.mark.django_db(databases=["default", "background"])
def test_meanwhile_everything_goes_through_the_background_connection(own_pool):
    with background.background():
        assert connection.alias == "background"
        with connection.cursor() as cursor:
            cursor.execute("SELECT 1")
    assert connection.alias == "default"


def test_with_one_server_and_no_pools_nothing_changes():
    with background.background():
        assert connection.alias == "default"


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("recovery.daily", True),
        ("partitions.apply", True),
        ("tasks.run_ticket", False),
        ("tasks.sweep", False),
    ],
)
def test_which_jobs_those_are(own_pool, name, expected):
    assert is_background_job(name) is expected


def test_in_a_process_whose_own_pool_it_is_nothing_changes(own_pool, monkeypatch):
    entry = {**connections.settings["default"], "POOL": "background"}
    monkeypatch.setitem(connections.settings, "default", entry)
    assert not is_background_job("recovery.daily")


def test_a_job_changes_the_pool_and_changes_it_back(own_pool):
    change_pool("1", job("recovery.daily"))
    assert connection.alias == "background"
    change_back("1")
    assert connection.alias == "default"
    change_back("1")  # once more does no harm


def test_a_job_called_within_somebody_s_transaction_stays_in_it(own_pool):
    change_pool("1", job("recovery.daily", is_eager=True))
    assert connection.alias == "default"
