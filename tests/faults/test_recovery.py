"""Backups of the server: killed at every step, spoilt, out of room, on two timelines. What was restorable stays so."""

import os
import shutil
import signal
import subprocess
import sys

import psycopg
import pytest
from django.utils import timezone

from cockpit.servers import Postgres, Running
from pg import account
from recovery import archiving, catalogue, physical, prune, recover
from recovery.cluster import QUIET
from recovery.continuity import look_at_archive
from recovery.errors import Busy, Damaged, NotReachable
from recovery.models import Backup
from recovery.physical import back_up_server
from recovery.pitr import plan_recovery
from recovery.server import exclusive
from recovery.target import Target
from tests.recovery.conftest import ROOT, backup_dir, eventually
from tests.recovery.story import SMALL, live, place, story, told

__all__ = ["backup_dir", "live", "place", "story", "told"]  # fixtures

# ends itself by kill -9 the first time that a function is called, or after that call
DRIVER = """
import os, signal, sys
import django
django.setup()
from importlib import import_module
module, name, when, act = sys.argv[1:5]
owner = import_module(module)
real = getattr(owner, name)
def die(*arguments, **named):
    if when == "after":
        real(*arguments, **named)
    os.kill(os.getpid(), signal.SIGKILL)
setattr(owner, name, die)
exec(act)
"""
BACK_UP = "from recovery.physical import back_up_server; back_up_server()"
PRUNE = "from django.utils import timezone; from recovery.prune import prune; prune(timezone.now())"


def run_and_die(story, backup_dir, module, name, when, act, **more):
    env = {
        **os.environ, "DATABASE_URL": story.running.server.url(), "MISTERSMITH_BACKUP_DIR": str(backup_dir),
        "DJANGO_SETTINGS_MODULE": "config.settings", "PYTHONPATH": str(ROOT), **more,
    }  # fmt: skip
    argv = [sys.executable, "-c", DRIVER, module, name, when, act]
    return subprocess.run(argv, cwd=ROOT, env=env, capture_output=True, text=True, timeout=120)


def killed(done, faults, what):
    assert done.returncode == -signal.SIGKILL, done.stderr
    faults.happened(f"{what} killed")


def is_free(story):
    try:
        with exclusive(story.server):
            return True
    except (Busy, psycopg.OperationalError):
        return False


@pytest.mark.deep
@pytest.mark.parametrize(
    ("module", "name", "when"),
    [
        ("recovery.physical", "copy_server", "before"),
        ("recovery.physical", "copy_server", "after"),
        ("recovery.physical", "check_copy", "after"),
        ("recovery.physical", "wait_for_wal", "after"),
        ("recovery.manifest", "write_manifest", "after"),
        ("recovery.physical", "publish", "before"),
        ("recovery.physical", "publish", "after"),
    ],
)
def test_a_backup_killed_at_any_step_costs_nothing_but_itself(
    live, place, backup_dir, faults, module, name, when
):
    before = plan_recovery(Target("name", "late")).backup.pk
    killed(run_and_die(live, backup_dir, module, name, when, BACK_UP), faults, f"backup {when} {name}")
    eventually(lambda: is_free(live))
    faults.wrong(unrestorable=plan_recovery(Target("name", "late")).backup.pk != before)
    backup = back_up_server(incremental=True)
    faults.did(backups=1)
    left = [path.name for path in (backup_dir / "base").iterdir() if path.name.startswith(".")]
    running = Backup.objects.filter(status="running").count()
    live.write("after the kill")
    live.switch()
    rows = live.rows_in(plan_recovery(Target("name", "after the kill")), place)
    faults.wrong(
        left_behind=len(left), still_running=running, lost_rows=live.moments["after the kill"].rows - rows
    )
    assert backup.status == "complete"


@pytest.mark.deep
@pytest.mark.parametrize(
    ("module", "name", "when"),
    [
        ("recovery.catalogue", "forget", "before"),
        ("recovery.catalogue", "forget", "after"),
        ("shutil", "rmtree", "before"),
        ("recovery.prune", "prune_wal", "before"),
        ("recovery.manifest", "sync_folder", "before"),
    ],
)
def test_pruning_killed_at_any_step_leaves_what_restores(
    live, place, backup_dir, faults, module, name, when, settings
):
    """Everything but the newest two is out of retention; the base under the incremental one is not."""
    old = [back_up_server(), back_up_server()]
    newest = back_up_server()
    for backup in (*old, newest):
        backup.status, backup.verified_at = "verified", timezone.now()
        catalogue.save(backup)
    live.write("newest")
    live.switch()
    keep_little(settings)
    few = {f"MISTERSMITH_BACKUP_KEEP_{name}": "0" for name in ("DAYS", "WEEKS", "MONTHS")}
    done = run_and_die(live, backup_dir, module, name, when, PRUNE, **few, MISTERSMITH_BACKUP_KEEP_NEWEST="1")
    killed(done, faults, f"prune {when} {name}")
    eventually(lambda: is_free(live))
    rows = live.rows_in(plan_recovery(Target("name", "newest")), place)
    prune.prune(timezone.now())
    faults.did(restores=1)
    left = [path.name for path in (backup_dir / "base").iterdir() if path.name.startswith(".")]
    faults.wrong(lost_rows=live.moments["newest"].rows - rows, left_behind=len(left))


