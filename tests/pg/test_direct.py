import os
import signal
import threading
from uuid import UUID, uuid4

import pytest
from django.db import DatabaseError, InterfaceError, OperationalError, connection, transaction
from psycopg.pq import Format

from pg.arrays import integers
from pg.direct import numbered, run_direct
from tasks.turn import INTEGER

pytestmark = pytest.mark.django_db(transaction=True)
KEPT = "SELECT count(*)::int FROM pg_prepared_statements WHERE statement = $1::text"


def test_rows_come_as_psycopg_loads_them():
    given = uuid4()
    text = "SELECT $1::uuid, $2::text, $3::int[], 1.5::float8, NULL, true"
    (row,) = run_direct(text, [given.bytes, "ä".encode(), integers([1, None, 3]).data])
    assert row == (given, "ä", [1, None, 3], 1.5, None, True)
    assert isinstance(row[0], UUID)
    assert run_direct("SELECT 1 WHERE $1::int > 5", [INTEGER.pack(1)]) == []
    assert run_direct("DROP TABLE IF EXISTS not_there", []) == []


def test_a_session_keeps_the_statement_but_not_behind_a_pooler_of_transactions(monkeypatch):
    text = f"SELECT $1::int + {uuid4().int % 1_000_000}"
    for _ in range(2):
        run_direct(text, [INTEGER.pack(1)])
    assert run_direct(KEPT, [text.encode()]) == [(1,)]
    monkeypatch.setitem(connection.settings_dict, "DISABLE_SERVER_SIDE_CURSORS", True)
    assert run_direct(f"{text} + 1", [INTEGER.pack(1)])
    assert run_direct(KEPT, [f"{text} + 1".encode()]) == [(0,)]


def test_a_session_keeps_so_many_statements_and_runs_further_ones_all_the_same(monkeypatch):
    monkeypatch.setattr("pg.direct.MOST_KEPT", 0)
    text = f"SELECT $1::int + {uuid4().int % 1_000_000}"
    assert run_direct(text, [INTEGER.pack(1)]) == run_direct(text, [b"1"], Format.TEXT)
    assert run_direct(KEPT, [text.encode()]) == [(0,)]


def test_names_become_numbers_and_values_may_come_as_text():
    text, names = numbered("SELECT %(b)s::text, %(a)s::int, %(b)s::uuid")
    assert (text, names) == ("SELECT $1::text, $2::int, $3::uuid", ["b", "a", "b"])
    given = {"a": b"7", "b": str(found := uuid4()).encode()}
    assert run_direct(text, [given[name] for name in names], Format.TEXT) == [(str(found), 7, found)]
    assert run_direct("SELECT $1::int", [None], Format.TEXT) == [(None,)]


def test_a_statement_that_psycopg_made_the_session_forget_is_prepared_anew():
    text = f"SELECT $1::int + {uuid4().int % 1_000_000}"
    expected = run_direct(text, [INTEGER.pack(1)])
    with connection.cursor() as cursor:
        cursor.execute("DEALLOCATE ALL")
    with transaction.atomic():
        assert run_direct(text, [INTEGER.pack(1)]) == expected
    assert run_direct(text, [INTEGER.pack(1)]) == expected
    assert run_direct(KEPT, [text.encode()]) == [(1,)]


def test_it_is_part_of_the_transaction_even_as_its_first_statement():
    with transaction.atomic():
        run_direct("CREATE TABLE public.made_directly ()", [])
        transaction.set_rollback(True)
    assert run_direct("SELECT to_regclass('public.made_directly')", []) == [(None,)]


def test_a_refusal_is_django_s_error_with_the_server_s_code():
    with pytest.raises(DatabaseError, match="division by zero") as caught:
        run_direct("SELECT 1 / $1::int", [INTEGER.pack(0)])
    assert caught.value.__cause__.sqlstate == "22012"
    with pytest.raises(DatabaseError, match="no_such_table"):
        run_direct("SELECT FROM no_such_table", [])
    assert run_direct("SELECT 1", []) == [(1,)]


def test_a_transaction_that_failed_takes_no_more():
    with transaction.atomic():
        with pytest.raises(DatabaseError), transaction.atomic():
            run_direct("SELECT 1 / $1::int", [INTEGER.pack(0)])
        connection.needs_rollback = True
        with pytest.raises(transaction.TransactionManagementError):
            run_direct("SELECT 1", [])


def test_a_session_that_was_ended_is_an_outage_and_the_next_one_prepares_anew():
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_backend_pid()")
        (pid,) = cursor.fetchone()
    assert run_direct("SELECT $1::int", [INTEGER.pack(7)]) == [(7,)]
    end_session(pid)
    with pytest.raises((OperationalError, InterfaceError)):
        run_direct("SELECT $1::int", [INTEGER.pack(7)])
    with pytest.raises((OperationalError, InterfaceError)):
        run_direct("SELECT $1::int", [INTEGER.pack(7)])
    connection.close()
    assert run_direct("SELECT $1::int", [INTEGER.pack(7)]) == [(7,)]


def end_session(pid):
    def end():
        with connection.cursor() as cursor:
            cursor.execute("SELECT pg_terminate_backend(%s, 60000)", [pid])
        connection.close()

    in_another_thread(end)


def test_other_threads_of_the_process_go_on_meanwhile():
    """Else a worker's heartbeat would wait for its turn."""
    went_on = threading.Event()
    other = threading.Thread(target=went_on.set)
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_advisory_lock(4711)")

    def wait_for_the_lock():
        run_direct("SELECT pg_advisory_lock(4711)::text, pg_advisory_unlock(4711)", [])
        connection.close()

    waiting = threading.Thread(target=wait_for_the_lock)
    waiting.start()
    while not run_direct("SELECT 1 FROM pg_locks WHERE locktype = 'advisory' AND NOT granted", []):
        assert waiting.is_alive()
    other.start()
    assert went_on.wait(60)
    assert waiting.is_alive()
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_advisory_unlock(4711)")
    waiting.join(60)
    assert not waiting.is_alive()


def test_ctrl_c_ends_a_statement_that_waits():
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_backend_pid()")
        (pid,) = cursor.fetchone()

    def interrupt_the_wait():
        with connection.cursor() as cursor:
            cursor.execute("SELECT pg_advisory_lock(4712)")
            ready.set()
            while not waits(cursor):
                assert waiting.is_alive()
            os.kill(os.getpid(), signal.SIGINT)
            ended.wait(60)
        connection.close()

    def waits(cursor):
        cursor.execute("SELECT FROM pg_locks WHERE locktype = 'advisory' AND pid = %s AND NOT granted", [pid])
        return cursor.fetchone() is not None

    ready, ended, waiting = threading.Event(), threading.Event(), threading.current_thread()
    other = threading.Thread(target=interrupt_the_wait)
    other.start()
    assert ready.wait(60)
    with pytest.raises(KeyboardInterrupt):
        run_direct("SELECT pg_advisory_lock(4712)::text", [])
    ended.set()
    other.join(60)
    assert run_direct("SELECT 1", []) == [(1,)]


def in_another_thread(work):
    thread = threading.Thread(target=work)
    thread.start()
    thread.join(60)
