from datetime import UTC, datetime, timedelta

import pytest
from django.db import connection

from pg.uuid7 import uuid7, uuid7_at, uuid7_floor, uuid7_time

MOMENT = datetime(2026, 1, 2, 3, 4, 5, 678_000, tzinfo=UTC)


def test_version_variant_and_time():
    made = uuid7()
    assert (made.version, made.variant) == (7, "specified in RFC 4122")
    assert abs(uuid7_time(made) - datetime.now(UTC)) < timedelta(seconds=5)


def test_ids_of_later_milliseconds_sort_later():
    assert uuid7_at(MOMENT, (1 << 74) - 1) < uuid7_at(MOMENT + timedelta(milliseconds=1), 0)


def test_the_same_moment_and_bits_give_the_same_id():
    assert uuid7_at(MOMENT, 5) == uuid7_at(MOMENT, 5)
    assert uuid7_floor(MOMENT) < uuid7_at(MOMENT, 0)


@pytest.mark.django_db
def test_python_and_sql_agree():
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT partitions.uuid7_floor(%s), partitions.uuid7_time(%s),"
            " partitions.uuid7_time(partitions.uuid7_at(%s))",
            [MOMENT, uuid7_at(MOMENT, 99), MOMENT],
        )
        assert cursor.fetchone() == (uuid7_floor(MOMENT), MOMENT, MOMENT)
        cursor.execute("SELECT partitions.uuid7() FROM generate_series(1, 100)")
        made = {row[0] for row in cursor.fetchall()}
    assert len(made) == 100
    assert {(one.version, one.variant) for one in made} == {(7, "specified in RFC 4122")}
