"""A restore fetches by itself what only the store has: named before, with its bytes; nothing where all is here."""

import shutil

import pytest
from django.core.management import CommandError, call_command
from django.utils import timezone

from operators.models import AuditEntry
from pg.errors import Unreachable
from recovery import catalogue, need, restore_command
from recovery.errors import NotReachable, UnknownBackup
from recovery.fetch_command import bring_all
from recovery.models import Backup, RestorePoint
from recovery.need import need_of_backup, need_of_server
from recovery.partial_command import need_of_stage
from recovery.pitr import plan_recovery
from recovery.stores.local import LocalStore
from recovery.target import Target
from recovery.upload import upload
from recovery.wal import open_archive, parse_lsn
from tests.recovery.stores import use_folder
from tests.recovery.test_upload import lose_everything_here, manage


@pytest.fixture
def folder(own_home, monkeypatch):
    return LocalStore(use_folder(own_home, monkeypatch))


def lose_wal_from(story, lsn):
    """Remove the archived segments from a position on; return how many."""
    first = story.segment_of(lsn).name
    gone = [path for path in story.segment_of(lsn).parent.glob("*.gz") if path.name >= first]
    for path in gone:
        path.unlink()
    return len(gone)


# -- the whole way, on real servers -------------------------------------------------------------------------
def test_a_restore_brings_back_its_chain_and_wal_when_nothing_is_left_here(story, place, folder, capsys):
    upload()
    lose_everything_here(story)
    target = place / "back"
    words = ("restore", "--target-directory", str(target), "--lsn", story.moments["late"].lsn)
    plan = manage(capsys, *words, "--dry-run")
    told = [(step["action"], step["object"]) for step in plan["steps"]]
    assert told[0][0] == "fetch"
    assert told[-1] == ("restore", str(target))
    assert any("files of WAL" in what for _, what in told)
    assert plan["counts"]["needed_mb"] > plan["counts"]["fetched_mb"] > 0
    assert not list(catalogue.below("*")), "a plan fetches nothing"
    answer = manage(capsys, *words)
    assert answer["counts"]["fetched_backups"] >= 1
    assert answer["counts"]["fetched_wal_files"] > 0
    assert answer["counts"]["problems"] == 0
    assert [step["action"] for step in answer["steps"]].count("replay") == 1
    assert (target / "PG_VERSION").is_file()
    assert AuditEntry.objects.filter(action="recovery.fetch").exists()
    assert need_of_server(Target("name", "late")) is None, "it is here now"


def test_wal_that_is_missing_here_is_fetched_and_the_target_in_reach(story, folder):
    upload()
    lost = lose_wal_from(story, story.moments["middle"].lsn)
    with pytest.raises(NotReachable):
        plan_recovery(Target("name", "late"))
    plan = need_of_server(Target("name", "late"))
    assert plan.wanted == []
    assert len(plan.wal) == lost
    restore_command.bring(plan, "test")
    assert plan_recovery(Target("name", "late")).stop_lsn, "it is in reach"


# -- what is fetched ----------------------------------------------------------------------------------------
def test_nothing_is_fetched_where_all_is_here(story, folder):
    upload()
    for target in (Target(), Target("end"), Target("name", "late"), Target("lsn", story.moments["late"].lsn)):
        assert need_of_server(target) is None


def test_without_a_store_the_refusal_is_the_usual_one(story, monkeypatch, settings):
    settings.BACKUP_STORE_URL = ""
    lose_everything_here(story)
    with pytest.raises(UnknownBackup, match="there is no base backup here"):
        need_of_server(Target())


def test_no_more_wal_is_fetched_than_the_moment_needs(story, folder):
    upload()
    lsn = story.moments["early"].lsn
    lost = lose_wal_from(story, lsn)
    assert lost > 1
    archive = open_archive()
    wanted = need_of_server(Target("lsn", lsn)).wal
    assert [key for key in wanted if need.is_segment(key)] == [
        f"wal/{story.segment_of(lsn).relative_to(archive.place / 'wal')}"
    ]
    RestorePoint.objects.create(name="early", timeline=1, lsn=parse_lsn(lsn), segment="x")
    assert need_of_server(Target("name", "early")).wal == wanted, "our table says where the point lies"


