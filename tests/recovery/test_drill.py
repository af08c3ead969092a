"""Drills: a restore that nobody needed yet, into a server of its own, with a mark that must come back."""

import json

import pytest
from django.core.management import call_command

from recovery import catalogue, checks, drill, examining, figures, proving
from recovery.drill import run_drill
from recovery.errors import NotReachable
from recovery.examining import has_amcheck
from recovery.models import Backup, TestResult
from recovery.target import Target
from tests.recovery.story import HAS_INCREMENTAL


def leave(backup_dir):
    return (
        [path.name for path in (backup_dir / "scratch").glob("*")]
        if (backup_dir / "scratch").exists()
        else []
    )


def status_of(backup):
    return Backup.objects.get(pk=backup.pk).status


def test_a_drill_to_a_moment_proves_the_chain(story, backup_dir):
    found = run_drill(target=Target("name", "middle"))
    assert found.problems == []
    assert found.proof.row_counts == {"public.numbered": story.moments["middle"].rows}
    assert status_of(story.backups["incremental"]) == "verified"
    assert status_of(story.backups["base"]) == ("verified" if HAS_INCREMENTAL else "complete"), (
        "the whole chain"
    )
    result = TestResult.objects.get()
    assert (result.test_type, result.test_status, result.data_verification_passed) == ("pitr", "passed", True)
    assert result.performance_metrics["rto_seconds"] > 0
    assert result.performance_metrics["rows"] == story.moments["middle"].rows
    assert leave(backup_dir) == []


def test_verifying_a_server_s_backup_restores_it_to_its_own_end(story):
    found = proving.prove(str(story.backups["base"].pk))
    assert found.problems == []
    assert (
        story.moments["before"].rows
        < found.proof.row_counts["public.numbered"]
        <= story.moments["early"].rows
    )
    assert status_of(story.backups["base"]) == "verified"
    assert status_of(story.backups["incremental"]) == "complete"


def test_a_damaged_page_is_found_and_the_backup_called_damaged(story, backup_dir):
    """The file's checksums are right: only the page's own, or pg_amcheck, can tell."""
    if not has_amcheck(story.server, "mistersmith"):
        pytest.skip("this PostgreSQL comes without the extension amcheck")
    base = Backup.objects.get(pk=story.backups["base"].pk)
    spoil_an_index(base, story)
    found = run_drill(str(base.pk), Target("end"))
    assert "pg_amcheck" in found.problems[0]
    assert status_of(base) == "damaged"
    assert TestResult.objects.get().data_verification_passed is False
    assert leave(backup_dir) == []


def test_what_cannot_be_looked_at_is_said(story, monkeypatch, capsys):
    """Some packages of PostgreSQL come without amcheck: the drill goes on, and tells that it saw less."""
    monkeypatch.setattr(examining, "has_amcheck", lambda *_: False)
    call_command("backup", "drill", str(story.backups["base"].pk), "--end", "--json")
    answer = json.loads(capsys.readouterr().out)
    assert answer["ok"]
    assert answer["counts"]["problems"] == 0
    assert "without the extension amcheck" in answer["warnings"][0]


def spoil_an_index(backup, story):
    """Change a page of the numbered table's index, and write a manifest that fits."""
    from recovery import manifest

    folder = catalogue.folder_of(backup)
    with story.connect() as session:
        file = folder / "data" / session.execute("SELECT pg_relation_filepath('numbered_pkey')").fetchone()[0]
    raw = bytearray(file.read_bytes())
    raw[2 * 8192 - 60 : 2 * 8192 - 20] = b"\xff" * 40  # the last entries of page 1
    file.write_bytes(raw)
    body = manifest.read_manifest(folder)
    backup.manifest_sha256 = manifest.write_manifest(folder, {k: v for k, v in body.items() if k != "files"})
    catalogue.save(backup)


def test_a_drill_that_cannot_be_done_is_recorded_and_says_why(story):
    with pytest.raises(NotReachable):
        run_drill(target=Target("name", "nowhere"))
    result = TestResult.objects.get()
    assert result.test_status == "failed"
    assert "no restore point 'nowhere'" in result.error_messages[0]
    assert status_of(story.backups["base"]) == "complete"


def test_what_a_killed_drill_left_is_removed(story, backup_dir):
    left = backup_dir / "scratch" / "data"
    left.mkdir(parents=True)
    (left / "PG_VERSION").touch()
    run_drill(target=Target("name", "early"))
    assert leave(backup_dir) == []


def test_a_copy_without_what_was_just_committed_fails_the_drill(story, monkeypatch):
    """The mark is not archived: the archive is another server's, or archiving stands still."""
    monkeypatch.setattr(drill, "archive_everything", lambda session: None)
    found = run_drill()
    assert found.problems == ["what was committed just before the drill is not in the restored copy"]


def test_doctor_says_when_a_restore_was_last_proven_and_how_long_it_took(story):
    assert [found.detail for found in checks.look_at_drill()] == ["no restore was drilled yet"]
    run_drill(target=Target("name", "early"))
    [found] = checks.look_at_drill()
    assert found.ok
    assert found.detail.startswith("last drilled 0 min ago: proven, ")
    assert len(list(figures.read_rto())) == len(list(figures.read_drill_age())) == 1


@pytest.mark.parametrize("day", range(2))
def test_scheduled_drills_take_turns(db, story, day):
    from datetime import date

    from recovery.continuity import look_at_archive

    look_at_archive()
    target = proving.scheduled_target(date.fromordinal(739_000 + day))
    assert target.kind == ("latest", "time")[day]
