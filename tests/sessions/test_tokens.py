from datetime import timedelta

import pytest
from django.db import connection
from django.utils import timezone

from agents.models import Agent
from pg.errors import Refused
from sessions.jobs import purge_expired_sessions
from sessions.models import Session
from sessions.tokens import authenticate, open_session, purge_expired

pytestmark = pytest.mark.django_db
HOUR = timedelta(hours=1)


def open_expired(**columns):
    token, session_id = open_session(HOUR, **columns)
    moment = timezone.now() - 2 * HOUR
    Session.objects.filter(pk=session_id).update(created_at=moment, expires_at=moment + HOUR)
    return token, session_id


def everything_stored():
    with connection.cursor() as cursor:
        cursor.execute("SELECT active::text FROM sessions.active")
        return "\n".join(row[0] for row in cursor.fetchall())


def test_a_token_opens_its_session():
    agent = Agent.objects.create(agent_type="worker", agent_name="a")
    token, session_id = open_session(HOUR, agent=agent, session_type="api")
    session = authenticate(token)
    assert (session.pk, session.agent, session.session_type, session.is_live) == (
        session_id,
        agent,
        "api",
        True,
    )
    assert session.expires_at - session.created_at == HOUR


def test_another_token_opens_nothing():
    token, _ = open_session(HOUR)
    assert authenticate(token[:-1] + ("a" if token[-1] != "a" else "b")) is None
    assert authenticate("") is None


def test_an_expired_token_opens_nothing_and_its_row_stays_editable():
    token, session_id = open_expired()
    assert authenticate(token) is None
    assert Session.objects.filter(pk=session_id).update(session_data={"seen": True}) == 1


@pytest.mark.parametrize("ttl", [timedelta(0), timedelta(seconds=-1)])
def test_a_session_must_live(ttl):
    with pytest.raises(Refused, match="more than zero"):
        open_session(ttl)
    assert not Session.objects.exists()


def test_every_token_is_another_one_and_none_is_stored():
    tokens = [open_session(HOUR, user_id="u")[0] for _ in range(20)]
    assert len(set(tokens)) == 20
    assert min(map(len, tokens)) >= 43  # 32 random bytes
    assert not [token for token in tokens if token in everything_stored()]


def test_a_session_is_looked_up_in_one_partition():
    token, _ = open_session(HOUR)
    with connection.cursor() as cursor:
        cursor.execute(
            "EXPLAIN (ANALYZE) SELECT * FROM sessions.active WHERE session_id ="
            " sessions.token_id(sha256(convert_to(%s, 'UTF8')))",
            [token],
        )
        plan = "\n".join(row[0] for row in cursor.fetchall())
    assert plan.count("Scan") == 1


def test_the_live_view_has_no_digest_and_no_expired_session():
    _, live = open_session(HOUR)
    open_expired()
    with connection.cursor() as cursor:
        cursor.execute("SELECT * FROM sessions.live")
        assert "token_digest" not in [column.name for column in cursor.description]
        assert [row[0] for row in cursor.fetchall()] == [live]


def test_purge_takes_the_expired_in_batches_and_leaves_the_live():
    token, _ = open_session(HOUR)
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


def test_an_agent_s_sessions_go_with_it():
    agent = Agent.objects.create(agent_type="worker", agent_name="a")
    token, _ = open_session(HOUR, agent=agent)
    agent.delete()
    assert authenticate(token) is None


def test_the_job_purges_all_there_are():
    for _ in range(3):
        open_expired()
    assert (purge_expired_sessions(), purge_expired_sessions()) == (3, 0)
