import pytest
from django.db import DataError, connection, transaction
from django.db.transaction import TransactionManagementError

from pg.arrays import Array, intervals, texts
from pg.copying import copy_rows
from pg.prepared import run_prepared

pytestmark = pytest.mark.django_db(transaction=True)
DOUBLE = "SELECT %(number)s::integer * 2"


def test_a_statement_is_prepared_by_the_server_and_its_rows_come_back():
    assert [run_prepared(DOUBLE, {"number": number}) for number in range(4)] == [
        [(0,)],
        [(2,)],
        [(4,)],
        [(6,)],
    ]
    assert ("SELECT $1::integer * 2",) in run_prepared("SELECT statement FROM pg_prepared_statements", [])
    assert run_prepared("SET LOCAL work_mem = '1MB'", []) == []


def test_the_next_statement_runs_after_one_that_was_refused_and_on_a_new_connection():
    with pytest.raises(DataError):
        run_prepared("SELECT 1 / %s::integer", [0])
    assert run_prepared(DOUBLE, {"number": 4}) == [(8,)]
    (before,) = run_prepared("SELECT pg_backend_pid()", [])
    connection.close()
    (after,) = run_prepared("SELECT pg_backend_pid()", [])
    assert after != before


def test_nothing_runs_in_a_transaction_that_is_broken():
    with transaction.atomic():
        transaction.set_rollback(True)
        with pytest.raises(TransactionManagementError):
            run_prepared(DOUBLE, {"number": 4})


def test_rows_that_are_copied_are_all_there_or_none_is():
    def chunks(*names: str):
        for name in names:
            if not name:
                raise ValueError("no name")
            yield [texts([name, None]), intervals([1.5, 90_000])]

    with transaction.atomic():
        run_prepared("CREATE TEMP TABLE copied (name text, span interval) ON COMMIT DROP", [])
        with pytest.raises(ValueError, match="no name"), transaction.atomic():
            copy_rows("copied", ["name", "span"], chunks("a", ""))
        copy_rows("copied", ["name", "span"], chunks("a", "ü"))
        with pytest.raises(DataError), transaction.atomic():
            copy_rows("copied", ["name"], [[Array(0, [b"\0\0\0\1\0"])]])
        found = run_prepared("SELECT name, extract(epoch FROM span)::float8 FROM copied", [])
        assert found == [("a", 1.5), (None, 90_000), ("ü", 1.5), (None, 90_000)]
