"""A restore reaches exactly the moment that was asked for, or is refused before anything is begun."""

import pytest
from django.core.management import CommandError, call_command

from recovery import catalogue, wal_archive
from recovery.errors import Damaged, NotReachable, RestoreFailed, TargetInUse
from recovery.models import Backup, RestorePoint
from recovery.pitr import plan_recovery
from recovery.recover import recover
from recovery.target import Target
from recovery.wal import Histories, Span, lsn_text, parse_lsn
from tests.recovery.story import HAS_INCREMENTAL, MAJOR, needs_incremental


def target_at(kind, name, moment):
    values = {"time": moment.time.isoformat(), "lsn": moment.lsn, "xid": moment.xid, "name": name}
    return Target(kind, values[kind])


@pytest.mark.parametrize(
    ("kind", "name", "chain"),
    [("time", "early", 1), ("lsn", "early", 1), ("xid", "middle", 2), ("name", "late", 2)],
)
def test_a_restore_ends_at_exactly_the_row_that_was_asked_for(story, place, kind, name, chain):
    plan = plan_recovery(target_at(kind, name, story.moments[name]))
    assert len(plan.chain) == (chain if HAS_INCREMENTAL else 1), (
        "the newest backup that ended before the target"
    )
    assert story.rows_in(plan, place) == story.moments[name].rows


@pytest.mark.deep
@pytest.mark.parametrize("kind", ["time", "lsn", "xid", "name"])
@pytest.mark.parametrize("name", ["early", "middle", "late"])
@pytest.mark.parametrize("backup", ["base", "incremental", ""])
def test_every_kind_of_target_is_exact_from_every_backup(story, place, kind, name, backup):
    wanted = str(story.backups[backup].pk) if backup else ""
    target = target_at(kind, name, story.moments[name])
    if backup == "incremental" and name == "early":
        with pytest.raises(NotReachable, match=r"it ended later|is archived"):
            plan_recovery(target, wanted)
        return
    assert story.rows_in(plan_recovery(target, wanted), place) == story.moments[name].rows


def test_the_newest_moment_is_the_end_of_the_archive(story, place):
    plan = plan_recovery(Target())
    assert "recovery_target_lsn" in plan.settings, "without a target PostgreSQL takes a gap for the end"
    assert story.rows_in(plan, place) == story.moments["late"].rows + 1


# -- what PostgreSQL itself would take for success (notes of each in docs/recovery.md) -------------------------
def test_a_missing_segment_is_no_end_of_history(story):
    gap = story.segment_of(story.moments["middle"].lsn)
    gap.unlink()
    with pytest.raises(NotReachable, match=f"WAL segment {gap.name[:24]}"):
        plan_recovery(Target())
    with pytest.raises(NotReachable, match="is missing"):
        plan_recovery(target_at("time", "late", story.moments["late"]))


def test_what_lies_before_a_gap_is_still_reached(story, place):
    story.segment_of(story.moments["late"].lsn).unlink()
    plan = plan_recovery(target_at("lsn", "middle", story.moments["middle"]))
    assert story.rows_in(plan, place) == story.moments["middle"].rows


def test_a_target_before_the_backup_s_end_is_refused_or_an_older_backup_is_taken(story):
    early, newest = story.moments["early"], str(story.backups["incremental"].pk)
    for kind in ("time", "lsn"):
        with pytest.raises(NotReachable, match="it ended later"):
            plan_recovery(target_at(kind, "early", early), newest)
        assert plan_recovery(target_at(kind, "early", early)).backup.pk == story.backups["base"].pk


