"""Keys are rotated to the end: all that lies in the store comes under the new one, and the old one can go."""

import json
import os
import shutil

import psycopg
import pytest
from django.conf import settings
from django.core.management import CommandError, call_command
from django.utils import timezone

from operators.models import AuditEntry
from pg.errors import Unreachable
from recovery import jobs, packing, sealing
from recovery.errors import Busy, NoKey
from recovery.fetch import fetch
from recovery.fetch_plan import plan_fetch
from recovery.manifest import sha256_of
from recovery.models import Upload
from recovery.pages import about_keys
from recovery.rekeying import plan_rekey, rekey
from recovery.source import open_source
from recovery.stocktaking import repair_store, take_stock
from recovery.store_lock import changing_store
from recovery.store_retention import sweep
from recovery.stored import find_stored
from recovery.stores.local import LocalStore
from recovery.upload import upload
from recovery.wal import open_archive
from tests.recovery.stores import few, owner, seaweed, small_parts, spoiler, store, url, use_folder
from tests.recovery.test_upload import keys, lose_everything_here, manage

__all__ = ["few", "keys", "owner", "seaweed", "small_parts", "spoiler", "store", "url"]  # fixtures
OLD, NEW = sealing.make_key("old"), sealing.make_key("new")


@pytest.fixture
def folder(own_home, monkeypatch):
    return LocalStore(use_folder(own_home, monkeypatch))


def fetched(few):
    """Bring everything back by the store alone, with the keys that there are; return how many backups."""
    lose_everything_here(few)
    fetch(plan_fetch(str(few.backups["incremental"].pk)))
    return len(list((few.root / "base").glob("[!.]*")))


def test_after_it_the_old_key_is_not_needed_any_more(few, url, keys, small_parts, capsys):
    keys(OLD)
    upload()
    keys(NEW, OLD)
    plan = manage(capsys, "rekey", "--dry-run")
    assert plan["counts"]["objects"] == Upload.objects.count()
    assert "under key old; then under new" in plan["steps"][0]["why"]
    assert not Upload.objects.filter(key_id="new").exists(), "a plan changes nothing"
    answer = manage(capsys, "rekey", "--reason", "a laptop was stolen")
    assert (answer["counts"]["left"], answer["counts"]["refused"]) == (0, 0)
    assert AuditEntry.objects.get(action="recovery.rekey").reason == "a laptop was stolen"
    keys(NEW)
    assert take_stock(open_source(), read=True).problems == []
    assert fetched(few) == 2


def test_what_was_never_encrypted_is_encrypted(few, folder, keys):
    upload()
    keys(NEW)
    assert [group.key_id for group in plan_rekey()] == [None]
    assert rekey().refused == {}
    assert fetched(few) == 2, "without --allow-plain"


def test_the_index_names_its_parts_as_they_are_now(few, folder, keys):
    keys(OLD)
    upload()
    keys(NEW, OLD)
    rekey()
    for found in find_stored(open_source())[0]:
        for part in found.index.parts:
            row = Upload.objects.get(key=f"{found.backup.location}/{part.name}")
            assert (part.sha256, part.size_bytes, part.key_id) == (row.sha256, row.stored_bytes, "new")


def test_it_goes_on_where_it_was_stopped_and_a_mixed_state_restores(
    few, folder, keys, small_parts, monkeypatch
):
    """The store goes away after each number of objects in turn."""
    keys(OLD)
    upload()
    keys(NEW, OLD)
    real, left = LocalStore.put, []

    def put(self, *given, **named):
        if not left:
            raise Unreachable("the cable", "plug it in")
        left.pop()
        return real(self, *given, **named)

    monkeypatch.setattr(LocalStore, "put", put)
    while plan_rekey():
        left.append(1)
        done = rekey()
        assert done.objects == 1 or not done.stopped
        assert take_stock(open_source(), read=True).problems == []
    monkeypatch.undo()


def test_a_table_that_forgot_all_in_the_middle_takes_both_keys_up(
    few, folder, keys, small_parts, monkeypatch
):
    keys(OLD)
    upload()
    keys(NEW, OLD)
    rows = Upload.objects.filter(backup_id=few.backups["base"].pk, key__contains="/part-0000")
    Upload.objects.exclude(pk__in=rows[:2]).update(doomed_at=timezone.now())
    assert rekey().objects == 2
    Upload.objects.all().delete()
    upload()
    assert set(rows.values_list("key_id", flat=True)) == {"old", "new"}, "nothing was sent again"
    rekey()
    keys(NEW)
    assert take_stock(open_source(), read=True).problems == []


def test_what_is_damaged_or_somebody_else_s_is_left_and_named(few, folder, keys, capsys):
    keys(OLD)
    upload()
    row = Upload.objects.filter(key__contains="wal/0").first()
    path = folder.root / row.key
    path.write_bytes(path.read_bytes()[:-1] + b"?")
    before = path.read_bytes()
    keys(NEW, OLD)
    with pytest.raises(SystemExit):
        call_command("backup", "rekey", "--json")
    answer = json.loads(capsys.readouterr().out)
    assert (answer["counts"]["refused"], answer["counts"]["left"]) == (1, 1)
    assert row.key in answer["warnings"][0]
    assert path.read_bytes() == before


