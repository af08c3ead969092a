"""The store: killed at every step of an upload, away, spoilt, shared with a copy of us. What restored still does."""

import os
import shutil
import signal
import subprocess
import sys
from datetime import timedelta

import pytest
from django.conf import settings
from django.db import connection
from django.utils import timezone

from cockpit.servers.ports import free_port
from pg.errors import MisterSmithError
from recovery import catalogue, fetch, manifest, prune, sealing, store_retention, wal_archive
from recovery.fetch_plan import plan_fetch
from recovery.models import Backup, Upload
from recovery.physical import Options, describe_physical
from recovery.rekeying import rekey
from recovery.source import open_source
from recovery.stocktaking import take_stock
from recovery.store_retention import sweep
from recovery.stored import find_stored
from recovery.stores import s3 as s3_module
from recovery.upload import upload
from recovery.upload_queue import waiting
from tests.faults.test_recovery import DRIVER, killed
from tests.recovery.conftest import ROOT, backup_dir, environment_of, eventually
from tests.recovery.stores import (
    SYSTEM,
    few,
    make_backup,
    owner,
    seaweed,
    small_parts,
    spoiler,
    store,
    url,
    use_folder,
    use_s3,
)
from tests.recovery.test_wal_archive import segment

__all__ = ["backup_dir", "few", "owner", "seaweed", "small_parts", "spoiler", "store", "url"]  # fixtures
pytestmark = pytest.mark.django_db(transaction=True)

KEY, OTHER = sealing.make_key("k1"), sealing.make_key("k2")
SMALL = "from recovery import packing; packing.plan_parts.__defaults__ = (1 << 20,);"
UPLOAD = f"{SMALL} from recovery.upload import upload; upload()"
REKEY = "from recovery.rekeying import rekey; rekey()"
SWEEP = (
    "from django.utils import timezone; from datetime import timedelta; from recovery.store_retention import sweep;"
    "sweep(timezone.now() + timedelta(days=9))"
)


@pytest.fixture
def keys(monkeypatch):
    monkeypatch.setattr(settings, "BACKUP_ENCRYPTION_KEYS", KEY)
    monkeypatch.setenv("BACKUP_ENCRYPTION_KEYS", KEY)


@pytest.fixture
def folder(own_home, monkeypatch):
    use_folder(own_home, monkeypatch)
    return own_home / "nas"


def run_and_die(backup_dir, module, name, when, act):
    env = environment_of(
        backup_dir, connection_name(), BACKUP_STORE_URL=settings.BACKUP_STORE_URL,
        DJANGO_SETTINGS_MODULE="config.settings", PYTHONPATH=str(ROOT),
    )  # fmt: skip
    argv = [sys.executable, "-c", DRIVER, module, name, when, act]
    return subprocess.run(argv, cwd=ROOT, env=env, capture_output=True, text=True, timeout=120)


def connection_name():
    return connection.settings_dict["NAME"]


def restorable():
    """Return how many backups can be fetched whole from the store alone, by really fetching them."""
    found = find_stored(open_source())[0]
    for one in found:
        shutil.rmtree(catalogue.folder_of(one.backup), ignore_errors=True)
        fetch.fetch_backup(open_source(), one)
    return len(found)


STEPS = [
    ("recovery.packing", "pack", "after"),
    *(
        pytest.param(*step, marks=pytest.mark.deep)
        for step in [
            ("recovery.stores.local", "copy", "after"),
            ("recovery.upload", "send_index", "before"),
            ("recovery.upload", "enqueue", "after"),
            ("recovery.upload", "send_file", "before"),
            ("recovery.upload", "send_file", "after"),
            ("recovery.packing", "pack", "before"),
            ("recovery.sending", "seal", "after"),
            ("recovery.stores.local", "copy", "before"),
            ("recovery.stores.local", "write_sums", "after"),
            ("recovery.upload", "put", "after"),
            ("recovery.packing", "write_index", "after"),
            ("recovery.upload", "mark_all_stored", "before"),
        ]
    ),
]


