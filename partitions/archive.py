"""Write a partition to a file, prove that the file holds it, and copy it away. Nothing here drops anything.

The proof is a restore: the file is loaded into a temporary table, and rows and checksum of that are compared with those
of the partition, taken in the snapshot that was written. A row in partitions.archives is made before its file and turns
`verified` after the proof; one that stayed `writing` belongs to a run that died, and the next one clears it away.
"""

import logging
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from uuid import UUID

from django.conf import settings
from django.core.exceptions import ImproperlyConfigured
from django.db import connection, transaction
from django.utils import timezone

from partitions import upload
from partitions.archive_file import digest_of, label_of, read_file, write_file, write_label
from partitions.catalog import QUERIES, quoted
from partitions.errors import ArchiveDamaged, ArchiveFailed, PartitionError, StaleArchive
from partitions.models import Archive
from partitions.plan import Step
from pg.errors import MisterSmithError, Refused
from pg.uuid7 import uuid7

logger = logging.getLogger(__name__)
# COPY's text must not depend on who writes it
NEUTRAL = (
    "SET LOCAL timezone = 'UTC'; SET LOCAL datestyle = 'ISO, YMD'; SET LOCAL intervalstyle = 'postgres';"
    " SET LOCAL bytea_output = 'hex'; SET LOCAL extra_float_digits = 1"
)


def folder() -> Path:
    """Return the archive folder. Raises ImproperlyConfigured where the project has not set one."""
    path = getattr(settings, "PARTITIONS_ARCHIVE_DIR", None)
    if not path:
        raise ImproperlyConfigured("set PARTITIONS_ARCHIVE_DIR to the folder that archived partitions go to")
    return Path(path)


def path_of(archive: Archive) -> Path:
    return folder() / archive.location


def archive_partition(step: Step) -> Archive:
    """Return a verified archive of the step's partition as it is now, copied to the object store if there is one.

    Safe to repeat: what a run that died has left is cleared away, and what lacks only its copy is only copied.
    Raises ArchiveFailed (disk full, store away), ArchiveDamaged (the file does not hold what was read).
    """
    if connection.in_atomic_block:
        raise Refused("archiving takes snapshots of its own: it cannot run inside a transaction")
    found = leaf_of(step)
    clear_unfinished(found["oid"])
    known = usable_archive(found["oid"])
    if known is None or known.uploaded_to or not upload.is_configured():
        known = write_archive(step, found["oid"])
    copy_away(known)
    return known


def leaf_of(step: Step) -> dict[str, Any]:
    """Return what the catalog says of the step's partition. One query. Raises PartitionError when it is gone."""
    found = find_leaf(step)
    if found is None:
        raise PartitionError(f"{step.partition} is not there any more", "run `manage.py partitions plan`")
    return found


def find_leaf(step: Step) -> dict[str, Any] | None:
    parameters = {
        "table": step.table,
        "partition": step.partition,
        "quoted": quoted(step.partition),
    }
    rows = QUERIES.run("leaf", parameters)
    return rows[0] if rows else None


def usable_archive(oid: int) -> Archive | None:
    """Return the newest verified archive of that very table."""
    rows = Archive.objects.filter(partition_oid=oid, state=Archive.State.VERIFIED, dropped_at=None)
    return rows.order_by("-archive_id").first()


def clear_unfinished(oid: int) -> None:
    """Remove what runs that died have left of archiving this table. The caller holds the table's lock."""
    for archive in Archive.objects.filter(partition_oid=oid, state=Archive.State.WRITING):
        remove_files(archive)
        archive.delete()


def remove_files(archive: Archive) -> None:
    path = path_of(archive)
    for one in (path, path.with_name(path.name + ".part"), label_of(path)):
        one.unlink(missing_ok=True)


def write_archive(step: Step, oid: int) -> Archive:
    archive = begin(step, oid)
    try:
        write_rows(archive)
        prove(archive)
        write_label(path_of(archive), label(archive))
    except (OSError, MisterSmithError) as error:
        remove_files(archive)
        archive.delete()
        if isinstance(error, MisterSmithError):
            raise
        raise ArchiveFailed(
            f"{step.partition} was not archived: {error}",
            f"make room in {folder()}, or set PARTITIONS_ARCHIVE_DIR to another disk; nothing was dropped",
        ) from error
    archive.state = Archive.State.VERIFIED
    archive.save()
    logger.info("archived %s: %s rows, %s bytes", step.partition, archive.row_count, archive.size_bytes)
    return archive


def begin(step: Step, oid: int) -> Archive:
    found = QUERIES.run("columns", {"quoted": quoted(step.partition)})[0]
    archive_id: UUID = uuid7()
    return Archive.objects.create(
        archive_id=archive_id,
        table_name=step.table,
        partition_name=step.partition,
        partition_oid=oid,
        lower_time=step.lower,
        upper_time=step.upper,
        location=f"{step.table}/{step.partition}-{archive_id.hex[-12:]}.copy.gz",
        columns=found["columns"],
        table_bytes=found["size_bytes"],
    )


def write_rows(archive: Archive) -> None:
    """Write the file, and note rows and checksum of the same snapshot."""
    with transaction.atomic(), connection.cursor() as cursor:
        cursor.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")
        cursor.execute(NEUTRAL)
        measure(archive)
        names = column_list(archive.columns)
        with cursor.copy(
            f"COPY (SELECT {names} FROM ONLY {quoted(archive.partition_name)}) TO STDOUT"
        ) as rows:
            written = write_file(path_of(archive), (bytes(block) for block in rows))
    archive.size_bytes, archive.sha256 = written.size_bytes, written.sha256


