"""Django's connections from our pools, against a real server."""

import os
import threading
import time
from contextlib import contextmanager, suppress

import psycopg
import pytest
from django.db import InterfaceError, OperationalError, connections
from psycopg.conninfo import conninfo_to_dict

from config.pools import POOLS, make_entry, resized
from pg import pool as pool_module
from pg.backend.base import DatabaseWrapper
from pg.pool import close_pools, pools
from pg.retry import is_outage, retrying
from tests.tasks.conftest import eventually

ENTRY = {"ATOMIC_REQUESTS": False, "AUTOCOMMIT": True, "TIME_ZONE": None, "TEST": {}}


@pytest.fixture
def make(own_database, django_db_blocker):
    """Return a function that gives a Django connection of a web process's alias to this test's database."""
    made = []

    def make_wrapper(
        pool="primary", size="3/0", alias="default", url=own_database.url, is_shared=False, **options
    ):
        given = conninfo_to_dict(url)
        entry = {"NAME": given["dbname"], "USER": given["user"], "PASSWORD": given["password"],
                 "HOST": given["host"], "PORT": given["port"]}  # fmt: skip
        one = resized(POOLS[pool], size, 1)
        settings = {**ENTRY, **make_entry("web", one, entry, alias, 0, is_shared)}
        settings["OPTIONS"]["pool"] |= options
        made.append(DatabaseWrapper(settings, f"test_{alias}"))
        connections[f"test_{alias}"] = made[-1]  # of this thread
        return made[-1]

    with django_db_blocker.unblock():
        yield make_wrapper
    for wrapper in made:
        if wrapper.connection is not None:
            wrapper.close()
    for alias in {wrapper.alias for wrapper in made}:
        with suppress(AttributeError):
            del connections[alias]
    close_pools()


def ask(wrapper, query="SELECT 1", parameters=None):
    with wrapper.cursor() as cursor:
        cursor.execute(query, parameters)
        return cursor.fetchone()[0]


@contextmanager
def in_thread(work):
    """Run `work` in a thread for as long as the block lasts; raise what it raised."""
    errors = []

    def run():
        try:
            work()
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    yield thread
    thread.join(30)
    assert not thread.is_alive()
    if errors:
        raise errors[0]


def test_a_pool_is_opened_with_the_first_query(make):
    wrapper = make()
    assert "test_default" not in pools()
    assert ask(wrapper) == 1
    assert pools()["test_default"].get_stats()["pool_size"] == 1


def test_a_connection_goes_back_and_is_used_again(make):
    wrapper = make()
    first = ask(wrapper, "SELECT pg_backend_pid()")
    wrapper.close()
    assert ask(wrapper, "SELECT pg_backend_pid()") == first


def test_the_one_that_came_back_last_is_given_out_first(make):
    """Its plans are made, and those that nobody needs can lie idle until they are given up."""
    wrapper = make()
    ask(wrapper)
    pool = wrapper.pool
    first, second = pool.getconn(), pool.getconn()
    pool.putconn(first)
    pool.putconn(second)
    found = [pool.getconn(), pool.getconn()]
    assert found == [second, first]
    for connection in found:
        pool.putconn(connection)


def test_sessions_have_the_time_outs_of_their_pool_and_its_name(make):
    wrapper = make()
    assert ask(wrapper, "SHOW statement_timeout") == "5min"
    assert ask(wrapper, "SHOW lock_timeout") == "30s"
    assert ask(wrapper, "SHOW idle_in_transaction_session_timeout") == "5min"
    assert ask(wrapper, "SHOW application_name") == "mistersmith web"


def test_an_exhausted_pool_says_so_and_recovers(make):
    """The pool is small, its acquire time-out short; nobody is locked out for ever."""
    holder, other = make(size="1/0", timeout=0.2), make(size="1/0")
    ask(holder)
    with pytest.raises(
        OperationalError, match=r"pool primary of process \d+ gave no connection within 0.2 s.*HINT"
    ) as caught:
        ask(other)
    assert not is_outage(caught.value)
    holder.close()
    assert ask(other) == 1


def test_who_waits_for_an_exhausted_pool_gets_the_connection_that_comes_back(make):
    holder = make(size="1/0", timeout=30)
    pid = ask(holder, "SELECT pg_backend_pid()")
    got = []

    def wait():
        waiter = make(size="1/0")
        got.append(ask(waiter, "SELECT pg_backend_pid()"))
        waiter.close()

    with in_thread(wait):
        eventually(lambda: pools()["test_default"].get_stats()["requests_waiting"])
        holder.close()
    assert got == [pid]


def test_connections_killed_by_the_server_are_replaced_before_anybody_sees_one(make, own_database):
    wrappers = [make(size="20/0") for _ in range(20)]
    for wrapper in wrappers:
        ask(wrapper)
    for wrapper in wrappers:
        wrapper.close()
    with own_database.connect() as killer:
        query = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity"
        query += " WHERE application_name = 'mistersmith web' AND datname = current_database()"
        assert killer.execute(query).fetchone()[0] == 20
        eventually(lambda: not killer.execute(query).fetchone()[0])
    started = time.monotonic()
    assert [ask(wrapper) for wrapper in wrappers] == [1] * 20
    assert time.monotonic() - started < 20  # psycopg's own pauses would add up to minutes


