"""Backups and WAL go to a store, and come back from it when nothing is left here; both on a folder and on real S3."""

import io
import json
import os
import shutil
import tarfile
from datetime import timedelta
from pathlib import Path

import psycopg
import pytest
from django.conf import settings
from django.core.management import CommandError, call_command
from django.utils import timezone

from pg.errors import Unreachable
from recovery import catalogue, fetch, packing, prune, sealing, store_retention
from recovery.errors import Busy, Damaged, NoKey, UnknownBackup
from recovery.fetch_plan import plan_fetch
from recovery.models import Backup, Upload
from recovery.pitr import plan_recovery
from recovery.source import open_source
from recovery.stocktaking import repair_store, take_stock
from recovery.store_checks import look_at_store
from recovery.store_retention import sweep
from recovery.stored import find_stored
from recovery.stores.local import LocalStore
from recovery.target import Target
from recovery.upload import upload
from recovery.upload_queue import enqueue, waiting
from recovery.wal import open_archive
from tests.recovery.stores import (
    SEGMENT_NAMES,
    few,
    owner,
    seaweed,
    small_parts,
    spoiler,
    store,
    url,
    use_folder,
)
from tests.recovery.story import HAS_INCREMENTAL

__all__ = ["few", "owner", "seaweed", "small_parts", "spoiler", "store", "url"]  # fixtures

OLD, NEW = sealing.make_key("old"), sealing.make_key("new")


@pytest.fixture
def folder(own_home, monkeypatch):
    """A store in a folder, for what does not depend on the kind of it."""
    return LocalStore(use_folder(own_home, monkeypatch))


@pytest.fixture
def keys(monkeypatch):
    def use(*texts):
        monkeypatch.setattr(settings, "BACKUP_ENCRYPTION_KEYS", ",".join(texts))

    return use


def lose_everything_here(story):
    """The backup folder and our table are gone."""
    shutil.rmtree(story.root)
    Backup.objects.all().delete()
    Upload.objects.all().delete()


def manage(capsys, *words):
    call_command("backup", *words, "--json")
    return json.loads(capsys.readouterr().out)


# -- there and back -----------------------------------------------------------------------------------------
@pytest.mark.parametrize("url", [pytest.param("folder", marks=pytest.mark.ci), "S3"], indirect=True)
def test_a_chain_and_its_wal_restore_from_the_store_when_nothing_is_left_here(
    story, place, url, keys, capsys
):
    keys(NEW)
    assert manage(capsys, "upload")["counts"]["waiting"] == 0
    assert {row["lies"] for row in manage(capsys, "list")["items"]} == {"here, store"}
    lose_everything_here(story)
    with pytest.raises(UnknownBackup) as caught:
        plan_recovery(Target("name", "late"))
    assert "manage.py backup fetch" in caught.value.hint
    answer = manage(capsys, "fetch")
    assert answer["counts"]["backups"] == (2 if HAS_INCREMENTAL else 1), "with all that it builds on"
    plan = plan_recovery(Target("name", "late"))
    assert plan.backup.pk == story.backups["incremental"].pk
    assert story.rows_in(plan, place) == story.moments["late"].rows


def test_every_object_has_its_sha256_and_the_index_is_the_last_one(few, store):
    assert upload().refused == []
    backup = few.backups["base"]
    rows = list(Upload.objects.filter(backup_id=backup.pk).order_by("uploaded_at"))
    assert rows[-1].key == f"{backup.location}/parts.json"
    for row in Upload.objects.all():
        assert store.head(row.key).sha256 == row.sha256


def test_encrypted_nothing_in_the_store_can_be_read(few, spoiler, url, keys):
    keys(NEW)
    upload()
    for row in Upload.objects.all():
        assert row.key_id == "new"
        assert spoiler.read(row.key).startswith(sealing.MAGIC)


def test_a_bit_that_flipped_in_the_store_is_found_by_reading_and_sent_again(few, spoiler, url, place):
    upload()
    part = Upload.objects.filter(backup_id=few.backups["base"].pk, key__contains="/part-0").first()
    segment = Upload.objects.filter(key__contains="wal/0").first()
    for row in (part, segment):
        spoiler.flip_a_bit(row.key)
    source = open_source()
    assert take_stock(source).problems == [], "a list does not show it"
    with pytest.raises(Damaged, match="its SHA-256 differs"):
        source.get(part.key, place / "x")
    assert len(take_stock(source, read=True).damaged) == 2
    repair_store(source, read=True)
    assert Backup.objects.get(pk=few.backups["base"].pk).stored_at is None
    assert upload().refused == []
    assert take_stock(source, read=True).problems == []
    assert Backup.objects.get(pk=few.backups["base"].pk).stored_at is not None