def keep_little(settings):
    for name in ("DAYS", "WEEKS", "MONTHS"):
        setattr(settings, f"BACKUP_KEEP_{name}", 0)
    settings.BACKUP_KEEP_NEWEST = 1


@pytest.mark.deep
@pytest.mark.parametrize(
    ("name", "when"),
    [("materialise", "before"), ("materialise", "after"), ("prepare", "after"), ("bring_up", "after"),
     ("examine", "before"), ("examine", "after")],
)  # fmt: skip
def test_a_restore_killed_at_any_step_is_done_anew(story, place, backup_dir, faults, name, when):
    act = (
        "from pathlib import Path; from recovery.pitr import *; from recovery.recover import recover;"
        f"recover(plan_recovery(Target('name', 'late')), Path({str(place / 'data')!r}))"
    )
    done = run_and_die(story, backup_dir, "recovery.recover", name, when, act)
    killed(done, faults, f"restore {when} {name}")
    assert not (place / "data").exists(), "what is half-made never has the name that was asked for"
    eventually(lambda: not servers_below(place))
    proof = recover.recover(plan_recovery(Target("name", "late")), place / "data")
    faults.did(restores=1)
    faults.wrong(
        lost_rows=story.moments["late"].rows - proof.row_counts["public.numbered"],
        left_behind=len([path for path in place.iterdir() if path.name != "data"]),
    )


def servers_below(place):
    """The leash ends the scratch server with the process that wanted it."""
    found = subprocess.run(["pgrep", "-f", f"postgres -D {place}"], capture_output=True, text=True)
    return found.stdout.split()


