"""The figures of the recovery room for /metrics."""

from collections.abc import Iterator

from django.db import connection
from django.db.models import Count
from django.utils import timezone

from monitoring.registry import register_metric
from recovery.checks import Sample, newest_drill, newest_state, newest_verified, read_archiver
from recovery.contents import QUERIES
from recovery.models import Backup, TestResult, WalSegment


def register() -> None:
    register_metric(
        "mistersmith_backup_verified_age_seconds", "Age of the newest verified backup's data.", read_age
    )
    register_metric("mistersmith_backup_size_bytes", "Size of the newest verified backup.", read_size)
    register_metric("mistersmith_backups", "Backups by kind and status.", read_numbers)
    register_metric(
        "mistersmith_recovery_rpo_seconds", "Age of the newest archived commit.", read_rpo_seconds
    )
    register_metric("mistersmith_recovery_rpo_bytes", "WAL that is not archived yet.", read_rpo_bytes)
    register_metric("mistersmith_recovery_rto_seconds", "What the last passed drill took.", read_rto)
    register_metric("mistersmith_recovery_drill_age_seconds", "Since the last passed drill.", read_drill_age)
    register_metric("mistersmith_wal_archive_gaps", "WAL segments missing or damaged.", read_gaps)
    register_metric("mistersmith_wal_archive_failures_total", "Failed archive_command runs.", read_failures)
    register_metric(
        "mistersmith_replication_slot_lag_bytes", "WAL kept for a replication slot.", read_slot_lag
    )


def read_age() -> Iterator[Sample]:
    """No sample while nothing is verified: an alarm on its absence is the right one."""
    if newest := newest_verified():
        yield {"kind": newest.kind}, (timezone.now() - newest.started_at).total_seconds()


def read_size() -> Iterator[Sample]:
    if newest := newest_verified():
        yield {"kind": newest.kind}, newest.size_bytes or 0


def read_numbers() -> Iterator[Sample]:
    rows = Backup.objects.order_by().values("kind", "status").annotate(number=Count("pk"))
    for row in rows:
        yield {"kind": row["kind"], "status": row["status"]}, row["number"]


def read_rpo_seconds() -> Iterator[Sample]:
    """What a disaster now would lose, in time. No sample without an archive."""
    if (state := newest_state()) and state.last_commit_at:
        yield {}, (timezone.now() - state.last_commit_at).total_seconds()


def read_rpo_bytes() -> Iterator[Sample]:
    if state := newest_state():
        with connection.cursor() as cursor:
            cursor.execute("SELECT pg_current_wal_lsn() - '0/0'")
            yield {}, max(0.0, float(cursor.fetchone()[0]) - state.archived_lsn)


def read_rto() -> Iterator[Sample]:
    if (drill := newest_drill()) and drill.test_status == TestResult.Status.PASSED:
        yield {"type": drill.test_type}, float(drill.performance_metrics["rto_seconds"])


def read_drill_age() -> Iterator[Sample]:
    drills = TestResult.objects.filter(performance_metrics__has_key="rto_seconds", test_status="passed")
    if drill := drills.order_by("-test_started_at").first():
        yield {}, (timezone.now() - drill.test_started_at).total_seconds()


def read_gaps() -> Iterator[Sample]:
    if newest_state():
        yield {}, WalSegment.objects.exclude(problem=None).count()


def read_failures() -> Iterator[Sample]:
    yield {}, read_archiver()["failed_count"]


def read_slot_lag() -> Iterator[Sample]:
    """A receiver that is gone keeps WAL until the disk is full: see max_slot_wal_keep_size."""
    for row in QUERIES.run("slots"):
        yield {"slot": row["slot_name"]}, float(row["lag_bytes"])