def test_a_damaged_part_is_never_a_backup_here(few, spoiler, url):
    upload()
    spoiler.flip_a_bit(
        Upload.objects.filter(backup_id=few.backups["base"].pk, key__contains="/part-0").first().key
    )
    lose_everything_here(few)
    with pytest.raises(Damaged):
        fetch.fetch(plan_fetch(str(few.backups["base"].pk)))
    assert [path.name for path in (few.root / "base").iterdir()] == []


def test_what_was_pruned_stays_for_the_grace_and_then_goes_backup_by_backup(few, store, settings):
    upload()
    base, incremental = few.backups["base"], few.backups["incremental"]
    now = timezone.now()
    store_retention.doom_backups([incremental.pk], now)
    assert sweep(now + timedelta(hours=settings.BACKUP_STORE_GRACE_HOURS) - timedelta(seconds=1)).deleted == 0
    assert sweep(now + timedelta(hours=settings.BACKUP_STORE_GRACE_HOURS)).deleted >= 2
    left = [one.backup.pk for one in find_stored(open_source())[0]]
    assert left == [base.pk]
    assert not list(store.list(incremental.location))
    assert take_stock(open_source()).problems == []


# -- the queue ----------------------------------------------------------------------------------------------
def test_an_outage_fills_the_queue_and_not_the_archive_and_a_later_run_empties_it(few, folder):
    away = folder.root.with_name("unmounted")
    folder.root.rename(away)
    sent = upload()
    assert "the folder is not there" in sent.stopped
    assert sent.objects == 0
    found = waiting(folder.url)
    assert found.objects == Upload.objects.count() > 5
    assert Upload.objects.filter(attempts__gt=0).count() == 1, "the others would meet the same"
    [finding] = [one for one in look_at_store() if "objects wait" in one.detail]
    assert finding.ok, "it waits since a moment only"
    Upload.objects.update(queued_at=timezone.now() - timedelta(minutes=16))
    assert not next(look_at_store()).ok
    away.rename(folder.root)
    upload()
    assert waiting(folder.url).objects == 0
    assert next(look_at_store()).ok


def test_a_segment_of_a_copy_of_the_server_is_refused_and_told(few, folder):
    upload()
    row = Upload.objects.filter(key__contains="wal/0").first()
    theirs = b"another history"
    (folder.root / row.key).write_bytes(theirs)
    (folder.root / f"{row.key}.sha256").unlink()
    Upload.objects.filter(pk=row.pk).update(uploaded_at=None, sha256=None, stored_bytes=None)
    sent = upload()
    assert "another object has that key, nothing was overwritten" in sent.refused[0]
    assert (folder.root / row.key).read_bytes() == theirs
    upload()
    assert any("a copy of this one" in one.detail for one in look_at_store() if not one.ok)


def test_another_server_s_store_takes_nothing_of_ours(few, folder):
    (folder.root / "wal").mkdir()
    (folder.root / "wal/archive.json").write_text('{"system_identifier": "1", "segment_bytes": 16777216}')
    sent = upload("wal")
    assert "another object has that key" in sent.stopped
    assert sent.objects == 0


def test_the_same_wal_under_an_older_key_is_taken_for_stored(few, folder, keys):
    """Our table went back in time, and the keys were rotated meanwhile."""
    keys(OLD)
    upload()
    Upload.objects.all().delete()
    keys(NEW, OLD)
    assert upload().refused == []
    assert set(Upload.objects.filter(backup_id=None).values_list("key_id", flat=True)) == {"old"}


def test_a_backup_that_the_table_has_forgotten_is_taken_up_and_not_sent_again(few, folder):
    upload()
    before = {path: path.stat().st_mtime_ns for path in folder.root.rglob("part-*")}
    Upload.objects.all().delete()
    upload()
    assert {path: path.stat().st_mtime_ns for path in folder.root.rglob("part-*")} == before
    assert Upload.objects.filter(uploaded_at=None).count() == 0
    assert Backup.objects.exclude(stored_at=None).count() == 2


