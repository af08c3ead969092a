"""Archives: written, proved, kept true, copied away; and what is dropped only behind them."""

import gzip
import json
from pathlib import Path

import pytest

from monitoring.registry import checks, run_check
from partitions import upload
from partitions.archive import archive_partition, check_archives, path_of
from partitions.archive_file import label_of
from partitions.maintenance import apply_all, plan_all
from partitions.models import Archive, Mark, Policy
from partitions.plan import Step
from pg.errors import Refused
from tests.partitions.conftest import DAY, TABLE, fill, make_partition, midnight, sql

ROWS = 300


def archived_step(name: str, offset: int) -> Step:
    return Step("archive", TABLE, name, "", midnight(offset), midnight(offset) + DAY)


def upkeep() -> list[tuple[str, str | None]]:
    return [(one.step.action, one.error) for one in apply_all(tables=[TABLE])]


def is_there(name: str) -> bool:
    return sql("SELECT to_regclass(%s) IS NOT NULL", name)[0][0]


def test_an_expired_partition_is_archived_proved_and_dropped(events):
    name = make_partition(-9, ROWS)
    rows = sql("SELECT event_id::text, note FROM app.events ORDER BY 1")
    assert upkeep() == [("archive", None), ("detach", None), ("drop", None)]
    assert not is_there(name)
    archive = Archive.objects.get()
    assert (archive.state, archive.row_count, archive.partition_name) == ("verified", ROWS, name)
    assert (archive.lower_time, archive.upper_time) == (midnight(-9), midnight(-8))
    assert archive.dropped_at
    assert archive.columns == ["event_id", "source_id", "payload", "note"], (
        "generated columns are computed again"
    )
    with gzip.open(path_of(archive), "rt") as lines:
        written = [line.rstrip("\n").split("\t") for line in lines]
    assert sorted(line[0] for line in written) == [row[0] for row in rows]
    assert json.loads(label_of(path_of(archive)).read_text())["sha256"] == archive.sha256
    assert plan_all(tables=[TABLE]) == []
    assert not Mark.objects.exists()


def test_files_are_for_us_alone(events):
    make_partition(-9, 1)
    upkeep()
    path = path_of(Archive.objects.get())
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.parent.stat().st_mode & 0o777 == 0o700


def test_an_empty_partition_is_archived_too(events):
    make_partition(-9)
    assert [error for _, error in upkeep()] == [None] * 3
    assert Archive.objects.get().row_count == 0


def test_rows_that_come_between_archive_and_detach_are_archived_as_well(events):
    name = make_partition(-9, ROWS)
    archive_partition(archived_step(name, -9))
    fill(midnight(-9), 5)
    assert upkeep() == [("detach", None), ("drop", None)]
    stale, good = Archive.objects.order_by("archive_id")
    assert (stale.state, stale.row_count, stale.dropped_at) == ("stale", ROWS, None)
    assert (good.state, good.row_count) == ("verified", ROWS + 5)
    assert good.dropped_at


def test_a_changed_value_makes_an_archive_stale_as_well(events):
    name = make_partition(-9, ROWS)
    archive_partition(archived_step(name, -9))
    sql(
        "UPDATE app.events SET note = 'late' WHERE event_id = (SELECT min(event_id::text)::uuid FROM app.events)"
    )
    assert upkeep() == [("detach", None), ("drop", None)]
    assert [one.state for one in Archive.objects.order_by("archive_id")] == ["stale", "verified"]


def test_nothing_is_dropped_for_a_damaged_file(events):
    name = make_partition(-9, ROWS)
    path = path_of(archive_partition(archived_step(name, -9)))
    damage(path)
    outcomes = dict(upkeep())
    assert "has changed since it was verified" in outcomes["drop"]
    assert is_there(name)
    assert Archive.objects.get().state == "damaged"
    check = next(check for check in checks() if check.name == "partitions.archives")
    assert not run_check(check)[0].ok
    assert upkeep() == [("archive", None), ("drop", None)], "the next run archives it anew"
    assert sorted(one.state for one in Archive.objects.all()) == ["damaged", "verified"]
    assert Archive.objects.get(state="verified").row_count == ROWS


def test_a_file_that_is_gone_is_damaged_too(events):
    name = make_partition(-9, ROWS)
    path_of(archive_partition(archived_step(name, -9))).unlink()
    assert "cannot be read" in dict(upkeep())["drop"]
    assert is_there(name)


