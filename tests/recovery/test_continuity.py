"""A gap or damage in the WAL archive is known before anybody needs the segment."""

import re
from datetime import UTC, datetime, timedelta

import pytest
from django.db import connection
from django.utils import timezone

from monitoring.alarms import ringing
from monitoring.registry import Check, run_check
from recovery import checks, figures
from recovery.continuity import look_at_archive
from recovery.jobs import look_at_archive_job
from recovery.models import ArchiveState, RestorePoint, WalSegment
from recovery.wal import open_archive


def readiness(path, target):
    with connection.cursor() as cursor:
        cursor.execute("SELECT * FROM recovery.validate_recovery_readiness(%s, %s)", [path, target])
        return {row[0]: (row[1], row[2]) for row in cursor.fetchall()}


def statuses(path, target):
    return {name: found[0] for name, found in readiness(path, target).items()}


def now_in_this_transaction():
    with connection.cursor() as cursor:
        cursor.execute("SELECT now()")
        return cursor.fetchone()[0]


READY = {
    "base_backup_exists": "PASS",
    "manifest": "WARN",
    "wal_continuity": "PASS",
    "target_time_feasible": "PASS",
}


def test_a_whole_archive_has_no_problem_and_is_read_once(story):
    first, second = look_at_archive(), look_at_archive()
    assert first.problems == second.problems == []
    since = min(WalSegment.objects.values_list("name", flat=True))
    assert first.needed == first.read == len([name for name in story.segments() if name >= since])
    assert since > story.segments()[0], "what is older than the base backup is not needed"
    assert second.read == 0
    assert look_at_archive(read_all=True).read == first.needed
    state = ArchiveState.objects.get()
    assert state.last_commit_at > story.moments["late"].time
    assert state.archived_lsn == first.archived_lsn
    assert set(RestorePoint.objects.values_list("name", flat=True)) == {"early", "middle", "late"}


def test_a_missing_segment_is_named_and_ends_what_can_be_reached(story):
    look_at_archive()
    gap = story.segment_of(story.moments["middle"].lsn)
    gap.unlink()
    look = look_at_archive()
    [problem] = look.problems
    assert problem.startswith(f"{gap.name[:24]}: missing")
    assert look.last_commit_at < story.moments["late"].time
    assert WalSegment.objects.get(name=gap.name[:24]).stored_bytes == 0


def test_the_look_that_finds_a_gap_rings_the_alarm_itself(story):
    """So it is an alarm within a minute: looks are a minute apart, and nobody waits for the rules' next turn."""
    look_at_archive_job()
    assert "gap in the WAL archive" not in [rule.name for rule in ringing()]
    story.segment_of(story.moments["middle"].lsn).unlink()
    look_at_archive_job()
    assert "gap in the WAL archive" in [rule.name for rule in ringing()]


@pytest.mark.parametrize("spoil", [
    lambda path: path.write_bytes(path.read_bytes()[:-9]),
    lambda path: path.write_bytes(b"no gzip"),
    lambda path: path.write_bytes(sorted(path.parent.glob("*.gz"))[0].read_bytes()),
], ids=["cut short", "overwritten", "another segment"])  # fmt: skip
def test_a_spoilt_segment_is_found_and_comes_right_when_it_is_mended(story, spoil):
    look_at_archive()
    path = story.segment_of(story.moments["late"].lsn)
    whole = path.read_bytes()
    spoil(path)
    assert len(look_at_archive().problems) == 1
    path.write_bytes(whole)
    assert look_at_archive().problems == []


def test_a_bit_that_flips_later_is_found_when_its_turn_comes(story):
    look_at_archive()
    path = story.segment_of(story.moments["late"].lsn)
    raw = bytearray(path.read_bytes())
    raw[-3] ^= 1
    path.write_bytes(raw)
    assert look_at_archive().problems == [], "read today already, and of the same size"
    WalSegment.objects.update(checked_at=timezone.now() - timedelta(days=1))
    assert len(look_at_archive().problems) == 1


def test_without_an_archive_or_a_backup_nothing_is_needed(db):
    assert look_at_archive().needed == 0
    assert ArchiveState.objects.count() == 0


# -- readiness ----------------------------------------------------------------------------------------------
def test_readiness_of_a_whole_backup(story):
    look_at_archive()
    base = story.backups["base"]
    for path in (
        str(base.pk),
        base.location,
        f"/anywhere/{base.location}/",
        f"/anywhere/{base.location}/data",
    ):
        assert statuses(path, story.moments["early"].time) == READY
    assert statuses("", story.moments["late"].time) == READY