def test_a_backup_goes_on_where_it_was_interrupted(few, folder, small_parts, monkeypatch):
    done = []

    def fail_later(self, path, key, *given, **named):
        if "part-00003" in key and not done:
            done.append(key)
            raise Unreachable("the cable", "plug it in")
        return real(self, path, key, *given, **named)

    real = LocalStore.put
    monkeypatch.setattr(LocalStore, "put", fail_later)
    assert "the cable" in upload("backups").stopped
    assert not list(folder.root.rglob("parts.json")), "without its index it is no backup"
    assert find_stored(open_source())[0] == []
    whole = {path: path.stat().st_mtime_ns for path in folder.root.rglob("part-*.gz")}
    assert upload("backups").stopped == ""
    assert {path: path.stat().st_mtime_ns for path in whole} == whole
    assert Backup.objects.exclude(stored_at=None).count() == 2


def test_time_that_is_up_ends_a_run_between_two_objects(few, folder):
    assert upload("wal", seconds=-1).objects == 0
    assert waiting(folder.url).objects > 0


def test_two_at_once_the_second_is_told(few, folder):
    with psycopg.connect(os.environ["DATABASE_URL"], autocommit=True) as session:
        session.execute("SELECT pg_advisory_lock(hashtext('recovery.upload'), hashtext('wal'))")
        with pytest.raises(Busy):
            upload("wal")


def test_without_a_store_nothing_happens(few, monkeypatch):
    monkeypatch.setattr(settings, "BACKUP_STORE_URL", "")
    assert upload().objects == 0
    assert Upload.objects.count() == 0
    assert [finding.ok for finding in look_at_store()] == [True]
    with pytest.raises(CommandError, match="BACKUP_STORE_URL is not set"):
        call_command("backup", "upload")


def test_wal_that_was_pruned_before_it_went_is_forgotten(few, folder):
    enqueue(folder)
    gone = Path(open_archive().path(SEGMENT_NAMES[0]))
    gone.unlink()
    enqueue(folder)
    assert not Upload.objects.filter(key__endswith=gone.name).exists()


def test_the_newest_chain_goes_first_and_parents_before_children(few, folder):
    enqueue(folder)
    ids = list(
        dict.fromkeys(
            Upload.objects.exclude(backup_id=None).order_by("upload_id").values_list("backup_id", flat=True)
        )
    )
    assert ids == [few.backups["base"].pk, few.backups["incremental"].pk]


# -- fetching -----------------------------------------------------------------------------------------------
def test_only_what_is_not_here_is_fetched(few, folder):
    upload()
    assert plan_fetch().steps == []
    shutil.rmtree(catalogue.folder_of(few.backups["incremental"]))
    open_archive().path(SEGMENT_NAMES[-1]).unlink()
    plan = plan_fetch()
    assert [found.backup.pk for found in plan.wanted] == [few.backups["incremental"].pk]
    assert len(plan.wal) == 1
    fetch.fetch(plan)
    assert plan_fetch().steps == []


def test_the_backup_before_a_moment_is_chosen(few, folder, capsys):
    upload()
    lose_everything_here(few)
    moment = few.backups["base"].completed_at.isoformat()
    plan = manage(capsys, "fetch", "--before", moment, "--dry-run")
    assert plan["steps"][0]["object"] == str(few.backups["base"].pk)
    assert not few.root.joinpath("base").exists() or not list(few.root.joinpath("base").iterdir())


def test_a_chain_without_its_base_is_refused(few, folder):
    upload()
    Upload.objects.filter(backup_id=few.backups["base"].pk)
    shutil.rmtree(folder.root / few.backups["base"].location)
    with pytest.raises(Damaged, match="which the store has not"):
        plan_fetch()


def test_with_keys_what_is_not_encrypted_is_refused_unless_allowed(few, folder, keys):
    upload()
    keys(NEW)
    stored, warnings = find_stored(open_source())
    assert stored == []
    assert "anybody could have put it there" in warnings[0]
    assert len(find_stored(open_source(allow_plain=True))[0]) == 2


def test_without_the_key_it_is_said_which_one_is_needed(few, folder, keys):
    keys(OLD)
    upload()
    keys(NEW)
    with pytest.raises(UnknownBackup, match="encrypted with key old"):
        plan_fetch()
    keys("")
    with pytest.raises((UnknownBackup, NoKey), match="encrypted with key old"):
        plan_fetch()


def test_a_part_that_leads_out_of_its_folder_is_refused(tmp_path):
    with tarfile.open(tmp_path / "part.tar", "w") as tar:
        entry = tarfile.TarInfo("../escaped")
        entry.size = 1
        tar.addfile(entry, io.BytesIO(b"x"))
    (tmp_path / "in").mkdir()
    with pytest.raises(Exception, match="no file of a backup"):
        packing.unpack(tmp_path / "part.tar", tmp_path / "in")
    assert not (tmp_path / "escaped").exists()