@pytest.mark.parametrize("kind", ["name", "xid"])
def test_where_only_wal_says_where_the_target_lies_it_is_fetched_until_that_is_known(story, folder, kind):
    """Ours is the bad day: no table of points, and the target is older than the newest backup."""
    upload()
    lose_everything_here(story)
    target = Target(kind, "early" if kind == "name" else story.moments["early"].xid)
    first = need_of_server(target)
    assert (first.wanted, bool(first.wal)) == ([], True), "WAL tells which backup it takes"
    answer = bring_all(lambda: need_of_server(target), "test")
    plan = plan_recovery(target)
    assert [part.pk for part in plan.chain] == [story.backups["base"].pk]
    assert answer.counts["fetched_backups"] == 1, "the newer one would not lead there"
    with pytest.raises(NotReachable, match="is in no WAL here or in the store"):
        need_of_server(Target(kind, "4000000000"))
    with pytest.raises(NotReachable, match="not a transaction id"):
        need_of_server(Target("xid", "never"))


def test_to_the_newest_moment_the_store_s_newer_wal_is_fetched_too(story, folder):
    """The backup folder is an old copy: what is here would do, and silently give an older moment."""
    upload()
    lost = lose_wal_from(story, story.moments["late"].lsn)
    assert plan_recovery(Target()).stop_lsn < parse_lsn(story.moments["late"].lsn)
    plan = need_of_server(Target())
    assert sum(map(need.is_segment, plan.wal)) == lost
    restore_command.bring(plan, "test")
    assert plan_recovery(Target()).stop_lsn >= parse_lsn(story.moments["late"].lsn)


def test_a_store_that_is_away_does_not_keep_what_is_here_from_being_restored(story, folder):
    upload()
    folder.root.rename(folder.root.with_name("unmounted"))
    plan = need_of_server(Target())
    assert not plan.is_something
    assert "the store was not asked for newer WAL" in plan.warnings[0]
    assert need_of_server(Target("name", "late")) is None
    lose_everything_here(story)
    with pytest.raises(Unreachable):
        need_of_server(Target("name", "late"))


def test_what_the_store_cannot_help_is_refused_before_anything_is_fetched(story, folder, monkeypatch):
    upload()
    lose_everything_here(story)
    with pytest.raises(NotReachable, match="in the future"):
        need_of_server(Target("time", (timezone.now() + timezone.timedelta(hours=1)).isoformat()))
    with pytest.raises(NotReachable, match="not a position in WAL"):
        need_of_server(Target("lsn", "somewhere"))
    with pytest.raises(UnknownBackup, match="ended before lsn 0/1"):
        need_of_server(Target("lsn", "0/1"))
    monkeypatch.setattr(
        need, "exact_tools", lambda backup: (_ for _ in ()).throw(NotReachable("of PostgreSQL 9"))
    )
    with pytest.raises(NotReachable, match="of PostgreSQL 9"):
        need_of_server(Target("name", "late"))


def test_a_directory_in_use_and_a_small_disk_are_told_before_anything_is_fetched(
    story, place, folder, monkeypatch
):
    upload()
    lose_everything_here(story)
    (place / "full").mkdir()
    (place / "full" / "x").touch()
    with pytest.raises(CommandError, match="it is left as it is"):
        call_command("backup", "restore", "--target-directory", str(place / "full"))
    usage = shutil.disk_usage(place)
    monkeypatch.setattr(restore_command.shutil, "disk_usage", lambda _: usage._replace(free=1 << 20))
    with pytest.raises(CommandError, match="has 1 MB free"):
        call_command("backup", "restore", "--target-directory", str(place / "back"))
    assert not list(catalogue.below("*"))


# -- logical ones -------------------------------------------------------------------------------------------
def test_a_logical_backup_that_lies_in_the_store_alone_is_restored_from_there(copy, folder, clones, capsys):
    upload()
    shutil.rmtree(catalogue.folder_of(copy))
    words = ("restore", str(copy.pk), "--target-database", "fetched_and_restored")
    steps = manage(capsys, *words, "--dry-run")["steps"]
    assert [step["action"] for step in steps] == ["fetch", "load"]
    assert not catalogue.is_stored(copy)
    try:
        answer = manage(capsys, *words)
        assert answer["counts"] == {"fetched_backups": 1, "fetched_wal_files": 0, "problems": 0}
    finally:
        clones.drop("fetched_and_restored")
    assert need_of_backup(str(copy.pk), Backup.Kind.LOGICAL) is None


def test_what_a_partial_restore_needs_is_the_same(copy, folder):
    assert need_of_stage("", None, False) is None, "it is here"
    upload()
    shutil.rmtree(catalogue.folder_of(copy))
    for wanted in (str(copy.pk), ""):
        assert [found.backup.pk for found in need_of_stage(wanted, None, False).wanted] == [copy.pk]
    with pytest.raises(UnknownBackup, match="no base backup here or in the store"):
        need_of_stage("", Target("name", "x"), False)