@pytest.mark.parametrize(("module", "name", "when"), STEPS)
def test_an_upload_killed_at_any_step_goes_on_and_never_shows_half_a_backup(
    few, folder, keys, small_parts, backup_dir, faults, module, name, when
):
    killed(run_and_die(backup_dir, module, name, when, UPLOAD), faults, f"upload {when} {name}")
    shown = [one.backup.pk for one in find_stored(open_source())[0]]
    half = (
        Upload.objects.filter(backup_id__in=shown, uploaded_at=None)
        .exclude(key__endswith="parts.json")
        .count()
    )
    sent = upload()
    faults.did(uploads=Upload.objects.count(), restores=restorable())
    stock = take_stock(open_source(), read=True)
    faults.wrong(
        half_shown=half, waiting=waiting(settings.BACKUP_STORE_URL).objects, refused=len(sent.refused),
        damaged=len(stock.problems), not_stored=Backup.objects.filter(stored_at=None).count(),
        unrestorable=2 - len(find_stored(open_source())[0]),
        left_behind=len([path for path in (backup_dir / "outbox").rglob("*") if path.is_file()]),
    )  # fmt: skip


@pytest.mark.deep
@pytest.mark.parametrize(
    ("module", "name", "when"),
    [
        ("recovery.store_retention", "delete", "before"),
        ("recovery.store_retention", "delete", "after"),
        ("recovery.stores.local", "sum_of", "before"),
    ],
)
def test_deleting_killed_at_any_step_leaves_what_is_not_doomed(
    few, folder, backup_dir, faults, module, name, when
):
    upload()
    store_retention.doom_backups([few.backups["incremental"].pk], timezone.now())
    killed(run_and_die(backup_dir, module, name, when, SWEEP), faults, f"sweep {when} {name}")
    left = {one.backup.pk for one in find_stored(open_source())[0]}
    sweep(timezone.now() + timedelta(days=9))
    faults.did(restores=restorable())
    objects = [path for path in folder.rglob("part-*") if few.backups["incremental"].location in str(path)]
    faults.wrong(lost=int(few.backups["base"].pk not in left), left_behind=len(objects))


@pytest.mark.parametrize(
    ("module", "name", "when"),
    [
        ("recovery.rekeying", "reconnect", "before"),  # the object is there, our table does not know
        *(
            pytest.param(*step, marks=pytest.mark.deep)
            for step in [
                ("recovery.rekeying", "open_as_sent", "after"),
                ("recovery.rekeying", "seal", "after"),
                ("recovery.stores.local", "write_sums", "after"),
                ("recovery.rekeying", "update_index", "before"),
                ("recovery.packing", "save_index", "after"),
            ]
        ),
    ],
)
def test_an_encryption_anew_killed_at_any_step_goes_on_and_restores_meanwhile(
    few, folder, keys, small_parts, backup_dir, faults, monkeypatch, module, name, when
):
    """`keys` is the old one; the objects whose index is found already are read with both."""
    upload()
    both = f"{OTHER},{KEY}"
    monkeypatch.setattr(settings, "BACKUP_ENCRYPTION_KEYS", both)
    monkeypatch.setenv("BACKUP_ENCRYPTION_KEYS", both)
    killed(run_and_die(backup_dir, module, name, when, REKEY), faults, f"rekey {when} {name}")
    meanwhile, problems = restorable(), take_stock(open_source(), read=True).problems
    done = rekey()
    monkeypatch.setattr(settings, "BACKUP_ENCRYPTION_KEYS", OTHER)
    faults.did(objects=done.objects, restores=meanwhile + restorable())
    faults.wrong(
        unrestorable=4 - meanwhile - len(find_stored(open_source())[0]), damaged=len(problems),
        refused=len(done.refused), not_under_the_new_key=Upload.objects.exclude(key_id="k2").count(),
        problems=len(take_stock(open_source(), read=True).problems),
    )  # fmt: skip