# -- retention ----------------------------------------------------------------------------------------------
def test_a_backup_that_lies_in_the_store_alone_is_kept_by_retention(few, folder):
    upload()
    shutil.rmtree(catalogue.folder_of(few.backups["base"]))
    kept = {step.backup_id for step in prune.plan_prune(timezone.now()) if step.action == "keep"}
    assert few.backups["base"].pk in kept


def test_what_prune_removes_here_is_doomed_there_and_fetching_spares_it(few, folder, settings, capsys):
    upload()
    incremental = few.backups["incremental"]
    step = prune.Step("remove", incremental.pk, "test")
    prune.apply(step, incremental)
    store_retention.doom_backups([incremental.pk], timezone.now())
    assert Upload.objects.filter(backup_id=incremental.pk, doomed_at=None).count() == 0
    assert manage(capsys, "fetch", str(incremental.pk))["counts"]["backups"] == 1
    assert Upload.objects.filter(backup_id=incremental.pk).exclude(doomed_at=None).count() == 0


def test_an_object_that_the_store_keeps_stays_known_with_the_reason(few, folder, monkeypatch):
    upload()
    key = Upload.objects.filter(backup_id=None).first().key
    monkeypatch.setattr(LocalStore, "delete", lambda self, keys: dict.fromkeys(keys, "AccessDenied: locked"))
    Upload.objects.filter(key=key).update(doomed_at=timezone.now() - timedelta(days=30))
    assert sweep().refused == {key: "AccessDenied: locked"}
    assert "the store keeps it: AccessDenied" in Upload.objects.get(key=key).error


def test_unusually_many_at_once_are_not_pruned(few, monkeypatch):
    """The clock jumped a year ahead: everything seems out of retention."""
    steps = [prune.Step("remove" if number < 9 else "keep", number, "x") for number in range(12)]
    monkeypatch.setattr(prune, "plan_for", lambda *_: steps)
    with pytest.raises(prune.Refused, match="9 of 12 backups would be removed at once") as caught:
        prune.prune(timezone.now() + timedelta(days=365))
    assert "is the clock right" in caught.value.hint
    prune.require_few(steps[4:], timezone.now())  # 5: a usual night after some days off


# -- commands and pages -------------------------------------------------------------------------------------
def test_parts_tell_where_each_lies(few, folder, capsys, keys):
    keys(NEW)
    backup = str(few.backups["base"].pk)
    before = manage(capsys, "parts", backup)
    assert {row["store"] for row in before["items"]} == {""}
    upload()
    after = manage(capsys, "parts", backup)
    assert {row["store"] for row in after["items"]} == {folder.url}
    assert {row["encrypted"] for row in after["items"]} == {"new"}
    assert after["counts"]["stored"] == 1


def test_the_store_is_compared_with_our_table(few, folder, capsys):
    upload()
    answer = manage(capsys, "store")
    assert answer["counts"]["missing"] == answer["counts"]["unknown"] == 0
    (folder.root / Upload.objects.filter(backup_id=None).first().key).unlink()
    (folder.root / "strange").write_text("x")
    with pytest.raises(SystemExit):
        call_command("backup", "store", "--json")
    counts = json.loads(capsys.readouterr().out)["counts"]
    assert (counts["missing"], counts["unknown"]) == (1, 1)
    with pytest.raises(SystemExit):
        call_command("backup", "store", "--repair")
    capsys.readouterr()
    upload()
    assert manage(capsys, "store")["counts"]["missing"] == 0
    assert (folder.root / "strange").exists(), "what is none of ours is left alone"


def test_a_key_is_made_that_can_be_used(capsys):
    call_command("backup", "key", "k1", "--json")
    [item] = json.loads(capsys.readouterr().out)["items"]
    assert sealing.read_keys(item["key"]).current == "k1"
    with pytest.raises(CommandError, match="no name of a key"):
        call_command("backup", "key", "a b")


def test_the_queue_and_the_store_are_pages_of_the_admin(few, folder, admin_client):
    upload()
    assert b"parts.json" in admin_client.get("/admin/recovery/upload/").content
    assert b"here, store" in admin_client.get("/admin/recovery/backup/").content


def test_jobs_end_quietly_where_another_run_is_at_work(few, folder, monkeypatch):
    from recovery import jobs

    def busy(*_):
        raise Busy("running")

    assert jobs.upload_wal_job()["objects"] > 0
    assert jobs.upload_backups_job()["stopped"] == ""
    monkeypatch.setattr(jobs, "upload", busy)
    assert jobs.upload_wal_job() == {"busy": True}
