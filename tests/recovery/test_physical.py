"""Base and incremental backups: what is stored, what is refused, what a failure leaves."""

import json

import pytest
from django.core.management import CommandError, call_command

from pg.errors import Refused
from recovery import catalogue, manifest, physical, wal_waiting
from recovery.chain import chain_of
from recovery.entries import from_json
from recovery.errors import NoSpace, ToolFailed, UnknownBackup
from recovery.models import Backup
from recovery.physical import Options, back_up_server
from recovery.pitr import plan_recovery
from recovery.server import exclusive
from recovery.target import Target
from recovery.tools import Tools
from recovery.wal import open_archive
from tests.recovery.story import MAJOR, needs_incremental


def test_a_base_backup_is_whole_checked_and_in_both_catalogues(live):
    backup = back_up_server()
    folder = catalogue.folder_of(backup)
    assert (backup.kind, backup.status, backup.parent_id) == ("base", "complete", None)
    assert manifest.check_files(folder, backup.manifest_sha256) == []
    body = json.loads((folder / "data" / "backup_manifest").read_text())
    assert {file["Checksum-Algorithm"] for file in body["Files"]} == {"CRC32C"}
    assert backup.end_lsn > backup.start_lsn
    assert not backup.has_wal
    assert from_json(json.loads(catalogue.entry_of(backup.pk).read_text())) == Backup.objects.get(
        pk=backup.pk
    )
    assert catalogue.read_finished(backup.location).parent_id is None
    assert wal_waiting.missing_wal(open_archive(), backup) is None, "complete only with its WAL archived"


@needs_incremental
def test_an_incremental_one_is_smaller_and_knows_what_it_builds_on(live):
    parent = Backup.objects.get(kind="incremental")
    backup = back_up_server(incremental=True)
    assert backup.kind == "incremental", "never silently a full one"
    assert backup.parent_id == parent.pk
    assert backup.size_bytes < live.backups["base"].size_bytes / 2
    chain = chain_of(backup, list(Backup.objects.all()))
    assert [part.kind for part in chain] == ["base", "incremental", "incremental"]
    assert any((catalogue.folder_of(backup) / "data").rglob("INCREMENTAL.*"))


@needs_incremental
def test_a_chain_of_three_restores(live, place):
    back_up_server(incremental=True)
    live.write("later")
    live.switch()
    plan = plan_recovery(Target("name", "later"))
    assert len(plan.chain) == 3
    assert live.rows_in(plan, place) == live.moments["later"].rows


def test_a_compressed_one_is_smaller_and_restores(live, place):
    backup = back_up_server(options=Options(compress="server-gzip:1"))
    assert (catalogue.folder_of(backup) / "data" / "base.tar.gz").is_file()
    assert backup.size_bytes < live.backups["base"].size_bytes / 3
    live.write("packed")
    live.switch()
    plan = plan_recovery(Target("name", "packed"))
    assert plan.backup.pk == backup.pk
    assert live.rows_in(plan, place) == live.moments["packed"].rows


def test_without_our_archive_the_wal_comes_along_and_it_restores_to_its_own_end(story, place, backup_dir):
    """The server archives elsewhere: into the folder of the original."""
    with story.connect() as session:
        count = session.execute("SELECT count(*) FROM numbered").fetchone()[0]
    backup = back_up_server()
    assert backup.has_wal
    plan = plan_recovery(Target("end"), str(backup.pk))
    assert story.rows_in(plan, place) == count


def test_the_rate_is_limited(live, monkeypatch):
    seen = []
    monkeypatch.setattr(
        physical, "run", lambda argv, environment: seen.append(argv) or real(argv, environment)
    )
    from recovery.tools import run as real

    back_up_server(options=Options(rate_mb=500))
    assert "--max-rate=500M" in seen[0]


