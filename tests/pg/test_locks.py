"""Locks of a migration, taken while a client holds one of the tables and comes for the other."""

import threading
from contextlib import contextmanager

import psycopg
import pytest
from django.db import connection, transaction

from pg.errors import Refused
from pg.locks import LockTables, lock_tables
from tests.tasks.conftest import eventually

TABLES = {"public.first_table": "ACCESS EXCLUSIVE", "public.second_table": "SHARE ROW EXCLUSIVE"}
WAITING = "SELECT count(*) FROM pg_locks WHERE NOT granted AND relation = 'public.{}'::regclass"
HELD = (
    "SELECT count(*) FROM pg_locks WHERE granted AND pid = %s AND relation = 'public.first_table'::regclass"
)


@pytest.fixture
def tables(transactional_db):
    with connection.cursor() as cursor:
        cursor.execute("CREATE TABLE public.first_table (); CREATE TABLE public.second_table (n integer)")


@contextmanager
def client():
    """A session of somebody else's."""
    with psycopg.connect(
        **{
            name: value
            for name, value in connection.get_connection_params().items()
            if name in ("dbname", "user", "password", "host", "port")
        }
    ) as session:
        yield session


def count(session, query, *params):
    return session.execute(query, params).fetchone()[0]


@pytest.mark.django_db(transaction=True)
def test_a_client_that_holds_one_table_and_comes_for_the_other_goes_on(tables):
    """The migration has the first and waits for the second, the client has the second and waits for the first."""
    done = []

    def migrate():
        try:
            with transaction.atomic():
                lock_tables(connection, TABLES, patience_seconds=60)
                done.append("locked")
        finally:
            connection.close()

    with client() as writer, client() as watcher:
        watcher.autocommit = True
        writer.execute("INSERT INTO public.second_table VALUES (1)")
        thread = threading.Thread(target=migrate)
        thread.start()
        eventually(lambda: count(watcher, WAITING.format("second_table")) == 1, 60)
        writer.execute("SELECT FROM public.first_table")  # deadlock_detected, if the migration waited
        assert not done
        writer.commit()
        thread.join(60)
    assert done == ["locked"]


@pytest.mark.django_db(transaction=True)
def test_without_its_locks_it_gives_up_holds_none_and_says_what_to_do(tables):
    with client() as writer, transaction.atomic():
        writer.execute("INSERT INTO public.second_table VALUES (1)")
        with pytest.raises(Refused, match=r"running work holds public\.first_table") as caught:
            lock_tables(connection, TABLES, patience_seconds=0)
        assert "manage.py prepare` again" in caught.value.hint
        with connection.cursor() as cursor:
            cursor.execute("SELECT pg_backend_pid()")
            ((pid,),) = cursor.fetchall()
        assert count(writer, HELD, pid) == 0


@pytest.mark.django_db(transaction=True)
def test_the_limit_of_a_try_does_not_outlive_it(tables):
    with transaction.atomic(), connection.cursor() as cursor:
        cursor.execute("SET LOCAL statement_timeout = '7s'")
        lock_tables(connection, TABLES)
        cursor.execute("SHOW statement_timeout")
        assert cursor.fetchone()[0] == "7s"


@pytest.mark.django_db(transaction=True)
def test_without_a_transaction_it_is_refused(tables):
    with pytest.raises(transaction.TransactionManagementError, match="there is none"):
        lock_tables(connection, TABLES)


@pytest.mark.django_db
def test_sqlmigrate_shows_the_locks():
    with connection.schema_editor(collect_sql=True) as editor:
        LockTables({"agents.state": "SHARE", "bridge.outbox": "EXCLUSIVE"}).database_forwards(
            "x", editor, None, None
        )
    (line,) = editor.collected_sql
    assert "LOCK TABLE agents.state IN SHARE MODE; LOCK TABLE bridge.outbox IN EXCLUSIVE MODE" in line
