"""Making backups while others write, and every way in which that is interrupted."""

import json
import resource
import shutil
import signal
import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path

import psutil
import psycopg
import pytest
from django.db import connection

from recovery import catalogue, logical
from recovery.entries import from_json, to_json
from recovery.errors import Busy, NoSpace, RecoveryError, ToolFailed, UnfitTools
from recovery.logical import APPLICATION, back_up, expected_bytes
from recovery.models import Backup
from recovery.server import exclusive, home_server
from recovery.tidying import tidy
from recovery.verify import verify
from tests.recovery.conftest import begin, environment_of, eventually, manage
from tests.recovery.test_verify import is_lock_free

pytestmark = pytest.mark.django_db(transaction=True)
# 20 MB that gzip makes little of: dumping it takes about a second
BIG = """
CREATE TABLE public.big AS
SELECT n, (SELECT string_agg(gen_random_uuid()::text, '') FROM generate_series(1, 12) m WHERE n > 0) AS text
FROM generate_series(1, 45000) n
"""


@pytest.fixture
def big_table():
    with connection.cursor() as cursor:
        cursor.execute(BIG)


def execute(statement):
    with home_server().connect() as session:
        session.execute(statement)


def only_backup():
    [backup] = catalogue.load_all()[0]
    return backup


def nothing_half_made(backup_dir):
    return not list(backup_dir.glob("logical/*")) and not list(backup_dir.glob("logical/.*"))


class Writer(threading.Thread):
    """Writes to several tables for as long as its `with` block runs."""

    def __init__(self):
        super().__init__()
        self.is_done, self.written = threading.Event(), 0

    def run(self):
        with home_server().connect() as session:
            while not self.is_done.is_set():
                session.execute("INSERT INTO agents.registry (agent_type, agent_name) VALUES ('w', 'new')")
                session.execute("INSERT INTO tasks.queue (task_type) VALUES ('echo')")
                session.execute(
                    "UPDATE tasks.queue SET payload = to_jsonb(random()) WHERE task_type = 'echo'"
                )
                self.written += 1

    def __enter__(self):
        self.start()
        eventually(lambda: self.written > 3)
        return self

    def __exit__(self, *_):
        self.is_done.set()
        self.join()


def test_counts_and_checksums_are_exact_while_others_write(backup_dir):
    with Writer() as writer:
        before = writer.written
        backup = back_up()
        assert writer.written > before, "writers are not held up"
    assert verify(str(backup.pk)).problems == []
    assert backup.row_counts["tasks.queue"] >= before


def test_a_partition_made_later_is_no_difference(backup_dir):
    backup = back_up()
    execute("SELECT partitions.create_time_partition('messages.log', CURRENT_DATE + 60)")
    assert verify(str(backup.pk)).problems == []


def test_the_entry_is_the_same_in_both_places(backup_dir):
    backup = back_up()
    row = Backup.objects.get(pk=backup.pk)
    beside = json.loads(catalogue.entry_of(backup.pk).read_text())
    assert beside == to_json(row)
    assert from_json(beside).updated_at == row.updated_at
    assert row.status == "complete"
    assert row.completed_at >= row.started_at


def test_two_at_once_the_second_is_refused_and_changes_nothing(backup_dir):
    with exclusive(home_server()), pytest.raises(Busy):
        back_up()
    assert not backup_dir.exists()
    assert not Backup.objects.exists()


def test_nothing_is_begun_without_room_for_it(backup_dir, monkeypatch):
    full = shutil._ntuple_diskusage(10 << 30, 10 << 30, 15 << 20)
    monkeypatch.setattr(logical.shutil, "disk_usage", lambda path: full)
    with pytest.raises(NoSpace, match="15 MB free") as caught:
        back_up()
    assert "MISTERSMITH_BACKUP_DIR" in caught.value.hint
    assert not Backup.objects.exists()


def test_the_room_asked_for_follows_the_last_backup():
    margin = 16 << 20
    assert expected_bytes(1000, []) == margin + 1200
    assert expected_bytes(1000, [Backup(database_bytes=500, size_bytes=50)]) == margin + 120


def test_nothing_is_begun_without_fitting_tools(backup_dir, settings, tmp_path):
    settings.PG_BIN_DIR = str(tmp_path)
    with pytest.raises(UnfitTools):
        back_up()
    assert not Backup.objects.exists()


def test_a_folder_that_cannot_be_made_is_an_error_with_a_hint(backup_dir):
    backup_dir.write_text("a file stands in the way")
    with pytest.raises(RecoveryError) as caught:
        back_up()
    assert "MISTERSMITH_BACKUP_DIR" in caught.value.hint


# -- faults -------------------------------------------------------------------------------------------------
def test_a_dump_that_is_killed_is_a_failed_backup_and_no_files(backup_dir, big_table):
    killer = threading.Thread(target=kill_dump, args=(backup_dir,))
    killer.start()
    with pytest.raises(ToolFailed, match="pg_dump"):
        back_up(jobs=1)
    killer.join()
    backup = only_backup()
    assert backup.status == "failed"
    assert "pg_dump was killed by SIGKILL" in backup.error
    assert nothing_half_made(backup_dir)
    assert is_lock_free()


def kill_dump(backup_dir):
    """Kill pg_dump, a child of ours, once it has written data."""
    eventually(lambda: has_data(backup_dir))
    for child in psutil.Process().children():
        if child.name() == "pg_dump":
            child.kill()