@pytest.mark.parametrize(
    ("target", "problem"),
    [
        (Target("time", "2999-01-01T00:00:00+00:00"), "in the future"),
        (Target("time", "2026-11-23T10:30:00"), "which time zone"),
        (Target("time", "yesterday"), "not a time"),
        (Target("time", "2001-01-01T00:00:00+00:00"), "it ended later"),
        (Target("lsn", "ffff/0"), "WAL is archived up to"),
        (Target("lsn", "x"), "not a position"),
        (Target("name", "nowhere"), "no restore point 'nowhere'"),
        (Target("xid", "4000000000"), "no commit of transaction"),
        (Target("xid", "x"), "not a transaction"),
        (Target(timeline=7), "timeline 7 does not go on from it"),
    ],
    ids=lambda value: str(value) if isinstance(value, Target) else "",
)
def test_what_cannot_be_reached_is_refused_with_the_reason(story, target, problem):
    with pytest.raises(NotReachable, match=problem):
        plan_recovery(target)


def test_a_time_after_the_newest_commit_is_refused(story):
    with story.connect() as session:
        now = session.execute("SELECT clock_timestamp()").fetchone()[0]
    with pytest.raises(NotReachable, match="the newest commit that is archived is of"):
        plan_recovery(Target("time", now.isoformat()))


