from datetime import UTC, datetime
from uuid import UUID

import pytest
from django.db import DataError

from bridge.session import execute, execute_bound, keep_statements
from bridge.targets import ARRAYS, to_arrays
from pg.arrays import booleans, floats, ids, integers, jsons, numbers, texts, times, uuids

ID = "00000000-0000-7000-8000-0000000000ff"


@pytest.mark.parametrize(
    ("kind", "write", "values"),
    [
        ("text", texts, ["", "null", "NULL", 'a"b', "a\\b", "{x,y}", " x ", "ü\n", "%s", "it's", None]),
        ("bigint", numbers, [0, -1, 1 << 62, None]),
        ("integer", integers, [0, -1, (1 << 31) - 1, None]),
        ("double precision", floats, [0.0, -1.5, 1e300, None]),
        ("boolean", booleans, [True, False, None]),
        ("uuid", uuids, [ID]),
        ("timestamptz", times, [datetime(2026, 1, 2, 3, 4, 5, 678901, UTC), datetime(1970, 1, 1, tzinfo=UTC), None]),
        ("text", texts, []),
    ],
)  # fmt: skip
def test_postgresql_reads_what_was_written(session, kind, write, values):
    ((found,),) = execute_bound(session, f"SELECT %(given)s::{kind}[]", {"given": write(values)})
    assert [str(each) if kind == "uuid" else each for each in found] == values


def test_ids_and_json_are_read_as_they_were_meant(session):
    given = {"ids": ids([UUID(ID), None]), "values": jsons(['{"a":"\\"ü\\\\"}', "null"])}
    statement = "SELECT %(ids)s::uuid[], (%(values)s::jsonb[])[1]->>'a', (%(values)s::jsonb[])[2]::text"
    assert execute_bound(session, statement, given) == [([UUID(ID), None], '"ü\\', "null")]


def test_only_lists_become_arrays():
    assert to_arrays({"keys": ["a"], "epoch": 7}) == {"keys": ARRAYS["keys"](["a"]), "epoch": 7}


def test_what_postgresql_refuses_is_the_error_that_django_has(session):
    with pytest.raises(DataError):
        execute_bound(session, "SELECT %(given)s::text[]", {"given": texts(["\x00"])})


def test_a_session_keeps_bound_statements_where_it_was_told_to_and_no_others(session):
    execute_bound(session, "SELECT %(number)s::bigint", {"number": 1})
    keep_statements(session)
    for number in range(3):
        assert execute_bound(session, "SELECT %(number)s::int", {"number": number}) == [(number,)]
        execute(session, "SELECT %s::int", [number])
    assert execute(session, "SELECT statement FROM pg_prepared_statements") == [("SELECT $1::int",)]