def has_data(backup_dir):
    return [path for path in backup_dir.glob("logical/.partial-*/dump/*.gz") if path.stat().st_size > 100_000]


def test_a_killed_backup_is_noted_by_the_next_one_and_its_dump_is_ended(backup_dir, big_table):
    process = begin("logical", "--jobs", "1", env=environment_of(backup_dir))
    eventually(lambda: has_data(backup_dir))
    orphans = psutil.Process(process.pid).children(recursive=True)
    process.send_signal(signal.SIGSTOP)  # so that it cannot finish between two looks
    for orphan in orphans:
        orphan.suspend()  # a dump that goes on for long
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert only_backup().status == "running", "nobody could note anything"
    assert not (backup_dir / only_backup().location).exists()
    eventually(is_lock_free)
    interrupted, backup = only_backup().pk, back_up(jobs=1)
    assert not dumps_at_work()
    for orphan in orphans:
        orphan.resume()
    noted = Backup.objects.get(pk=interrupted)
    assert (noted.status, "killed" in noted.error) == ("failed", True)
    assert {path.name for path in (backup_dir / "logical").iterdir()} == {Path(backup.location).name}


def dumps_at_work():
    with home_server().connect() as session:
        row = session.execute(
            "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND application_name = %s",
            [APPLICATION],
        )
        return row.fetchone()[0]


def test_a_full_disk_is_a_failed_backup_and_no_files(backup_dir, big_table):
    """A limit on the size of files stands for the disk: the same errors, without root."""

    def limit():
        resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))

    code, _, errors = manage("logical", "--jobs", "1", env=environment_of(backup_dir), preexec_fn=limit)
    assert code == 2
    assert "pg_dump" in errors
    assert "HINT: the disk" in errors
    backup = only_backup()
    assert (backup.status, "pg_dump" in backup.error) == ("failed", True)
    assert nothing_half_made(backup_dir)


def test_losing_the_connection_is_a_failed_backup(backup_dir, monkeypatch):
    """The lock went with it: somebody else may have begun, so nothing is published."""
    real = logical.dump_globals

    def dump_globals_and_lose_the_session(path, server, session, tools):
        real(path, server, session, tools)
        with server.connect() as other:
            other.execute("SELECT pg_terminate_backend(%s)", [session.info.backend_pid])

    monkeypatch.setattr(logical, "dump_globals", dump_globals_and_lose_the_session)
    with pytest.raises(psycopg.OperationalError):
        back_up()
    assert only_backup().status == "failed"
    assert nothing_half_made(backup_dir)


def test_a_table_dropped_at_the_wrong_moment_is_told_and_may_be_tried_again(backup_dir, monkeypatch):
    real = logical.list_tables

    def list_and_drop(session):
        refs = real(session)
        execute("DROP TABLE public.passing")
        return refs

    execute("CREATE TABLE public.passing ()")
    monkeypatch.setattr(logical, "list_tables", list_and_drop)
    with pytest.raises(RecoveryError, match="the schema changed meanwhile") as caught:
        back_up()
    assert caught.value.retry
    assert only_backup().status == "failed"
    monkeypatch.setattr(logical, "list_tables", real)
    assert back_up().status == "complete"


# -- the catalogue ------------------------------------------------------------------------------------------
def test_a_run_killed_after_the_folder_got_its_name_is_complete(backup_dir):
    backup = back_up()
    lost = Backup.objects.get(pk=backup.pk)
    lost.status, lost.completed_at, lost.manifest_sha256, lost.size_bytes = "running", None, None, None
    catalogue.save(lost)
    tidy()
    found = Backup.objects.get(pk=backup.pk)
    assert (found.status, found.manifest_sha256, found.size_bytes) == (
        "complete",
        backup.manifest_sha256,
        backup.size_bytes,
    )
    assert found.completed_at == backup.completed_at


@pytest.mark.parametrize("lost", ["row", "entry", "both", "unreadable entry"])
def test_what_one_place_lost_comes_back_from_the_other(backup_dir, lost, copy):
    tidy()
    entry = catalogue.entry_of(copy.pk)
    if lost in ("row", "both"):
        Backup.objects.all().delete()
    if lost in ("entry", "both"):
        entry.unlink()
    if lost == "unreadable entry":
        entry.write_text("{")
    tidy()
    assert Backup.objects.get().status == "complete"
    assert json.loads(entry.read_text())["status"] == "complete"


def test_the_newer_entry_is_right(copy):
    tidy()
    Backup.objects.update(is_pinned=True, updated_at=datetime.now(UTC) + timedelta(minutes=1))
    assert catalogue.find(str(copy.pk))[0].is_pinned
    tidy()
    assert json.loads(catalogue.entry_of(copy.pk).read_text())["is_pinned"] is True
    Backup.objects.update(is_pinned=False, updated_at=datetime.now(UTC) - timedelta(days=9))
    tidy()
    assert Backup.objects.get().is_pinned


def test_a_removal_that_was_killed_is_ended(copy, folder):
    tidy()
    folder.rename(catalogue.trash_of(copy))
    assert tidy() == []
    assert not Backup.objects.exists()
    assert not catalogue.trash_of(copy).exists()
    assert not catalogue.entry_of(copy.pk).exists()