def flip_a_bit(path):
    """Flip one that matters: in a run of zeros some copies of them are as good as others."""
    whole = path.read_bytes()
    for position in range(len(whole) // 8, len(whole)):
        path.write_bytes(whole[:position] + bytes([whole[position] ^ 1]) + whole[position + 1 :])
        try:
            wal_archive.read_stored(path)
        except ValueError:
            return


def test_a_damaged_segment_ends_the_restore_and_leaves_nothing(story, place):
    path = story.segment_of(story.moments["middle"].lsn)
    plan = plan_recovery(target_at("name", "late", story.moments["late"]), str(story.backups["base"].pk))
    flip_a_bit(path)
    with pytest.raises(RestoreFailed, match="is damaged"):
        story.rows_in(plan, place)
    assert list(place.iterdir()) == []


def test_a_flipped_bit_in_a_stored_file_is_found_before_anything_is_copied(story, place):
    file = next(catalogue.folder_of(story.backups["base"]).glob("data/base/*/PG_VERSION"))
    file.write_bytes(b"19\n")
    with pytest.raises(Damaged, match="PG_VERSION has other contents"):
        story.rows_in(plan_recovery(Target(), str(story.backups["base"].pk)), place)
    assert list(place.iterdir()) == []


@needs_incremental
def test_a_chain_without_its_base_is_refused(story):
    catalogue.remove(story.backups["base"])
    with pytest.raises(NotReachable, match=r"builds on .*, which is gone"):
        plan_recovery(Target())


def test_a_backup_of_another_major_version_is_refused(story, monkeypatch):
    for name in ("base", "incremental"):
        backup = Backup.objects.get(pk=story.backups[name].pk)
        backup.server_version = f"{MAJOR - 1}.3"
        catalogue.save(backup)
    with pytest.raises(
        NotReachable, match=rf"it is of PostgreSQL {MAJOR - 1}, the programs in .* are of {MAJOR}"
    ):
        plan_recovery(Target())


def test_a_restored_copy_never_writes_into_the_backup(story, place):
    """Hard links would: the copy's own changes, and the next restore of the chain fails."""
    plan = plan_recovery(Target())
    before = {
        path: path.stat().st_nlink for part in plan.chain for path in catalogue.folder_of(part).rglob("*")
    }
    story.rows_in(plan, place)
    assert {path.stat().st_nlink for path in before if path.is_file()} == {1}
    assert story.rows_in(plan_recovery(Target()), place) == story.moments["late"].rows + 1


# -- into a directory ---------------------------------------------------------------------------------------
def test_a_data_directory_is_made_proven_and_left_stopped(story, place):
    proof = recover(plan_recovery(Target()), place / "data")
    assert proof.problems == []
    assert proof.row_counts == {"public.numbered": story.moments["late"].rows + 1}
    assert proof.rto_seconds > 0
    assert (place / "data" / "PG_VERSION").is_file()
    assert not (place / "data" / "postmaster.pid").exists()
    assert not (place / "data" / "recovery.signal").exists()
    assert (place / "data" / "pg_wal" / "archive_status" / "00000002.history.ready").is_file()
    assert [path.name for path in place.iterdir()] == ["data"]


def test_a_directory_with_anything_in_it_is_left_alone(story, place):
    (place / "data").mkdir()
    (place / "data" / "precious").touch()
    with pytest.raises(TargetInUse, match="it is left as it is"):
        recover(plan_recovery(Target()), place / "data", replace=True)
    assert (place / "data" / "precious").exists()


def test_a_data_directory_is_replaced_only_when_told_and_no_server_runs_on_it(story, place):
    data = place / "data"
    data.mkdir()
    (data / "PG_VERSION").write_text("18\n")
    (data / "precious").touch()
    with pytest.raises(TargetInUse, match="a data directory"):
        recover(plan_recovery(Target()), data)
    (data / "postmaster.pid").touch()
    with pytest.raises(TargetInUse, match="a server runs on it"):
        recover(plan_recovery(Target()), data, replace=True)
    (data / "postmaster.pid").unlink()
    recover(plan_recovery(Target("end")), data, replace=True)
    assert not (data / "precious").exists()
    [old] = [path for path in place.iterdir() if path != data]
    assert (old / "precious").exists()


def test_the_plan_is_printed_and_nothing_is_done(story, place, capsys):
    call_command("backup", "restore", "--target-directory", str(place / "data"), "--dry-run")
    told = capsys.readouterr().out
    assert "replay" in told
    assert "WAL segments are there without a gap" in told
    assert list(place.iterdir()) == []


def test_a_moment_for_a_single_database_is_refused(story):
    with pytest.raises(CommandError, match="a moment needs --target-directory"):
        call_command("backup", "restore", "--target-database", "x", "--name", "late")


def test_the_catalogue_beside_the_data_is_enough(story, place, monkeypatch):
    """The control plane's own database is gone with the server that is to be restored."""
    from django.db import OperationalError

    def gone(*_, **__):
        raise OperationalError("connection refused")

    monkeypatch.setattr(catalogue, "read_rows", lambda warnings: warnings.append("gone") or [])
    monkeypatch.setattr(RestorePoint.objects, "filter", gone)
    plan = plan_recovery(Target("name", "late"))
    assert "gone" in plan.warnings
    assert story.rows_in(plan, place) == story.moments["late"].rows


# -- timelines, by themselves -------------------------------------------------------------------------------
HISTORY = Histories({2: [(1, 500)], 3: [(1, 500), (2, 900)], 4: [(1, 300)]})


@pytest.mark.parametrize(
    ("timeline", "lsn", "target", "path"),
    [
        (1, 100, 1, [Span(1, 100, None)]),
        (1, 100, 3, [Span(1, 100, 500), Span(2, 500, 900), Span(3, 900, None)]),
        (2, 600, 3, [Span(2, 600, 900), Span(3, 900, None)]),
        (1, 100, 4, [Span(1, 100, 300), Span(4, 300, None)]),
        (1, 500, 2, [Span(1, 500, 500), Span(2, 500, None)]),
        (1, 501, 2, []),
        (2, 600, 4, []),
        (3, 1000, 2, []),
        (1, 100, 9, []),
    ],
)
def test_the_path_over_timelines(timeline, lsn, target, path):
    assert HISTORY.path(timeline, lsn, target) == path


@pytest.mark.parametrize(
    ("timeline", "lsn", "newest"), [(1, 100, 4), (1, 400, 3), (1, 600, 1), (2, 600, 3), (4, 1, 4)]
)
def test_the_newest_timeline_goes_on_from_the_backup(timeline, lsn, newest):
    assert HISTORY.newest(timeline, lsn) == newest


@pytest.mark.parametrize("text", ["0/3000028", "A/FF", "FFFFFFFF/FFFFFFFF"])
def test_positions_are_read_and_written_as_postgresql_does(text):
    assert lsn_text(parse_lsn(text)) == text
