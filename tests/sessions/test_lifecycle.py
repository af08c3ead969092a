import logging
import os
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from uuid import uuid4

import psycopg
import pytest
from django.db import connection, transaction
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from agents.errors import UnknownAgent
from agents.models import Agent
from agents.registry import register_agent, terminate_agent
from sessions import lifecycle
from sessions.checks import look_for_unpurged_sessions, read_sessions
from sessions.errors import SessionRefused, UnknownSession
from sessions.jobs import purge_expired_sessions
from sessions.lifecycle import (
    MAX_LIFE,
    authenticate,
    open_session,
    purge_expired,
    revoke,
    revoke_all,
    rotate,
    touch,
)
from sessions.models import Session
from tests.sessions.conftest import HOUR, everything_stored, open_expired, open_one

pytestmark = pytest.mark.django_db


@pytest.fixture
def agent():
    return register_agent("worker", "a")


def grow_old(session, **columns):
    """Change a session's row as if time had passed; return it as it is now."""
    Session.objects.filter(pk=session.pk).update(**columns)
    return Session.objects.get(pk=session.pk)


# -- open, authenticate ---------------------------------------------------------------------------------------
def test_a_token_opens_its_session(agent):
    session, token = open_session(
        HOUR,
        agent_id=agent.pk,
        session_type="api",
        permissions={"read": True},
        ip_address="::1",
        user_agent="x",
    )
    found = authenticate(token)
    assert (found.pk, found.agent, found.session_type) == (session.pk, agent, "api")
    assert (found.permissions, found.ip_address, found.user_agent) == ({"read": True}, "::1", "x")
    assert found.expires_at - found.created_at == HOUR


def test_opening_is_one_query_beside_the_agent_s_and_authenticating_one(agent, django_assert_num_queries):
    with django_assert_num_queries(4):  # agent, savepoint, insert, release
        _, token = open_session(HOUR, agent_id=agent.pk)
    with django_assert_num_queries(1):
        assert authenticate(token).agent.agent_name == "a"


def test_another_text_opens_nothing():
    token, _ = open_one()
    other = token[:-1] + ("a" if token[-1] != "a" else "b")
    for text in (
        other,
        token[:-1],
        token + "a",
        token.lower(),
        "",
        "short",
        "\0" * 43,
        "\ud800" * 43,
        "x" * 10_000,
    ):
        assert authenticate(text) is None
    assert authenticate(token)


def test_a_row_that_only_has_the_same_id_opens_nothing():
    """The id is 122 bits of the digest; the rest of it is compared too."""
    token, session_id = open_one()
    session = Session.objects.get(pk=session_id)
    other = bytes(session.token_digest)[:31] + bytes([bytes(session.token_digest)[31] ^ 1])
    Session.objects.filter(pk=session_id).update(token_digest=other)
    assert authenticate(token) is None


def test_a_session_is_live_before_its_end_and_not_after(agent):
    token, session_id = open_one()
    Session.objects.filter(pk=session_id).update(expires_at=timezone.now() + HOUR)
    assert authenticate(token)
    past = timezone.now() - 2 * HOUR
    Session.objects.filter(pk=session_id).update(created_at=past, expires_at=timezone.now() - HOUR)
    assert authenticate(token) is None
    assert Session.objects.filter(pk=session_id).update(session_data={"seen": True}) == 1


def test_the_very_end_is_not_live_any_more():
    """expires_at = now(): both the SQL functions and the queries ask for more than that."""
    _, session_id = open_one()
    with connection.cursor() as cursor:
        cursor.execute(
            "UPDATE sessions.active SET created_at = now() - interval '1 h', expires_at = now() RETURNING session_id"
        )
        cursor.execute("SELECT count(*) FROM sessions.live")
        assert cursor.fetchone() == (0,)
    assert purge_expired() == 1
    assert not Session.objects.filter(pk=session_id).exists()


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"ttl": timedelta(0)}, "more than zero"),
        ({"ttl": timedelta(seconds=-1)}, "more than zero"),
        ({"ttl": MAX_LIFE + timedelta(seconds=1)}, "at most 365 days"),
        ({"user_id": None}, "one agent or one user"),
        ({"user_id": ""}, "one agent or one user"),
        ({"agent_id": uuid4()}, "one agent or one user"),
        ({"user_id": "x" * 256}, "255"),
        ({"session_type": "chat"}, "session_type"),
        ({"permissions": {"a": object()}}, "permissions"),
        ({"session_data": {"a": float("nan")}}, "session_data"),
        ({"ip_address": "localhost"}, "ip_address"),
    ],
)
def test_a_session_that_breaks_a_rule_is_refused(change, word):
    with pytest.raises(SessionRefused, match=word):
        open_session(**({"ttl": HOUR, "user_id": "ann"} | change))
    assert not Session.objects.exists()


