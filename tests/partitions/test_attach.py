"""What is archived comes back read-only, stays, and goes again."""

import json
from io import StringIO

import pytest
from django.core.management import CommandError, call_command
from django.db import DatabaseError, connection, transaction

from partitions.archive import path_of
from partitions.attach import attach_archive, find_archive, release_archive
from partitions.errors import ArchiveDamaged
from partitions.maintenance import apply_all, plan_all
from partitions.models import Archive, Mark
from pg.errors import Refused
from tests.partitions.conftest import DAY, TABLE, make_partition, midnight, sql
from tests.partitions.test_archive import damage, is_there

ROWS = 60
COUNT = (
    "SELECT count(*) FROM app.events"
    " WHERE event_id >= partitions.uuid7_floor(%s) AND event_id < partitions.uuid7_floor(%s)"
)


@pytest.fixture
def archive(events) -> Archive:
    """An archive of a partition that is gone."""
    make_partition(-9, ROWS)
    assert not [one.error for one in apply_all(tables=[TABLE]) if one.error]
    return Archive.objects.get()


def rows_of(archive: Archive) -> int:
    return sql(COUNT, archive.lower_time, archive.upper_time)[0][0]


def test_it_is_read_through_its_table_again_and_upkeep_leaves_it_alone(archive):
    assert rows_of(archive) == 0
    name = attach_archive(archive)
    assert rows_of(archive) == ROWS
    assert sql(f"SELECT count(*) FROM {name} WHERE happened_at >= %s", archive.lower_time) == [(ROWS,)]
    assert plan_all(tables=[TABLE]) == []
    assert apply_all(tables=[TABLE]) == []
    sql("SELECT partitions.manage_time_partitions(%s, 5, 2)", TABLE)
    assert rows_of(archive) == ROWS
    assert attach_archive(archive) == name, "once more changes nothing"


def test_it_is_like_the_other_partitions(archive):
    name = attach_archive(archive)
    missing = sql(
        "SELECT i.inhparent FROM pg_inherits i JOIN pg_index x ON x.indexrelid = i.inhparent"
        " WHERE x.indrelid = %s::regclass"
        " AND NOT EXISTS (SELECT FROM pg_inherits l JOIN pg_index y ON y.indexrelid = l.inhrelid"
        "  WHERE l.inhparent = i.inhparent AND y.indrelid = %s::regclass AND y.indisvalid)",
        TABLE,
        name,
    )
    assert missing == []
    assert sql(
        "SELECT count(*) FROM pg_constraint WHERE conrelid = %s::regclass AND contype = 'f'", name
    ) == [(1,)]


@pytest.mark.parametrize(
    "statement",
    [
        "INSERT INTO app.events (event_id) VALUES (partitions.uuid7_at(%(moment)s))",
        "UPDATE app.events SET note = 'x' WHERE event_id >= partitions.uuid7_floor(%(moment)s)",
        "DELETE FROM app.events WHERE event_id >= partitions.uuid7_floor(%(moment)s)",
        "TRUNCATE app.events",
    ],
)
def test_it_is_read_only(archive, statement):
    attach_archive(archive)
    with pytest.raises(DatabaseError, match="read-only"), transaction.atomic(), connection.cursor() as cursor:
        cursor.execute(statement, {"moment": archive.lower_time})


def test_it_goes_again_and_can_come_again(archive):
    for _ in range(2):
        name = attach_archive(archive)
        release_archive(archive)
        assert not is_there(name)
        assert rows_of(archive) == 0
        assert not Mark.objects.exists()
        assert plan_all(tables=[TABLE]) == []
    with pytest.raises(Refused, match="not attached"):
        release_archive(archive)


def test_a_damaged_file_is_not_brought_back_and_nothing_is_let_go_for_it(archive):
    whole = path_of(archive).read_bytes()
    damage(path_of(archive))
    with pytest.raises(ArchiveDamaged):
        attach_archive(archive)
    path_of(archive).write_bytes(whole)
    Archive.objects.update(state="verified", error=None)
    archive.refresh_from_db()
    name = attach_archive(archive)
    damage(path_of(archive))
    with pytest.raises(ArchiveDamaged):
        release_archive(archive)
    assert is_there(name)
    assert rows_of(archive) == ROWS


def test_a_range_that_is_taken_is_not_attached_over(archive):
    make_partition(-9)
    with pytest.raises(Refused, match="has the range"):
        attach_archive(archive)


def test_rows_that_others_refer_to_no_more_are_refused_and_nothing_is_left(archive):
    sql("DELETE FROM app.sources WHERE source_id = 2")
    with pytest.raises(Refused, match="refers to rows that are gone"):
        attach_archive(archive)
    assert not is_there(archive.partition_name)
    assert not Mark.objects.exists()


def test_a_new_column_gets_its_default_and_a_lost_one_is_named(archive):
    sql("ALTER TABLE app.events ADD COLUMN level int DEFAULT 3")
    attach_archive(archive)
    assert sql(
        "SELECT DISTINCT level FROM app.events WHERE event_id < partitions.uuid7_floor(%s)", midnight(-8)
    ) == [(3,)]
    release_archive(archive)
    sql("ALTER TABLE app.events DROP COLUMN note")
    with pytest.raises(Refused, match="no column note"):
        attach_archive(archive)


def test_what_is_still_in_the_table_need_not_come_back(events):
    from partitions.archive import archive_partition
    from partitions.plan import Step

    name = make_partition(-2, 3)
    made = archive_partition(Step("archive", TABLE, name, "", midnight(-2), midnight(-1)))
    with pytest.raises(Refused, match="was not dropped"):
        attach_archive(made)


def command(*arguments: str) -> dict:
    out = StringIO()
    call_command("partitions", *arguments, "--json", stdout=out)
    return json.loads(out.getvalue())


def test_by_command(events):
    name = make_partition(-9, ROWS)
    assert command("archive", "--dry-run")["steps"] == [
        {"action": "archive", "object": name, "why": "older than 5 days"}
    ]
    assert command("archive")["items"][0]["rows"] == ROWS
    assert [step["action"] for step in command("plan", TABLE)["steps"]] == ["detach", "drop"]
    command("apply", TABLE)
    listed = command("list", "--archives")["items"]
    assert [(item["partition"], item["state"]) for item in listed] == [(name, "verified")]
    assert command("attach", name)["items"][0]["attached_as"] == name
    shown = {item["partition"]: item["state"] for item in command("list", TABLE)["items"]}
    assert shown[name] == "brought back, read-only"
    command("attach", name, "--release")
    assert command("archive", "--check")["counts"] == {"archives": 1, "damaged": 0}
    tomorrow = f"app.events_{midnight(1):%Y_%m_%d}"
    for arguments, said in (
        (["attach", "app.nothing"], "no archive"),
        (["archive", "app.nothing"], "no such partition"),
        (["archive", tomorrow], "not over yet"),
        (["list", "app.nothing"], "not a partitioned table"),
    ):
        with pytest.raises(CommandError, match=said) as caught:
            command(*arguments)
        assert caught.value.returncode == 2
        assert "HINT" in str(caught.value)


def test_an_archive_is_found_by_its_id_too(archive):
    assert find_archive(str(archive.pk)) == archive
    assert archive.upper_time - archive.lower_time == DAY
