"""What doctor, alarms and /metrics learn of cross-system backups, and of drills of every kind."""

from collections.abc import Iterator
from datetime import datetime, timedelta

from django.db.models import Max
from django.utils import timezone

from monitoring.defaults import declare_alarm
from monitoring.registry import Finding, register_check, register_metric
from recovery.checks import Sample, in_words
from recovery.models import Backup, TestResult

LONGEST_AGE = timedelta(hours=26)  # made each night
LONGEST_DRILL_AGE = timedelta(hours=50)
HOUR = 3600


def register() -> None:
    register_check("recovery.cross", look_at_cross)
    register_metric(
        "mistersmith_cross_backup_age_seconds", "Age of the newest cross-system backup.", read_cross_age
    )
    register_metric(
        "mistersmith_recovery_drills_failed",
        "Kinds of restore drills of which the newest failed.",
        read_failed,
    )
    register_metric(
        "mistersmith_recovery_drill_passed_age_seconds",
        "Since a drill of each kind last passed.",
        read_passed_age,
    )


def declare_alarms() -> None:
    declare_alarm(
        "gap in the WAL archive",
        "mistersmith_wal_archive_gaps",
        warning=0,
        critical=0,
        description="A WAL segment is missing or damaged: no restore gets past it.",
        hint="manage.py backup base now, then manage.py backup wal says which one",
    )
    declare_alarm(
        "verified backup is old",
        "mistersmith_backup_verified_age_seconds",
        warning=26 * HOUR,
        critical=50 * HOUR,
        description="The newest backup that was proved by a restore.",
        hint="manage.py backup daily says what is wrong; is beat running?",
    )
    declare_alarm(
        "restore drill failed",
        "mistersmith_recovery_drills_failed",
        warning=0,
        description="The newest drill of a kind did not pass: a restore may not work.",
        hint="admin, Recovery, restore drills; manage.py backup drill says what is wrong",
    )


def newest_cross() -> Backup | None:
    """Return the newest finished cross-system backup. One query."""
    found = Backup.objects.filter(kind=Backup.Kind.CROSS_SYSTEM).exclude(completed_at=None)
    return found.order_by("-completed_at").first()


def look_at_cross() -> Iterator[Finding]:
    """Where there is a cross-system backup, there is a recent one, it is not damaged, and its drill passed."""
    newest, last = newest_cross(), newest_result(TestResult.Kind.CROSS_SYSTEM)
    if newest is None or newest.completed_at is None:
        yield Finding(True, "no cross-system backup yet: JetStream would be rebuilt from PostgreSQL")
        return
    age = timezone.now() - newest.completed_at
    is_well = newest.status != Backup.Status.DAMAGED and age <= LONGEST_AGE
    yield Finding(
        is_well,
        f"the newest cross-system backup is {in_words(age)} old, {newest.status}",
        "run `manage.py backup cross` and see what it says; is the schedule `recovery: cross-system backup` on?",
    )
    if last is not None and last.test_status != TestResult.Status.PASSED:
        yield Finding(
            False,
            f"its last drill {last.test_status}: {' '.join(last.error_messages or ['no reason'])}"[:300],
            "run `manage.py backup drill --cross` and see what it says",
        )


def newest_result(kind: str) -> TestResult | None:
    """Return the newest finished drill of a kind. One query."""
    return newest_results().get(kind)


def newest_results() -> dict[str, TestResult]:
    """Return the newest finished drill of each kind. One query."""
    rows = TestResult.objects.exclude(test_completed_at=None).order_by("test_type", "-test_started_at")
    return {row.test_type: row for row in rows.distinct("test_type")}


def kinds_of_drills() -> list[tuple[str, str, bool]]:
    """Return each kind of drill with how the newest one went, in words, and whether that is well. One query."""
    newest = newest_results()
    return [(label, *in_short(newest.get(kind))) for kind, label in TestResult.Kind.choices]


def in_short(row: TestResult | None) -> tuple[str, bool]:
    if row is None or row.test_completed_at is None:
        return "never drilled", True
    ago = in_words(timezone.now() - row.test_completed_at)
    if row.test_status != TestResult.Status.PASSED:
        return f"{row.test_status} {ago} ago: {' '.join(row.error_messages or ['no reason'])}"[:300], False
    seconds = row.performance_metrics.get("rto_seconds")
    return f"proven {ago} ago" + ("" if seconds is None else f", {seconds:.0f} s"), True


def newest_proof() -> TestResult | None:
    """Return the newest drill that passed and was measured, of whatever kind. One query."""
    passed = TestResult.objects.filter(test_status="passed", performance_metrics__has_key="rto_seconds")
    return passed.order_by("-test_completed_at").first()


def read_cross_age() -> Iterator[Sample]:
    """No sample while there is none."""
    if (newest := newest_cross()) and newest.completed_at:
        yield {}, (timezone.now() - newest.completed_at).total_seconds()


def read_failed() -> Iterator[Sample]:
    yield {}, sum(row.test_status == TestResult.Status.FAILED for row in newest_results().values())


def read_passed_age() -> Iterator[Sample]:
    passed = TestResult.objects.filter(test_status="passed").exclude(test_completed_at=None).order_by()
    for kind, newest in passed.values_list("test_type").annotate(newest=Max("test_completed_at")):
        yield {"type": kind}, since(newest)


def since(moment: datetime) -> float:
    return (timezone.now() - moment).total_seconds()
