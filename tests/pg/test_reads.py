"""Where reads go, and what a request or a task remembers of its writes."""

import pytest
from django.db import connection, transaction

from agents.models import Agent
from operators.models import AuditEntry
from pg import reads
from pg.middleware import COOKIE
from pg.replicas import Replica, Replicas
from pg.routing import Router


@pytest.fixture
def replica(settings, monkeypatch):
    """One replica that has replayed everything up to 100 bytes."""
    settings.REPLICA_ALIASES = ["replica"]
    one = Replicas([Replica("replica")], 10, 1_000)
    one.saw("replica", 100, 1, True)
    monkeypatch.setattr("pg.routing.replicas", lambda: one)
    monkeypatch.setattr("pg.routing.ensure_watch", lambda: None)
    return one


def test_what_does_not_ask_reads_the_primary(replica):
    assert Router().db_for_read(Agent) == "default"


def test_what_asks_reads_a_replica_and_within_it_may_ask_for_the_primary(replica):
    with reads.from_replicas():
        assert Router().db_for_read(Agent) == "replica"
        with reads.from_primary():
            assert Router().db_for_read(Agent) == "default"
        assert Router().db_for_read(Agent) == "replica"
    assert Router().db_for_read(Agent) == "default"


def test_writes_go_to_the_primary_wherever_the_row_came_from(replica):
    agent = Agent()
    agent._state.db = "replica"
    with reads.from_replicas():
        assert Router().db_for_write(Agent, instance=agent) == "default"


def test_who_somebody_is_comes_from_the_primary(replica):
    with reads.from_replicas():
        assert Router().db_for_read(AuditEntry) == "default"


@pytest.mark.django_db(transaction=True)
def test_within_a_transaction_reads_stay_in_it(replica):
    with reads.from_replicas(), reads.unit():
        assert Router().db_for_read(Agent) == "replica"
        with transaction.atomic():
            assert Router().db_for_read(Agent) == "default"


@pytest.mark.django_db(transaction=True)
def test_after_a_write_reads_wait_for_the_replica_and_the_primary_is_asked_once(
    replica, django_assert_num_queries
):
    with reads.unit() as mark, reads.from_replicas():
        reads.note_write()
        with django_assert_num_queries(1):
            assert [Router().db_for_read(Agent) for _ in range(3)] == ["default"] * 3
        replica.saw("replica", mark.lsn, 1, True)
        assert Router().db_for_read(Agent) == "replica"
    with reads.unit(), reads.from_replicas():
        assert Router().db_for_read(Agent) == "replica"  # another request wrote nothing


@pytest.mark.django_db
def test_writes_are_seen_by_their_first_word():
    connection.execute_wrappers.append(reads.note_writes)
    try:
        with reads.unit() as mark, connection.cursor() as cursor:
            cursor.execute("  SELECT 1")
            cursor.execute("SET LOCAL work_mem = '8MB'")
            assert not mark.has_written
            cursor.execute("UPDATE agents.registry SET agent_name = agent_name WHERE false")
            assert mark.has_written
    finally:
        connection.execute_wrappers.remove(reads.note_writes)


@pytest.mark.parametrize(
    ("sql", "expected"),
    [
        *[(text, True) for text in ("select 1", "(SELECT 1)", "SHOW x", "ROLLBACK;")],
        *[(text, False) for text in ("", "WITH x AS (", "insert into", "-- a comment", None)],
    ],
)
def test_what_is_not_known_to_read_counts_as_a_write(sql, expected):
    assert reads.is_reading(sql) is expected


def test_reports_go_to_the_analytics_server_and_never_to_the_primary_when_one_is_given(settings):
    settings.ANALYTICS_ALIAS = "analytics"
    with reads.from_analytics():
        assert Router().db_for_read(Agent) == "analytics"


def test_only_the_primary_is_migrated():
    assert Router().allow_migrate("default", "agents")
    assert not Router().allow_migrate("replica", "agents")


# -- pages ------------------------------------------------------------------------------------------------------
@pytest.mark.django_db
def test_whoever_posts_carries_the_position_of_his_write_and_a_reader_none(replica, client):
    assert COOKIE not in client.get("/healthz").cookies
    found = client.post("/admin/login/", {"username": "x", "password": "y"}).cookies[COOKIE]
    assert int(found.value, 16) > 100
    assert found["httponly"]


@pytest.mark.django_db
def test_without_replicas_there_is_no_such_cookie(client):
    assert COOKIE not in client.post("/admin/login/", {"username": "x", "password": "y"}).cookies


@pytest.mark.parametrize("value", ["", "zz", "-", "0x", "f" * 400])
def test_a_cookie_of_nonsense_does_no_harm(client, value):
    client.cookies[COOKIE] = value
    assert client.get("/healthz").status_code == 200