# -- damage -------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("file", ["data/global/pg_control", "data/backup_manifest", "manifest.json"])
def test_a_flipped_bit_in_any_file_stops_a_restore(story, place, faults, file):
    path = catalogue.folder_of(story.backups["base"]) / file
    raw = bytearray(path.read_bytes())
    raw[len(raw) // 3] ^= 1
    path.write_bytes(raw)
    faults.happened("bit flipped")
    refused = 0
    try:
        story.rows_in(plan_recovery(Target("end"), str(story.backups["base"].pk)), place)
    except (Damaged, NotReachable):
        refused = 1
    faults.did(refusals=refused)
    faults.wrong(left_behind=len(list(place.iterdir())), accepted=1 - refused)


def test_every_missing_segment_is_known_at_once_and_none_is_taken_for_the_end(story, place, faults):
    """With one WAL file gone PostgreSQL restores what is before it, promotes, and ends with 0."""
    needed = [
        segment.name(16 << 20) for segment in plan_recovery(Target(), str(story.backups["base"].pk)).segments
    ]
    unnoticed = silent = 0
    for name in needed[:-1]:
        path = physical.open_archive().path(name)
        hidden = path.with_suffix(".hidden")
        path.rename(hidden)
        faults.happened("segment lost")
        unnoticed += not any(problem.startswith(name) for problem in look_at_archive().problems)
        try:
            plan_recovery(Target(), str(story.backups["base"].pk))
            silent += 1
        except NotReachable:
            faults.did(refusals=1)
        hidden.rename(path)
    faults.wrong(unnoticed=unnoticed, silent_loss=silent, still_told=len(look_at_archive().problems))


def test_a_full_disk_while_backing_up_leaves_no_files_and_says_so(live, backup_dir, faults):
    """A file size limit stands in for a full disk: pg_basebackup is told the same way."""
    limited = f"ulimit -f 64; exec {sys.executable} manage.py backup base"
    env = {**os.environ, "DATABASE_URL": live.running.server.url(), "MISTERSMITH_BACKUP_DIR": str(backup_dir)}
    done = subprocess.run(
        ["bash", "-c", limited], cwd=ROOT, env=env, capture_output=True, text=True, timeout=120
    )
    faults.happened("disk full")
    assert done.returncode == 2
    assert "disk" in done.stderr
    assert "HINT" in done.stderr
    left = [path for path in (backup_dir / "base").iterdir() if path.name.startswith(".")]
    back_up_server()
    faults.did(backups=1)
    faults.wrong(left_behind=len(left), unrestorable=plan_recovery(Target("name", "late")).timeline != 1)


# -- timelines ----------------------------------------------------------------------------------------------
@pytest.fixture
def promoted(live, place):
    """The server was restored to `middle` and goes on as timeline 2, archiving into the same place."""
    recover.recover(plan_recovery(Target("name", "middle")), place / "data")
    home = place / "second"
    (home / "postgres").mkdir(parents=True)
    (home / "postgres" / "password").write_text(live.running.server.password())
    (place / "data").rename(home / "postgres" / "data")
    home.chmod(0o711)
    running = Running(Postgres(home, settings=SMALL, archive=live.root)).start()
    yield running
    running.stop()


def test_two_timelines_are_told_apart(live, place, promoted, faults):
    """After a restore to an earlier moment the abandoned WAL and the new one lie in one archive."""
    faults.happened("promotion")
    second = type(live)(promoted, live.root, dict(live.moments), dict(live.backups))
    second.write("second")
    second.switch()
    eventually(lambda: physical.open_archive().histories().ancestors)
    assert not look_at_archive().problems
    rows = second.rows_in(plan_recovery(Target("name", "second")), place)
    newest = plan_recovery(Target())
    old = plan_recovery(Target("name", "late", timeline=1))
    faults.did(restores=2)
    faults.wrong(
        lost_rows=second.moments["second"].rows - rows,
        wrong_timeline=int(newest.timeline != 2),
        lost_on_the_old_one=live.moments["late"].rows - second.rows_in(old, place),
    )
    with pytest.raises(NotReachable, match="no restore point 'late'"):
        plan_recovery(Target("name", "late"))


def test_a_base_backup_on_the_new_timeline_restores(live, place, promoted, faults, monkeypatch):
    faults.happened("promotion")
    second = type(live)(promoted, live.root, {}, {})
    for module in (physical, recover):
        monkeypatch.setattr(module, "home_server", lambda: second.server)
    backup = back_up_server()
    second.write("new")
    second.switch()
    plan = plan_recovery(Target("name", "new"))
    faults.did(restores=1)
    faults.wrong(
        lost_rows=second.moments["new"].rows - second.rows_in(plan, place),
        wrong_backup=int(plan.backup.pk != backup.pk or backup.timeline != 2),
    )


def test_a_copy_of_the_server_that_archives_into_the_same_place_is_refused(story, place, faults):
    """Same settings, same name of the segment, other contents: the first one stays as it is."""
    archive = physical.open_archive()
    before = {name: archive.path(name).read_bytes() for name in story.segments()}
    for name in before:
        clone = place / name
        clone.write_bytes(archive.read(name)[:-1] + b"!")
        argv = [sys.executable, "-IS", str(archiving.PROGRAM), "push", str(clone), str(story.root)]
        done = subprocess.run(argv, capture_output=True, text=True, timeout=60)
        faults.happened("segment of a copy")
        faults.wrong(accepted=int(done.returncode == 0))
        assert "does a copy of this server archive here?" in done.stderr
    faults.did(refusals=len(before))
    faults.wrong(replaced=sum(archive.path(name).read_bytes() != raw for name, raw in before.items()))


# -- by the guide's text ------------------------------------------------------------------------------------
def test_a_server_recovers_by_the_text_of_prepare_pitr(story, place, faults, monkeypatch):
    """The guide's way, without any of our programs but the one that fetches WAL."""
    from django.db import connection

    plan = plan_recovery(Target("time", story.moments["early"].time.isoformat()))
    recover.materialise(plan.chain, place / "data", plan.tools, sync=False)
    with connection.cursor() as cursor:
        cursor.execute("SELECT recovery.prepare_pitr(%s, %s)", [story.moments["early"].time, str(story.root)])
        text = cursor.fetchone()[0].replace("'pause'", "'promote'")
    faults.happened("server lost")
    with (place / "data" / "postgresql.auto.conf").open("a") as out:
        out.write(text)
    (place / "data" / "recovery.signal").touch()
    shutil.chown(place / "data" / "recovery.signal", account.server_user() or os.getuid())
    # ours would be on the command line, which wins
    quiet = {
        name: value for name, value in QUIET.items() if not name.startswith(("recovery_", "hot_standby"))
    }
    monkeypatch.setattr("recovery.cluster.QUIET", quiet)
    cluster = recover.Cluster(place / "data", recover.runnable(plan.tools), {}, "mistersmith")
    try:
        cluster.start()
        cluster.wait_promoted(60)
        with cluster.server.connect("mistersmith") as session:
            rows = session.execute("SELECT count(*) FROM public.numbered").fetchone()[0]
    finally:
        cluster.stop()
    faults.did(restores=1)
    faults.wrong(lost_rows=story.moments["early"].rows - rows)
