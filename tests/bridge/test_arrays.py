from datetime import UTC, datetime
from uuid import UUID

import pytest

from bridge.arrays import to_literal, to_literals
from tests.bridge.conftest import rows

ID = UUID("00000000-0000-7000-8000-000000000001")


@pytest.mark.django_db
@pytest.mark.parametrize(
    ("kind", "values"),
    [
        ("text", ["", "null", "NULL", 'a"b', "a\\b", "{x,y}", " x ", "ü\n", "%s", "it's", None]),
        ("bigint", [0, -1, 1 << 62, None]),
        ("boolean", [True, False, None]),
        ("uuid", [ID, None]),
        ("timestamptz", [datetime(2026, 1, 2, 3, 4, 5, 678901, UTC), None]),
        ("text", []),
    ],
)
def test_postgresql_reads_what_was_written(kind, values):
    assert rows(f"SELECT %s::{kind}[]", to_literal(values)) == [(values,)]


def test_only_lists_become_literals():
    assert to_literals({"keys": ["a"], "epoch": 7}) == {"keys": '{"a"}', "epoch": 7}