def measure(archive: Archive) -> None:
    found = checksum_of(archive.partition_name, archive.columns)
    archive.row_count, archive.checksum = found


def checksum_of(table: str, columns: list[str]) -> tuple[int, str]:
    """Return rows and checksum. Reads the whole table."""
    row = QUERIES.run("checksum", {"quoted": quoted(table), "columns": columns})[0]
    return row["row_count"], row["checksum"]


def column_list(columns: Iterable[str]) -> str:
    return ", ".join(map(connection.ops.quote_name, columns))


def prove(archive: Archive) -> None:
    """Load the file and compare. Raises ArchiveDamaged."""
    names = column_list(archive.columns)
    with transaction.atomic(), connection.cursor() as cursor:
        cursor.execute(
            f"CREATE TEMPORARY TABLE archive_proof ON COMMIT DROP AS"
            f" SELECT {names} FROM ONLY {quoted(archive.partition_name)} WITH NO DATA"
        )
        load(archive, "archive_proof")
        found = checksum_of("pg_temp.archive_proof", archive.columns)
    if found != (archive.row_count, archive.checksum) or digest_of(path_of(archive)) != archive.sha256:
        raise ArchiveDamaged(f"{path_of(archive)} does not hold what {archive.partition_name} holds")
    archive.verified_at = timezone.now()


def load(archive: Archive, target: str) -> None:
    """COPY the file's rows into `target`, a quoted name."""
    with connection.cursor() as cursor:
        cursor.execute(NEUTRAL)
        with cursor.copy(f"COPY {target} ({column_list(archive.columns)}) FROM STDIN") as rows:
            for block in read_file(path_of(archive)):
                rows.write(block)


def label(archive: Archive) -> dict[str, Any]:
    fields = ["table_name", "partition_name", "lower_time", "upper_time", "columns"]
    fields += ["row_count", "checksum", "sha256", "size_bytes"]
    return {
        "format": "COPY text, gzip",
        "archive_id": archive.pk,
        **{name: getattr(archive, name) for name in fields},
    }


def copy_away(archive: Archive) -> None:
    """Copy the file and its label to the object store, where one is registered and has not got them."""
    store = upload.store()
    if store is None or archive.uploaded_to:
        return
    path = path_of(archive)
    with told(f"{archive.partition_name} was not copied to the object store"):
        store.put(label_of(path), f"partitions/{archive.location}.json")
        archive.uploaded_to = store.put(path, f"partitions/{archive.location}")
    archive.save(update_fields=["uploaded_to"])


@contextmanager
def told(what: str) -> Iterator[None]:
    try:
        yield
    except (OSError, MisterSmithError) as error:
        hint = "; ".join(filter(None, [getattr(error, "hint", ""), "the next run tries again"]))
        raise ArchiveFailed(f"{what}: {error}", f"{hint}; the partition stays where it is") from error


# -- is it still good? --------------------------------------------------------------------------------------
def check_file(archive: Archive) -> None:
    """Raise ArchiveDamaged, and mark the archive so, unless the file is the one that was verified.

    A file that is gone here is fetched from the object store first; that a store is away (Unreachable) marks nothing.
    """
    path = path_of(archive)
    problem = None
    try:
        if not path.exists():
            fetch(archive, path)
        if digest_of(path) != archive.sha256:
            problem = f"{path} has changed since it was verified"
    except OSError as error:
        problem = f"{path} cannot be read: {error}"
    except ArchiveDamaged as error:
        problem = str(error)
    if problem:
        archive.state, archive.error = Archive.State.DAMAGED, problem
        archive.save(update_fields=["state", "error"])
        hint = "the partition is still there, the next run archives it anew"
        if archive.dropped_at is not None:
            hint = "put the file back from a copy of it, then run `manage.py partitions archive --check`"
        raise ArchiveDamaged(problem, hint)


def fetch(archive: Archive, path: Path) -> None:
    """Copy the file from the object store. It is here when it is the one that was verified, or not at all."""
    store = upload.store()
    if store is None or not archive.uploaded_to:
        raise FileNotFoundError("it is gone, and no copy is known")
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    try:
        store.get(f"partitions/{archive.location}", part)
        if digest_of(part) != archive.sha256:
            raise ArchiveDamaged(f"{archive.uploaded_to} is not the file that was verified")
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def check_rows(archive: Archive) -> None:
    """Raise StaleArchive, and mark it so, unless the partition holds exactly what was archived. Reads it whole."""
    found = checksum_of(archive.partition_name, archive.columns)
    if found != (archive.row_count, archive.checksum):
        archive.state = Archive.State.STALE
        archive.save(update_fields=["state"])
        raise StaleArchive(f"{archive.partition_name} has changed since it was archived")


def check_archives() -> list[tuple[Archive, str | None]]:
    """Read every archive's file again; return each with its problem. One that is found good again is verified again.

    Where a file is in the object store only and that is away, the problem says so, and the state stays.
    """
    found: list[tuple[Archive, str | None]] = []
    states = (Archive.State.VERIFIED, Archive.State.DAMAGED)
    for archive in Archive.objects.filter(state__in=states):
        problem = None
        try:
            check_file(archive)
            if archive.state == Archive.State.DAMAGED:
                archive.state, archive.error = Archive.State.VERIFIED, None
                archive.save(update_fields=["state", "error"])
        except MisterSmithError as error:
            problem = str(error)
        found.append((archive, problem))
    return found