@pytest.mark.parametrize(
    ("target", "message"),
    [
        (lambda story: timezone.now() + timedelta(hours=1), "in the future"),
        (lambda story: story.moments["before"].time, "before the backup's end"),
        (lambda story: now_in_this_transaction(), "reachable from"),
    ],
    ids=["in the future", "before the backup", "not archived yet"],
)
def test_a_target_that_cannot_be_reached_fails(story, target, message):
    look_at_archive()
    found = readiness(str(story.backups["base"].pk), target(story))
    assert found["target_time_feasible"][0] == "FAIL"
    assert message in found["target_time_feasible"][1]
    assert found["wal_continuity"][0] == "PASS"


def test_a_target_behind_a_gap_fails_and_one_before_it_passes(story):
    story.segment_of(story.moments["middle"].lsn).unlink()
    look_at_archive()
    base = str(story.backups["base"].pk)
    late, early = statuses(base, story.moments["late"].time), statuses(base, story.moments["early"].time)
    assert late["wal_continuity"] == early["wal_continuity"] == "FAIL"
    assert (late["target_time_feasible"], early["target_time_feasible"]) == ("FAIL", "PASS")


def test_what_was_looked_at_long_ago_is_a_warning_with_its_age(story):
    look_at_archive()
    ArchiveState.objects.update(checked_at=timezone.now() - timedelta(minutes=6))
    found = readiness("", story.moments["late"].time)
    assert found["wal_continuity"][0] == found["target_time_feasible"][0] == "WARN"
    assert re.search("last looked at 00:0[56]:.. ago", found["wal_continuity"][1])


def test_an_unknown_place_fails_everywhere(story):
    assert set(statuses("/nonexistent", story.moments["late"].time).values()) == {"FAIL"}


def test_a_backup_without_a_known_archive_is_not_ready(story):
    found = readiness("", story.moments["late"].time)
    assert found["wal_continuity"][0] == "FAIL"
    assert "nothing is known of this server's WAL archive" in found["wal_continuity"][1]


def test_timelines_are_followed_in_the_database_too(db):
    with connection.cursor() as cursor:
        cursor.execute("INSERT INTO recovery.timelines VALUES (2, 1, 500), (3, 2, 900), (4, 1, 300)")
        cursor.execute("SELECT recovery.newest_timeline(1, 100), recovery.newest_timeline(1, 400),"
                       " recovery.newest_timeline(1, 600), recovery.newest_timeline(2, 600)")  # fmt: skip
        assert cursor.fetchone() == (4, 3, 1, 3)
        cursor.execute(
            "INSERT INTO recovery.wal_segments (name, timeline, number, segment_bytes, stored_bytes, archived_at)"
            " SELECT t || '/' || n, t, n, 100, 1, now() FROM (VALUES (1, 1), (1, 2), (1, 3), (1, 4), (2, 5), (2, 6),"
            " (2, 7), (2, 8), (3, 9), (3, 11)) AS s (t, n)"
        )
        cursor.execute("SELECT timeline, number, problem FROM recovery.needed_segments(1, 310, 100)")
        found = cursor.fetchall()
    assert found == [(1, 3, None), (1, 4, None), *((2, n, None) for n in (5, 6, 7, 8)),
                     (3, 9, None), (3, 10, "missing"), (3, 11, None)]  # fmt: skip


# -- doctor -------------------------------------------------------------------------------------------------
def wal_findings():
    return run_check(Check("recovery.wal", checks.look_at_wal))


def test_doctor_tells_of_gaps_and_of_a_job_that_does_not_run(story):
    look_at_archive()
    assert [found.ok for found in wal_findings()] == [True]
    story.segment_of(story.moments["middle"].lsn).unlink()
    look_at_archive()
    gap, _ = wal_findings()
    assert not gap.ok
    assert "missing" in gap.detail
    ArchiveState.objects.update(checked_at=datetime.now(UTC) - timedelta(minutes=6), problems=[])
    assert [found.ok for found in wal_findings()] == [False]


def test_figures_are_there(story):
    assert list(figures.read_rpo_seconds()) == []
    look_at_archive()
    [(_, seconds)] = figures.read_rpo_seconds()
    assert seconds > 0
    assert list(figures.read_gaps()) == [({}, 0)]
    assert next(figures.read_failures())[1] >= 0
    assert open_archive().segment_bytes == 16 << 20


def test_the_look_never_waits_behind_a_backup_of_hours():
    from celery import current_app

    route = current_app.amqp.router.route
    assert route({}, "recovery.look_at_archive")["queue"].name == "mistersmith"
    assert route({}, "recovery.daily_backup")["queue"].name == "tasks"