def test_the_longest_life_is_accepted():
    open_session(MAX_LIFE, user_id="x" * 255)


def test_unknown_and_terminated_agents_get_no_session(agent):
    with pytest.raises(UnknownAgent):
        open_session(HOUR, agent_id=uuid4())
    token, _ = open_one(agent_id=agent.pk)
    terminate_agent(agent.pk)
    with pytest.raises(SessionRefused, match="terminated"):
        open_session(HOUR, agent_id=agent.pk)
    assert authenticate(token) is None
    with connection.cursor() as cursor:
        cursor.execute("SELECT count(*) FROM sessions.authenticate(%s)", [token])
        assert cursor.fetchone() == (0,)


def test_an_agent_s_sessions_go_with_it():
    agent = Agent.objects.create(agent_type="worker", agent_name="a")
    token, _ = open_one(agent_id=agent.pk)
    agent.delete()
    assert authenticate(token) is None


def test_the_same_token_twice_is_refused_and_the_first_session_stays(monkeypatch):
    token, session_id = open_one()
    monkeypatch.setattr(lifecycle, "mint_token", lambda: token)
    with pytest.raises(SessionRefused, match="already") as caught:
        open_one(user_id="eve")
    assert caught.value.__suppress_context__
    with pytest.raises(SessionRefused, match="already"):
        rotate(open_other_than(token, monkeypatch))
    assert authenticate(token).pk == session_id