def test_a_server_that_is_away_is_said_at_once_and_not_after_the_acquire_time_out(make, own_database):
    wrapper = make(
        url=own_database.url.replace(f":{conninfo_to_dict(own_database.url)['port']}/", ":1/"), timeout=600
    )
    with pytest.raises(OperationalError, match="refused") as caught:
        ask(wrapper)
    assert is_outage(caught.value)


def test_a_pool_without_a_server_finds_it_when_it_comes_back(make, restartable):
    postgres = restartable("postgres")
    wrapper = make(url=postgres.server.url("postgres"))
    assert ask(wrapper) == 1
    postgres.kill()
    with pytest.raises((OperationalError, InterfaceError)):
        ask(wrapper)
    wrapper.close()
    with pytest.raises(OperationalError):
        ask(wrapper)
    postgres.start()

    def work():
        wrapper.close_if_unusable_or_obsolete()
        return ask(wrapper)

    assert retrying(work, 30) == 1


def test_a_forked_child_has_pools_of_its_own(make):
    wrapper = make()
    ask(wrapper)
    wrapper.close()
    child = os.fork()
    if child == 0:
        os._exit(0 if not pools() else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert ask(wrapper) == 1  # the child has not closed the parent's connection


# -- read-only aliases -------------------------------------------------------------------------------------------
@pytest.mark.parametrize("pool", ["replica", "analytics"])
def test_a_read_only_alias_reads_and_cannot_write(make, pool):
    wrapper = make(pool=pool, alias=pool)
    assert ask(wrapper, "SELECT count(*) FROM agents.registry") == 0
    with pytest.raises(Exception, match="read-only transaction"):
        ask(wrapper, "INSERT INTO agents.registry (agent_type, agent_name) VALUES ('x', 'x') RETURNING 1")


def test_shared_with_the_primary_an_alias_takes_on_its_role_where_there_is_one(make, own_database):
    wrapper = make(pool="replica", alias="replica", is_shared=True)
    with own_database.connect() as session:
        has_role = session.execute("SELECT true FROM pg_roles WHERE rolname = 'app_replica'").fetchone()
    assert ask(wrapper, "SELECT current_user") == ("app_replica" if has_role else "mistersmith")


# -- trying again ------------------------------------------------------------------------------------------------
def outage(state=None):
    cause = psycopg.OperationalError("gone")
    cause.sqlstate = state
    error = OperationalError("gone")
    error.__cause__ = cause
    return error


def failing(times, error, answer="done"):
    calls = []

    def work():
        calls.append(1)
        if len(calls) <= times:
            raise error
        return answer

    return work, calls


@pytest.mark.parametrize("state", [None, "08006", "57P01", "57P03", "25006"])
def test_an_outage_is_waited_out(state):
    work, calls = failing(3, outage(state))
    assert retrying(work, 10, sleep=lambda seconds: None) == "done"
    assert len(calls) == 4


@pytest.mark.parametrize("state", ["55P03", "57014", "40001", "53300"])
def test_other_errors_are_raised_at_once(state):
    work, calls = failing(3, outage(state))
    with pytest.raises(OperationalError):
        retrying(work, 10, sleep=lambda seconds: None)
    assert len(calls) == 1


def test_patience_ends():
    work, _ = failing(1_000_000, outage())
    with pytest.raises(OperationalError):
        retrying(work, 0.01)


@pytest.mark.django_db
def test_within_a_transaction_nothing_is_tried_again():
    work, calls = failing(1, outage())
    with pytest.raises(OperationalError):
        retrying(work, 10, sleep=lambda seconds: None)
    assert len(calls) == 1


def test_one_that_has_just_come_back_is_not_asked_again(make, monkeypatch):
    asked = []
    monkeypatch.setattr(pool_module.ConnectionPool, "check_connection", asked.append)
    wrapper = make()
    for seconds, number in ((60, 0), (0, 2)):
        monkeypatch.setattr(pool_module, "TRUSTED_SECONDS", seconds)
        ask(wrapper)
        wrapper.close()
        asked.clear()
        for _ in range(2):
            ask(wrapper)
            wrapper.close()
        assert len(asked) == number


def test_one_whose_session_was_ended_meanwhile_is_replaced_however_lately_it_came_back(
    make, own_database, monkeypatch
):
    monkeypatch.setattr(pool_module, "TRUSTED_SECONDS", 60)
    wrapper = make()
    pid = ask(wrapper, "SELECT pg_backend_pid()")
    wrapper.close()
    with own_database.connect() as other:
        assert other.execute("SELECT pg_terminate_backend(%s, 30000)", [pid]).fetchone() == (True,)
    assert ask(wrapper, "SELECT pg_backend_pid()") != pid
