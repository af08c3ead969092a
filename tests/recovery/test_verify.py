"""Verification restores, compares, and leaves nothing behind."""

import gzip
import shutil
import signal

import psycopg
import pytest
from django.core.management import CommandError, call_command

from pg.errors import Refused
from recovery import catalogue, manifest
from recovery import verify as verification
from recovery.archive import load_dump, scratch_prefix
from recovery.errors import Busy, ToolFailed, UnknownBackup
from recovery.jobs import verify_job
from recovery.models import Backup, TestResult
from recovery.server import exclusive, home_server
from recovery.tools import find_tools, run
from recovery.verify import verify
from tests.recovery.conftest import begin, environment_of, eventually, manage, scratch_databases
from tests.versions import asked_major


def test_an_unspoilt_backup_becomes_verified(copy, clones):
    verdict = verify()
    assert verdict.problems == []
    assert verdict.rows == sum(copy.row_counts.values())
    row = Backup.objects.get(pk=copy.pk)
    assert (row.status, row.error) == ("verified", None)
    assert row.verified_at >= row.completed_at
    drill = TestResult.objects.get()
    assert (drill.test_status, drill.data_verification_passed) == ("passed", True)
    assert drill.backup_timestamp == row.started_at
    assert drill.performance_metrics["restore_seconds"] > 0
    assert scratch_databases(clones) == []


def forge(copy, folder, change):
    """Change the dump and write a manifest that fits the changed files: only a restore can tell."""
    body = manifest.read_manifest(folder)
    change(folder)
    copy.manifest_sha256 = manifest.write_manifest(folder, {k: v for k, v in body.items() if k != "files"})
    catalogue.save(copy)


def dump_again(folder, *options):
    """Replace the dump by one of a restored copy of it, made with other options."""
    server, tools = home_server(), find_tools(asked_major())
    name = f"{scratch_prefix(server)}000000000000"
    with server.connect() as session:
        session.execute(f"CREATE DATABASE {name} TEMPLATE template0")
        load_dump(folder, server, name, tools, 2)
        shutil.rmtree(folder / "dump")
        argv = [tools.program("pg_dump"), "-Fd", "-f", str(folder / "dump"), "-d", server.conninfo(name)]
        run([*argv, *options], server.environment("test"))
        session.execute(f"DROP DATABASE {name}")


def change_a_value(folder):
    for path in (folder / "dump").glob("*.dat.gz"):
        text = gzip.decompress(path.read_bytes())
        if b"\tagent 7\t" in text:
            path.write_bytes(gzip.compress(text.replace(b"\tagent 7\t", b"\tagent 0\t")))


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (lambda folder: dump_again(folder, "--exclude-table=odd.few"), "table odd.few is missing"),
        (lambda folder: dump_again(folder, "--exclude-table-data=odd.few"), "table odd.few has 0 rows, not 100"),
        (lambda folder: dump_again(folder, "--exclude-table=agents.state_2"),
         "partition agents.state_2 of agents.state is missing"),
        (lambda folder: dump_again(folder, "--exclude-table=agents.registry"),
         "the dump lacks table agents.registry"),
        (change_a_value, "table agents.registry has other values"),
    ],
    ids=["dropped table", "emptied table", "dropped partition", "referenced table", "changed value"],
)  # fmt: skip
def test_what_only_a_restore_shows_is_found_and_named(copy, folder, change, problem, clones):
    forge(copy, folder, change)
    assert manifest.check_files(folder, copy.manifest_sha256) == []
    verdict = verify(str(copy.pk))
    assert verdict.problems[0].startswith(problem)
    assert Backup.objects.get(pk=copy.pk).status == "damaged"
    assert scratch_databases(clones) == []


def test_a_restore_that_fails_says_so_without_calling_the_backup_damaged(copy, clones, monkeypatch):
    def fail(*_):
        raise ToolFailed("pg_restore ended with 1", "free some room")

    monkeypatch.setattr(verification, "load_dump", fail)
    with pytest.raises(ToolFailed):
        verify(str(copy.pk))
    row = Backup.objects.get(pk=copy.pk)
    assert row.status == "complete"
    assert row.error == "could not be verified: pg_restore ended with 1 (HINT: free some room)"
    drill = TestResult.objects.get()
    assert (drill.test_status, drill.data_verification_passed) == ("failed", None)
    assert scratch_databases(clones) == []


def test_missing_roles_are_named_before_anything_is_restored(copy, folder):
    body = manifest.read_manifest(folder)
    body["database"]["roles"].append("nobody here")
    manifest.write_json(folder / manifest.NAME, body)
    copy.manifest_sha256 = manifest.sha256_of(folder / manifest.NAME)
    catalogue.save(copy)
    with pytest.raises(Refused, match="lacks roles that the backup needs: nobody here"):
        verify(str(copy.pk))


def test_scratch_databases_of_killed_runs_are_dropped_and_no_others(copy, clones):
    ours, foreign = f"{scratch_prefix(home_server())}0123456789ab", "mistersmith_verify_00000000_0123456789ab"
    clones.create(ours, template="template0")
    clones.create(foreign, template="template0")
    verify(str(copy.pk))
    assert not clones.exists(ours)
    assert clones.exists(foreign)
    clones.drop(foreign)


def test_two_at_once_the_second_is_told_to_wait(copy):
    with exclusive(home_server()):
        with pytest.raises(Busy, match="is running"):
            verify()
        with pytest.raises(CommandError, match="HINT: try again") as caught:
            call_command("backup", "verify")
        assert caught.value.returncode == 2
    assert verify().problems == []


def test_the_job_for_one_backup_returns_its_problems(copy, folder):
    assert verify_job(str(copy.pk)) == []
    (folder / "globals.sql").unlink()
    assert verify_job(str(copy.pk)) == ["file globals.sql is missing"]


def test_an_unknown_backup_is_refused(copy):
    with pytest.raises(UnknownBackup, match="0 backups"):
        verify("ffff")


def test_a_failed_backup_cannot_be_verified(db):
    backup = Backup(status="failed", error="e", location="logical/x", database_bytes=1)
    catalogue.save(backup)
    with pytest.raises(Refused, match="nothing to verify"):
        verify(str(backup.pk))


def test_without_our_database_the_files_beside_the_data_suffice(copy, clones, backup_dir):
    code, told, _ = manage("verify", env=environment_of(backup_dir, "gone_for_good"))
    assert (code, told["counts"]["problems"]) == (0, 0)
    assert catalogue.find("newest")[0].pk == copy.pk


@pytest.mark.django_db(transaction=True)
def test_a_killed_verification_leaves_a_scratch_database_that_the_next_one_drops(copy, clones, backup_dir):
    process = begin("verify", env=environment_of(backup_dir))
    [name] = eventually(lambda: scratch_databases(clones) or process.poll() is not None)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert scratch_databases(clones) == [name]
    eventually(is_lock_free)  # PostgreSQL notices that the connection is gone
    assert verify().problems == []
    assert scratch_databases(clones) == []


def is_lock_free():
    try:
        with exclusive(home_server()):
            return True
    except (Busy, psycopg.OperationalError):
        return False