@pytest.mark.deep
def test_a_large_object_killed_half_way_goes_on_at_the_part_where_it_was(
    few, seaweed, backup_dir, faults, monkeypatch
):
    use_s3(seaweed, monkeypatch, "killed half way")
    big = catalogue.folder_of(few.backups["base"]) / "data" / "big"
    big.write_bytes(os.urandom(12 << 20))
    backup = few.backups["base"]
    rewrite(backup)
    parts = "from recovery.stores import s3; s3.PART_BYTES = 5 << 20; store = s3.S3Store.parts_of;"
    die = (
        "import os, signal; real = s3.S3Store.send_parts\n"
        "def send(self, *given):\n"
        "    done = []\n"
        "    put = self.client.upload_part\n"
        "    def part(**named):\n"
        "        if len(done) == 1: os.kill(os.getpid(), signal.SIGKILL)\n"
        "        done.append(1)\n"
        "        return put(**named)\n"
        "    self.client.upload_part = part\n"
        "    return real(self, *given)\n"
        "s3.S3Store.send_parts = send\n"
        "from recovery.upload import upload; upload('backups')"
    )
    done = run_and_die(backup_dir, "recovery.jobs", "upload_some", "before", parts + die)
    assert done.returncode == -signal.SIGKILL, done.stderr
    faults.happened("upload of a large object killed")
    monkeypatch.setattr(s3_module, "PART_BYTES", 5 << 20)
    sent, real = [], s3_module.S3Store.send_parts

    def count(self, *given):
        put = self.client.upload_part
        monkeypatch.setattr(
            self.client, "upload_part", lambda **named: sent.append(named["PartNumber"]) or put(**named)
        )
        return real(self, *given)

    monkeypatch.setattr(s3_module.S3Store, "send_parts", count)
    upload("backups")
    faults.did(uploads=1)
    faults.wrong(sent_again=int(1 in sent), damaged=len(take_stock(open_source(), read=True).problems))


def rewrite(backup):
    """Make the manifest anew after its files were changed."""
    folder = catalogue.folder_of(backup)
    (folder / manifest.NAME).unlink()
    backup.manifest_sha256 = manifest.write_manifest(
        folder, describe_physical(backup, backup.completed_at, Options())
    )
    catalogue.save(backup)


def archive(few, number):
    """Let archive_command store one more segment, as PostgreSQL would; return its exit code."""
    name = f"0000000100000000{number:08X}"
    path = few.root / name
    path.write_bytes(segment(name, system=int(SYSTEM)))
    code = wal_archive.main(["push", str(path), str(few.root)])
    path.unlink()
    return code


@pytest.mark.deep
def test_an_hour_without_the_store_costs_the_archive_nothing(few, seaweed, faults, monkeypatch):
    """A segment and a run of the job each minute, S3 down; then it is back."""
    use_s3(seaweed, monkeypatch, "an hour")
    monkeypatch.setattr("partitions.s3.CONNECT_SECONDS", 1)
    upload("wal")
    with monkeypatch.context() as away:
        away.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{free_port()}")
        codes, stopped = [], 0
        for minute in range(60):
            codes.append(archive(few, 16 + minute))
            stopped += bool(upload("wal").stopped) if minute % 10 == 0 else 0
    faults.happened("store away", 60)
    queued = waiting(settings.BACKUP_STORE_URL).objects
    upload("wal")
    keys = {found.key for found in open_source().store.list("wal/0")}
    faults.did(uploads=queued)
    faults.wrong(
        archive_refused=sum(codes), silent=6 - stopped, lost=64 - len(keys),
        waiting=waiting(settings.BACKUP_STORE_URL).objects - Upload.objects.exclude(backup_id=None).count(),
    )  # fmt: skip


@pytest.mark.deep
def test_wrong_credentials_stop_uploads_only_and_are_said(few, seaweed, faults, monkeypatch):
    use_s3(seaweed, monkeypatch, "credentials")
    with monkeypatch.context() as wrong:
        wrong.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
        sent, code = upload(), archive(few, 16)
    faults.happened("credentials wrong")
    faults.wrong(
        archive_refused=code, not_said=int("does not let us in" not in sent.stopped), sent=sent.objects
    )
    upload()
    faults.did(uploads=Upload.objects.count())
    faults.wrong(waiting=waiting(settings.BACKUP_STORE_URL).objects)


@pytest.mark.parametrize("url", ["folder", pytest.param("S3", marks=pytest.mark.deep)], indirect=True)
@pytest.mark.parametrize("with_key", [False, True], ids=["plain", "encrypted"])
def test_a_flipped_bit_in_any_object_never_becomes_a_backup_or_wal(
    few, url, spoiler, faults, monkeypatch, with_key
):
    monkeypatch.setattr(settings, "BACKUP_ENCRYPTION_KEYS", KEY if with_key else "")
    upload()
    accepted = 0
    for key in list(Upload.objects.values_list("key", flat=True)):
        whole = spoiler.read(key)
        spoiler.flip_a_bit(key)
        faults.happened("bit flipped")
        shutil.rmtree(few.root, ignore_errors=True)
        accepted += was_accepted(key)
        spoiler.write(key, whole)
    faults.did(refusals=Upload.objects.count() - accepted, restores=restorable())
    faults.wrong(accepted=accepted)