def open_other_than(token, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(lifecycle, "mint_token", lambda: token[::-1])
        return open_one()[1]


# -- what is kept secret --------------------------------------------------------------------------------------
def test_no_token_is_stored():
    tokens = [open_one()[0] for _ in range(20)]
    assert not [token for token in tokens if token in everything_stored()]


def test_no_token_is_in_a_statement_or_a_log(caplog):
    caplog.set_level(logging.DEBUG)
    with CaptureQueriesContext(connection) as queries:
        token, session_id = open_one()
        authenticate(token)
        _, second = rotate(session_id)
        touch(authenticate(second))
    said = caplog.text + "".join(query["sql"] for query in queries.captured_queries)
    assert session_id.hex in said.replace("-", "")
    assert token not in said
    assert second not in said


def test_neither_token_nor_digest_is_in_what_a_session_says_of_itself():
    token, session_id = open_one()
    session = Session.objects.get(pk=session_id)
    digest = bytes(session.token_digest)
    for text in (repr(session), str(session)):
        assert token not in text
        assert repr(digest) not in text
        assert digest.hex()[32:] not in text


def test_a_session_is_looked_up_in_one_partition():
    _, session_id = open_one()
    plan = Session.objects.filter(pk=session_id).explain()
    assert plan.count("Scan") == 1


def test_the_live_view_has_no_digest_and_no_expired_session():
    _, live = open_one()
    open_expired()
    with connection.cursor() as cursor:
        cursor.execute("SELECT * FROM sessions.live")
        assert "token_digest" not in [column.name for column in cursor.description]
        assert [row[0] for row in cursor.fetchall()] == [live]


# -- touch ----------------------------------------------------------------------------------------------------
@pytest.fixture
def idle():
    """A session that was last used two minutes ago and ends in an hour."""
    session, _ = open_session(HOUR, user_id="ann")
    return grow_old(session, last_activity=timezone.now() - timedelta(minutes=2))


def test_a_touch_is_written_at_most_once_a_minute(idle, django_assert_num_queries):
    end = idle.expires_at
    before = timezone.now()
    assert touch(idle)
    stored = Session.objects.get(pk=idle.pk)
    assert (stored.last_activity >= before, stored.expires_at) == (True, end)
    with django_assert_num_queries(0):
        assert touch(idle)


@pytest.mark.parametrize(("seconds", "is_written"), [(58, False), (62, True)])
def test_a_minute_is_a_minute(idle, seconds, is_written):
    session = grow_old(idle, last_activity=timezone.now() - timedelta(seconds=seconds))
    before = session.last_activity
    touch(session)
    assert (Session.objects.get(pk=session.pk).last_activity > before) is is_written


def test_a_second_process_finds_the_touch_of_the_first(idle):
    other = Session.objects.get(pk=idle.pk)
    touch(idle)
    written = Session.objects.get(pk=idle.pk).last_activity
    assert touch(other)
    assert Session.objects.get(pk=idle.pk).last_activity == written


def test_sliding_moves_the_end_and_never_shortens(idle):
    end = idle.expires_at
    touch(grow_old(idle), slide_by=timedelta(minutes=1))
    assert Session.objects.get(pk=idle.pk).expires_at == end
    session = grow_old(idle, last_activity=timezone.now() - HOUR)
    assert touch(session, slide_by=2 * HOUR)
    assert session.expires_at - timezone.now() > timedelta(minutes=119)


def test_sliding_ends_with_the_longest_life(idle):
    opened = timezone.now() - MAX_LIFE + timedelta(minutes=90)
    session = grow_old(idle, created_at=opened)
    touch(session, slide_by=timedelta(days=10))
    assert session.expires_at == opened + MAX_LIFE


def test_touching_brings_nothing_back(idle):
    past = timezone.now() - 2 * HOUR
    session = grow_old(idle, created_at=past - HOUR, last_activity=past, expires_at=past)
    assert touch(session, slide_by=HOUR) is False
    assert Session.objects.get(pk=idle.pk).expires_at == past
    revoke([idle.pk])
    assert touch(session) is False


# -- rotate, revoke -------------------------------------------------------------------------------------------
def test_a_rotated_token_is_dead_and_the_new_one_opens_the_same_session(agent):
    session, old = open_session(HOUR, agent_id=agent.pk, permissions={"read": True}, session_data={"x": 1})
    rotated, new = rotate(session.pk)
    assert authenticate(old) is None
    found = authenticate(new)
    assert (found.pk, found.agent, found.permissions, found.session_data) == (
        rotated.pk,
        agent,
        {"read": True},
        {"x": 1},
    )
    assert (found.created_at, found.expires_at) == (session.created_at, session.expires_at)
    assert rotated.pk != session.pk
    assert Session.objects.count() == 1


def test_rotating_may_set_a_new_end():
    _, session_id = open_one()
    rotated, _ = rotate(session_id, ttl=2 * HOUR)
    assert rotated.expires_at - timezone.now() > timedelta(minutes=119)
    with pytest.raises(SessionRefused, match="more than zero"):
        rotate(rotated.pk, ttl=timedelta(0))
    assert Session.objects.get().pk == rotated.pk


def test_a_rotation_that_is_rolled_back_leaves_the_old_token():
    token, session_id = open_one()
    with transaction.atomic():
        _, new = rotate(session_id)
        transaction.set_rollback(True)
    assert authenticate(token)
    assert authenticate(new) is None


def test_unknown_expired_and_rotated_sessions_cannot_be_rotated():
    _, expired = open_expired()
    _, session_id = open_one()
    rotate(session_id)
    for gone in (uuid4(), expired, session_id):
        with pytest.raises(UnknownSession):
            rotate(gone)


def test_one_or_all_of_an_agent_are_revoked(agent):
    (one, first), (two, _), (three, _) = (open_one(agent_id=agent.pk) for _ in range(3))
    other, _ = open_one()
    assert [revoke([first, uuid4()]), revoke([first]), revoke([])] == [1, 0, 0]
    assert [bool(authenticate(token)) for token in (one, two, three)] == [False, True, True]
    assert [revoke_all(agent.pk), revoke_all(agent.pk)] == [2, 0]
    assert [bool(authenticate(token)) for token in (two, three, other)] == [False, False, True]


@pytest.mark.django_db(transaction=True)
def test_a_revocation_beside_it_holds_up_no_authentication_and_is_not_undone_by_a_touch():
    token, session_id = open_one()
    session = grow_old(authenticate(token), last_activity=timezone.now() - HOUR)
    with ThreadPoolExecutor(1) as pool, psycopg.connect(os.environ["DATABASE_URL"]) as operator:
        operator.execute("DELETE FROM sessions.active WHERE session_id = %s", [session_id])
        assert authenticate(token).pk == session_id  # not committed yet
        touching = pool.submit(in_thread, touch, session, HOUR)
        wait_for_a_lock(operator)
        operator.commit()
        assert touching.result(60) is False
    assert authenticate(token) is None


@pytest.mark.django_db(transaction=True)
def test_of_two_rotations_at_once_one_wins():
    token, session_id = open_one()
    with ThreadPoolExecutor(1) as pool, psycopg.connect(os.environ["DATABASE_URL"]) as operator:
        operator.execute("SELECT FROM sessions.active WHERE session_id = %s FOR UPDATE", [session_id])
        rotating = pool.submit(in_thread, rotate, session_id)
        wait_for_a_lock(operator)
        operator.execute(
            "DELETE FROM sessions.active WHERE session_id = %s", [session_id]
        )  # the other's rotation
        operator.commit()
        with pytest.raises(UnknownSession):
            rotating.result(60)
    assert authenticate(token) is None


def in_thread(run, *arguments):
    try:
        return run(*arguments)
    finally:
        connection.close()


def wait_for_a_lock(operator):
    """Return as soon as somebody waits for what `operator` holds."""
    waiting = (
        "SELECT count(*) FROM pg_stat_activity"
        " WHERE pg_backend_pid() = ANY(pg_blocking_pids(pid)) AND datname = current_database()"
    )
    deadline = time.monotonic() + 10
    while operator.execute(waiting).fetchone() == (0,):
        assert time.monotonic() < deadline, "nobody waits"
        operator.execute("SELECT pg_stat_clear_snapshot()")


# -- purge ----------------------------------------------------------------------------------------------------
def test_purge_takes_the_expired_in_batches_and_leaves_the_live():
    token, _ = open_one()
    for _ in range(3):
        open_expired()
    assert [purge_expired(2), purge_expired(2), purge_expired(2)] == [2, 1, 0]
    assert authenticate(token)


def test_two_purges_at_once_take_different_rows(own_database):
    with own_database.connect() as first, own_database.connect() as second:
        first.execute(
            "INSERT INTO sessions.active (session_id, token_digest, created_at, expires_at)"
            " SELECT sessions.token_id(d), d, now() - interval '2 h', now() - interval '1 h'"
            " FROM (SELECT sha256(n::text::bytea) d FROM generate_series(1, 4) n) tokens"
        )
        with first.transaction():
            assert first.execute("SELECT sessions.purge_expired(3)").fetchone() == (3,)
            assert second.execute("SELECT sessions.purge_expired(3)").fetchone() == (1,)
        assert second.execute("SELECT count(*) FROM sessions.active").fetchone() == (0,)


def test_the_job_purges_all_there_are():
    for _ in range(3):
        open_expired()
    assert (purge_expired_sessions(), purge_expired_sessions()) == (3, 0)


def test_doctor_finds_a_purge_that_does_not_run():
    open_one()
    _, session_id = open_expired()
    moment = timezone.now()
    for age, verdict in ((timedelta(minutes=59), True), (timedelta(minutes=61), False)):
        Session.objects.filter(pk=session_id).update(created_at=moment - 9 * HOUR, expires_at=moment - age)
        assert [finding.ok for finding in look_for_unpurged_sessions()] == [verdict]
    assert list(read_sessions()) == [({}, 1)]
