"""Do one step of a plan. Each is safe to repeat, whatever became of it the last time, and stops at what it must not do.

Before a partition is detached to be dropped it is marked, by its oid; only a marked table is ever dropped. Under the
policy `archive`, detaching wants a verified archive, and dropping wants it unharmed and equal to what the detached
table holds, which nobody can write to any more.
"""

import time
from collections.abc import Callable
from typing import Any

from django.db import connection, transaction
from django.utils import timezone

from partitions.archive import archive_partition, check_file, check_rows, find_leaf, usable_archive
from partitions.catalog import QUERIES, quoted
from partitions.errors import PartitionError, StaleArchive
from partitions.locks import Effort, elapsed_ms, patiently
from partitions.models import Archive, Mark, Policy
from partitions.plan import Rules, Step
from pg.errors import Refused

FROM_ARCHIVES = (Mark.Kind.LOADING, Mark.Kind.BROUGHT_BACK, Mark.Kind.RELEASING)


def execute(step: Step, rules: Rules) -> Effort:
    """Do the step; return what it cost. Raises PartitionError, Refused, or the database's error."""
    return ACTIONS[step.action](step, rules)


def create(step: Step, rules: Rules) -> Effort:
    """Make the partition, unless its range is covered meanwhile. Rows that wait in DEFAULT move along."""

    def work() -> int:
        with transaction.atomic(), connection.cursor() as cursor:
            cursor.execute(
                "SELECT partitions.create_range_partition(%s, %s, %s)", [step.table, step.lower, step.upper]
            )
            cursor.execute(
                "SELECT COALESCE(NULLIF(current_setting('partitions.lock_wait_ms', true), ''), '0')::int"
            )
            return int(cursor.fetchone()[0])

    return patiently(work)


def finalize(step: Step, rules: Rules) -> Effort:
    """Finish a detach that was interrupted. A person's, of a partition within retention, leaves him the table."""
    found = find_leaf(step)
    if found is None or not found["is_attached"]:
        return Effort(0)
    if found["mark"] is None:
        mark(step, found["oid"], Mark.Kind.EXPIRING if step.is_expired else Mark.Kind.KEPT)
    return take_out(step)


def archive(step: Step, rules: Rules) -> Effort:
    archive_partition(step)
    return Effort()


def detach(step: Step, rules: Rules) -> Effort:
    """Take the partition out, CONCURRENTLY where PostgreSQL lets us: readers and writers go on."""
    found = find_leaf(step)
    if found is None or not found["is_attached"]:
        return Effort(0)
    if found["mark"] not in FROM_ARCHIVES:
        if rules.on_expiry == Policy.OnExpiry.ARCHIVE and usable_archive(found["oid"]) is None:
            raise Refused(f"{step.partition} has no verified archive: not detached")
        mark(step, found["oid"], Mark.Kind.EXPIRING)
    return take_out(step)


def take_out(step: Step) -> Effort:
    """Detach; a try that was cut off on the way is finished by the next one."""

    def work() -> int:
        found = find_leaf(step)
        if found is None or not found["is_attached"]:
            return 0
        # PostgreSQL refuses CONCURRENTLY beside a DEFAULT partition
        how = "FINALIZE" if found["is_pending"] else "" if found["has_default"] else "CONCURRENTLY"
        started = time.monotonic()
        with connection.cursor() as cursor:
            cursor.execute(
                f"ALTER TABLE {quoted(step.table)} DETACH PARTITION {quoted(step.partition)} {how}"
            )
        return elapsed_ms(started)

    return patiently(work)


def drop(step: Step, rules: Rules) -> Effort:
    """Drop a detached and marked table. Under the policy `archive` only what its archive holds, row by row."""
    found = find_leaf(step)
    if found is None:
        return Effort(0)
    refuse_to_drop(step, found)
    kept = archive_to_keep(step, rules, found)
    return patiently(lambda: drop_once(step, found["oid"], kept))


def refuse_to_drop(step: Step, found: dict[str, Any]) -> None:
    if found["is_attached"]:
        raise Refused(f"{step.partition} is attached: not dropped")
    if found["mark"] is None or found["mark"] == Mark.Kind.KEPT:
        raise Refused(
            f"{step.partition} is not marked for removal: not dropped",
            "a table that merely has this name is left alone; drop it by hand if nobody needs it",
        )


def archive_to_keep(step: Step, rules: Rules, found: dict[str, Any]) -> Archive | None:
    """Return the archive that holds the table's rows; None where the policy asks for none. Raises ArchiveDamaged."""
    if found["mark"] in FROM_ARCHIVES:
        origin = Archive.objects.get(pk=found["archive_id"])
        check_file(origin)
        return origin
    if rules.on_expiry != Policy.OnExpiry.ARCHIVE:
        return None
    known = usable_archive(found["oid"])
    if known is None:
        raise Refused(f"{step.partition} has no verified archive: not dropped")
    check_file(known)
    try:
        check_rows(known)
    except StaleArchive:  # written to between archiving and detaching: once more, now that it is quiet
        known = archive_partition(step)
    return known


def drop_once(step: Step, oid: int, kept: Archive | None) -> int:
    """Drop the table and note it, in one transaction. It locks the tables that its foreign keys lead to, too."""
    started = time.monotonic()
    with transaction.atomic(), connection.cursor() as cursor:
        cursor.execute(f"LOCK TABLE {quoted(step.partition)} IN ACCESS EXCLUSIVE MODE")
        cursor.execute("SELECT to_regclass(%s)::oid::bigint", [quoted(step.partition)])
        if cursor.fetchone()[0] != oid:
            raise PartitionError(f"{step.partition} is another table now: not dropped")
        Mark.objects.filter(partition_oid=oid).delete()
        if kept is not None and kept.dropped_at is None:
            Archive.objects.filter(pk=kept.pk).update(dropped_at=timezone.now())
        cursor.execute(f"DROP TABLE {quoted(step.partition)}")
    return elapsed_ms(started)


def mark(step: Step, oid: int, kind: str, archive: Archive | None = None) -> None:
    """Note what the table of that oid is, or is to become."""
    QUERIES.run(
        "mark",
        {
            "oid": oid,
            "partition": step.partition,
            "table": step.table,
            "lower": step.lower,
            "upper": step.upper,
            "kind": kind,
            "archive_id": archive.pk if archive else None,
        },
    )


ACTIONS: dict[str, Callable[[Step, Rules], Effort]] = {
    "create": create,
    "finalize": finalize,
    "archive": archive,
    "detach": detach,
    "drop": drop,
}