# -- refused ------------------------------------------------------------------------------------------------
@needs_incremental
def test_an_incremental_one_needs_one_to_build_on(live):
    for backup in Backup.objects.all():
        catalogue.remove(backup)
    with pytest.raises(UnknownBackup, match="no base backup of this server"):
        back_up_server(incremental=True)


def test_a_server_with_tablespaces_is_refused(story, monkeypatch):
    class Session:
        info = type("Info", (), {"server_version": 180006})

        def execute(self, text):
            return self

        def fetchall(self):
            return [("fast",)]

    with pytest.raises(Refused, match="tablespaces \\(fast\\)"):
        physical.require_able(Session(), physical.find_tools(MAJOR), incremental=False)


@pytest.mark.parametrize(("version", "summarize", "problem"), [
    (160003, "on", "PostgreSQL 16.3 has no incremental backups"),
    (170001, "off", "summarize_wal is off"),
])  # fmt: skip
def test_a_server_that_cannot_is_refused(version, summarize, problem):
    class Session:
        info = type("Info", (), {"server_version": version})

        def execute(self, text):
            return self

        def fetchall(self):
            return []

        def fetchone(self):
            return (summarize,)

    with pytest.raises(Refused, match=problem):
        physical.require_able(Session(), physical.find_tools(18), incremental=True)


def test_too_little_room_is_said_before_anything_is_written(story, monkeypatch):
    monkeypatch.setattr(
        "recovery.logical.shutil.disk_usage", lambda path: type("Usage", (), {"free": 1 << 20})
    )
    with pytest.raises(NoSpace, match="has 1 MB free"):
        back_up_server()
    assert Backup.objects.count() == 2


def test_one_at_a_time(story):
    with exclusive(story.server), pytest.raises(CommandError, match="is running"):
        call_command("backup", "base")


# -- failures -----------------------------------------------------------------------------------------------
def test_a_copy_that_does_not_match_its_manifest_is_no_backup(live, monkeypatch):
    real = physical.copy_server

    def spoil(data, *others):
        real(data, *others)
        (data / "PG_VERSION").write_text("19\n")

    monkeypatch.setattr(physical, "copy_server", spoil)
    with pytest.raises(ToolFailed, match='checksum mismatch for file "PG_VERSION"'):
        back_up_server()
    failed = Backup.objects.first()
    assert failed.status == "failed"
    assert not catalogue.partial_of(failed).exists()


def test_wal_that_is_never_archived_fails_the_backup(live, monkeypatch):
    with live.connect() as session:
        session.execute("ALTER SYSTEM SET archive_command = '/bin/false'")
        session.execute("SELECT pg_reload_conf()")
    monkeypatch.setattr(physical, "archives_here", lambda *_: True)
    monkeypatch.setattr(wal_waiting, "ARCHIVE_WAIT_SECONDS", 0)
    monkeypatch.setattr(physical, "copy_server", copy_without_waiting)
    with pytest.raises(Exception, match="was not archived within"):
        back_up_server()
    assert Backup.objects.first().status == "failed"


def copy_without_waiting(data, backup, server, tools, options):
    """pg_basebackup itself waits for the archive; ours must not trust that it did."""
    backup.has_wal = True
    try:
        from recovery.tools import run

        argv = [tools.program("pg_basebackup"), f"--pgdata={data}", "--checkpoint=fast", "--wal-method=fetch"]
        run([*argv, f"--dbname={server.conninfo('mistersmith')}"], server.environment("x"))
    finally:
        backup.has_wal = False


def test_a_missing_program_is_named(tmp_path):
    with pytest.raises(Refused, match="no pg_combinebackup in"):
        Tools(tmp_path, "18.6").require("pg_combinebackup")


def test_the_settings_for_one_s_own_server_are_printed(db, backup_dir, capsys):
    call_command("backup", "archive", "--level=3")
    told = capsys.readouterr().out
    assert "ALTER SYSTEM SET archive_mode = 'on'" in told
    assert f"push %p {backup_dir} --level=3" in told
    assert (backup_dir / "bin" / "wal_archive.py").is_file()