def damage(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0xFF
    path.write_bytes(content)


def test_the_check_of_all_files_finds_what_is_damaged_and_what_is_good_again(events):
    make_partition(-9, ROWS)
    upkeep()
    path = path_of(Archive.objects.get())
    whole = path.read_bytes()
    damage(path)
    assert [problem is None for _, problem in check_archives()] == [False]
    path.write_bytes(whole)
    assert [problem for _, problem in check_archives()] == [None]
    assert Archive.objects.get().state == "verified"


def test_a_full_disk_fails_the_step_and_leaves_the_partition(events, archive_dir, monkeypatch):
    name = make_partition(-9, ROWS)
    (archive_dir / TABLE).mkdir(parents=True)
    monkeypatch.setattr("partitions.archive_file.private", lambda path, flags: full_device(flags))
    outcomes = dict(upkeep())
    assert list(outcomes) == ["archive"], "what depends on the archive is not tried"
    assert "No space left on device" in outcomes["archive"]
    assert "HINT: make room in" in outcomes["archive"]
    assert is_there(name)
    assert not Archive.objects.exists()
    assert list((archive_dir / TABLE).iterdir()) == []
    monkeypatch.undo()


def full_device(flags: int) -> int:
    import os

    return os.open("/dev/full", os.O_WRONLY)


def test_archiving_inside_a_transaction_is_refused(events):
    from django.db import transaction

    name = make_partition(-9)
    with transaction.atomic(), pytest.raises(Refused):
        archive_partition(archived_step(name, -9))


# -- the object store ---------------------------------------------------------------------------------------
class Folder:
    """Somebody else's object store."""

    def __init__(self, path: Path) -> None:
        self.path, self.is_away = path, False

    def put(self, path: Path, key: str) -> str:
        if self.is_away:
            raise ConnectionError("the store does not answer")
        target = self.path / key
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(path.read_bytes())
        return f"s3://bucket/{key}"

    def get(self, key: str, path: Path) -> None:
        path.write_bytes((self.path / key).read_bytes())


@pytest.fixture
def store(tmp_path):
    made = Folder(tmp_path)
    upload.register_store(made)
    yield made
    upload.register_store(None)


def test_archives_are_copied_to_the_store_and_only_then_is_anything_dropped(events, store):
    name = make_partition(-9, ROWS)
    store.is_away = True
    assert "was not copied to the object store" in dict(upkeep())["archive"]
    assert is_there(name)
    store.is_away = False
    assert upkeep() == [("archive", None), ("detach", None), ("drop", None)]
    archive = Archive.objects.get()
    assert archive.uploaded_to == f"s3://bucket/partitions/{archive.location}"
    assert (store.path / "partitions" / f"{archive.location}.json").exists()


def test_a_lost_file_is_fetched_from_the_store(events, store):
    make_partition(-9, ROWS)
    upkeep()
    path = path_of(Archive.objects.get())
    path.unlink()
    assert [problem for _, problem in check_archives()] == [None]
    assert path.exists()


# -- policies that need none --------------------------------------------------------------------------------
def test_the_policy_drop_needs_no_archive(events):
    Policy.objects.filter(pk=TABLE).update(on_expiry="drop")
    make_partition(-9, ROWS)
    assert upkeep() == [("detach", None), ("drop", None)]
    assert not Archive.objects.exists()


def test_the_guides_function_drops_what_is_archived_and_verified_and_names_the_rest(events):
    unarchived, good, stale = (make_partition(offset, 3) for offset in (-9, -8, -7))
    for offset, name in ((-8, good), (-7, stale)):
        archive_partition(archived_step(name, offset))
    sql(f"UPDATE {stale} SET note = 'changed since'")
    from django.db import connection

    notices: list[str] = []
    connection.connection.add_notice_handler(lambda notice: notices.append(notice.message_primary))
    assert sql("SELECT partitions.manage_time_partitions(%s, 5, 2)", TABLE) == [(1,)]
    assert [is_there(name) for name in (unarchived, good, stale)] == [True, False, True]
    assert [name for name in (unarchived, good, stale) if any(name in notice for notice in notices)] == [
        unarchived,
        stale,
    ]
    assert Archive.objects.get(partition_name=good).dropped_at