def was_accepted(key):
    """Fetch what the object belongs to into an empty folder; tell whether that went through."""
    try:
        catalogue.make_folders()
        if key.startswith("wal/"):
            fetch.fetch_wal(open_source(), [key])
        else:
            fetch.fetch(plan_fetch(key.split("/")[1].partition("-")[2], with_wal=False))
    except (MisterSmithError, FileNotFoundError):
        return False
    return True


def test_with_a_wrong_key_nothing_comes_back_and_nothing_is_spoilt(few, folder, keys, faults, monkeypatch):
    upload()
    monkeypatch.setattr(
        settings, "BACKUP_ENCRYPTION_KEYS", KEY.partition(":")[0] + ":" + OTHER.partition(":")[2]
    )
    faults.happened("wrong key")
    found, warnings = find_stored(open_source())
    faults.wrong(accepted=len(found), not_said=2 - len(warnings))
    monkeypatch.setattr(settings, "BACKUP_ENCRYPTION_KEYS", KEY)
    faults.did(restores=restorable())
    faults.wrong(unrestorable=2 - len(find_stored(open_source())[0]))


def test_a_copy_of_the_installation_cannot_overwrite_what_is_stored(few, folder, faults):
    """Same settings, same names, other WAL: both go on from one moment."""
    upload()
    before = {path: path.read_bytes() for path in folder.rglob("*.gz")}
    Upload.objects.all().delete()
    for path in (few.root / "wal").glob("0*/*.gz"):
        path.unlink()
    for number in range(1, 5):
        name = f"0000000100000000{number:08X}"
        (few.root / name).write_bytes(segment(name, system=int(SYSTEM), fill=b"y"))
        wal_archive.push(str(few.root / name), str(few.root))
        faults.happened("segment of a copy")
    sent = upload()
    faults.did(refusals=len(sent.refused))
    faults.wrong(
        accepted=4 - len(sent.refused), replaced=sum(path.read_bytes() != raw for path, raw in before.items())
    )


@pytest.mark.parametrize("days", [-365, 365])
def test_a_clock_that_jumped_removes_nothing_here_or_there(few, folder, faults, monkeypatch, days):
    """Nine nights of verified backups: a year later all but the newest two seem out of retention."""
    for number in range(9):
        backup = make_backup("base", 1)
        backup.started_at = backup.completed_at = timezone.now() - timedelta(days=9 - number)
        backup.status, backup.verified_at = "verified", backup.completed_at
        catalogue.save(backup)
    upload()
    now, refused = timezone.now() + timedelta(days=days), 0
    monkeypatch.setattr("django.utils.timezone.now", lambda: now)
    faults.happened("clock jumped")
    archive(few, 16)
    sent = upload()
    try:
        prune.prune(now)
    except prune.Refused:
        refused = 1
    swept = sweep()
    faults.did(uploads=sent.objects, restores=restorable())
    faults.wrong(
        not_refused=int(days > 0 and not refused), deleted=swept.deleted, lost=11 - len(find_stored(open_source())[0]),
        lost_here=11 - Backup.objects.count(), waiting=waiting(settings.BACKUP_STORE_URL).objects,
    )  # fmt: skip


@pytest.mark.deep  # 20 s until the server that was killed takes objects again
def test_a_store_killed_in_the_middle_of_an_upload_is_waited_for(
    few, seaweed, faults, monkeypatch, small_parts
):
    use_s3(seaweed, monkeypatch, "killed server")
    real = s3_module.S3Store.send_whole

    def kill_before_the_third(self, path, key, *given):
        if "part-00003" in key and not faults.faults["store killed"]:
            faults.kill("store", seaweed)
        return real(self, path, key, *given)

    monkeypatch.setattr(s3_module.S3Store, "send_whole", kill_before_the_third)
    assert upload("backups").stopped
    monkeypatch.setattr(s3_module.S3Store, "send_whole", real)
    seaweed.start()
    eventually(lambda: not upload("backups").stopped, 120)
    faults.did(uploads=Upload.objects.exclude(uploaded_at=None).count())
    faults.wrong(damaged=len(take_stock(open_source(), read=True).problems))