def test_an_object_that_was_put_there_by_somebody_else_is_not_vouched_for(few, folder, keys):
    upload()
    row = Upload.objects.filter(key__contains="wal/0").first()
    strange = few.root / "catalogue" / f"{few.backups['base'].pk}.json"
    folder.put(strange, row.key, sha256_of(strange), replace=True)
    keys(NEW)
    assert "is another object than the one that was sent" in rekey().refused[row.key]


def test_what_is_doomed_or_still_on_its_way_waits(few, folder, keys):
    keys(OLD)
    upload()
    keys(NEW, OLD)
    base = few.backups["base"].pk
    Upload.objects.filter(backup_id=base, key__endswith=packing.INDEX).update(
        uploaded_at=None, sha256=None, stored_bytes=None, key_id=None
    )
    Upload.objects.filter(backup_id=few.backups["incremental"].pk).update(doomed_at=timezone.now())
    rekey()
    rows = Upload.objects.exclude(backup_id=None)
    assert set(rows.values_list("key_id", flat=True)) == {"old", None}
    assert set(Upload.objects.filter(backup_id=None).values_list("key_id", flat=True)) == {"new"}


def test_without_a_key_and_without_a_store_it_says_so(few, folder, keys, monkeypatch):
    with pytest.raises(NoKey, match="BACKUP_ENCRYPTION_KEYS is not set"):
        rekey()
    monkeypatch.setattr(settings, "BACKUP_STORE_URL", "")
    with pytest.raises(CommandError, match="BACKUP_STORE_URL is not set"):
        call_command("backup", "rekey")


def test_repair_rekey_and_sweep_exclude_each_other(few, folder, keys, own_session):
    keys(NEW)
    upload()
    own_session.execute("SELECT pg_advisory_lock(hashtext('recovery.store'), hashtext('change'))")
    for work in (rekey, lambda: repair_store(open_source())):
        with pytest.raises(Busy, match="of the store is running"):
            work()
    Upload.objects.update(doomed_at=timezone.now() - timezone.timedelta(days=30))
    assert sweep().deleted == 0, "the next run does it"
    own_session.execute("SELECT pg_advisory_unlock_all()")
    with changing_store():
        pass
    assert sweep().deleted > 0


def test_the_workers_do_what_the_page_orders(few, folder, keys, settings):
    keys(OLD)
    upload()
    keys(NEW, OLD)
    assert about_keys().startswith("The first key is new; encrypted otherwise: ")
    assert jobs.rekey_job()["objects"] == Upload.objects.count()
    assert about_keys() == "All that lies in the store is encrypted with new: no other key is needed."
    row = Upload.objects.filter(key__contains="wal/0").first()
    (folder.root / row.key).write_bytes(b"damaged")
    (folder.root / Upload.objects.filter(key__contains="wal/0").last().key).unlink()
    found = jobs.repair_store_job()
    assert (found["missing"], found["damaged"]) == (1, 1)
    upload()
    assert take_stock(open_source(), read=True).problems == []
    shutil.rmtree(few.root / "base")
    assert jobs.fetch_job(str(few.backups["incremental"].pk)) == {"backups": 2, "wal_files": 0}


def test_a_damaged_object_of_which_there_is_no_file_here_is_left(few, folder):
    upload()
    row = Upload.objects.filter(key__contains="wal/0").first()
    (open_archive().place / row.key).unlink()
    (folder.root / row.key).write_bytes(b"half of it")
    assert list(repair_store(open_source(), read=True).damaged) == [row.key]
    assert (folder.root / row.key).read_bytes() == b"half of it", "the last there is"
    assert Upload.objects.get(pk=row.pk).uploaded_at is not None


@pytest.fixture
def own_session(db):
    with psycopg.connect(os.environ["DATABASE_URL"], autocommit=True) as session:
        yield session


def test_a_folder_s_object_is_whole_wherever_its_replacement_was_killed(folder, tmp_path, monkeypatch):
    """A file and its SHA-256 are two files: between their replacements the sum knows both."""
    for name in ("one", "two"):
        (tmp_path / name).write_text(name)
    sums = {name: sha256_of(tmp_path / name) for name in ("one", "two")}
    folder.put(tmp_path / "one", "x", sums["one"])

    class Killed(BaseException):
        pass

    def die(*_):
        raise Killed

    for step, expected in (("LocalStore.publish", "one"), ("sync_folder", "two")):
        with monkeypatch.context() as patch:
            patch.setattr(f"recovery.stores.local.{step}", die)
            with pytest.raises(Killed):
                folder.put(tmp_path / "two", "x", sums["two"], replace=True)
        assert folder.get("x", tmp_path / f"got-{expected}").sha256 == sums[expected]
        assert (tmp_path / f"got-{expected}").read_text() == expected
