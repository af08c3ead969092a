"""Bring an archived partition back, read-only, and let it go again.

The rows are loaded into a table of its own that has the indexes of the parent, compared with the archive, checked
against the foreign keys, and attached last, so that nobody waits for the load. Where it stops, the mark `loading` tells
the next upkeep to clear it away, or the next attach to begin anew; the archive is never touched.
"""

from uuid import UUID

from django.core.exceptions import ValidationError
from django.db import IntegrityError, OperationalError, connection, transaction

from partitions.archive import check_file, checksum_of, load
from partitions.catalog import QUERIES, quoted, read_ranges, read_rules
from partitions.errors import ArchiveDamaged, Busy, PartitionError, UnknownTable
from partitions.locks import execute_patiently, patiently, table_lock
from partitions.models import Archive, Mark
from partitions.plan import Rules, Step
from partitions.steps import detach, drop, mark
from pg.errors import Refused


def find_archive(name: str) -> Archive:
    """Return the archive by its id or its partition's name, the newest that is not damaged. Raises UnknownTable."""
    rows = Archive.objects.exclude(state=Archive.State.WRITING)
    try:
        found = rows.filter(pk=UUID(name)).first()
    except (ValueError, ValidationError):
        found = rows.filter(partition_name=name).order_by("-dropped_at", "-archive_id").first()
    if found is None:
        raise UnknownTable(f"{name}: no archive", "list them: manage.py partitions list --archives")
    return found


def attach_archive(archive: Archive) -> str:
    """Make the archive's rows part of its table again, read-only; return the partition's name.

    Upkeep leaves it alone until `release_archive`. Safe to repeat. Raises Refused (it is there already, its range is
    taken, the table has lost a column), ArchiveDamaged, Busy.
    """
    if connection.in_atomic_block:
        raise Refused("attaching loads and locks in transactions of its own: it cannot run inside one")
    with table_lock(archive.table_name) as is_ours:
        if not is_ours:
            raise Busy(f"another run has {archive.table_name}", "try again when it is done")
        found = Mark.objects.filter(archive=archive, kind=Mark.Kind.BROUGHT_BACK).first()
        if found is not None:
            return found.partition_name
        refuse_to_attach(archive)
        check_file(archive)
        clear_interrupted(archive)
        leaf = load_leaf(archive)
        return attach_leaf(archive, leaf)


def refuse_to_attach(archive: Archive) -> None:
    if archive.dropped_at is None:
        raise Refused(f"{archive.partition_name} was not dropped: its rows are still in {archive.table_name}")
    for one in read_ranges(archive.table_name):
        if one.is_attached and one.lower < archive.upper_time and one.upper > archive.lower_time:
            raise Refused(
                f"{one.name} has the range of {archive.partition_name}",
                "let the other one go first, or read the archive's file with gzip and COPY",
            )
    missing = set(archive.columns) - set(
        QUERIES.run("columns", {"quoted": quoted(archive.table_name)})[0]["columns"]
    )
    if missing:
        raise Refused(
            f"{archive.table_name} has no column {', '.join(sorted(missing))} any more",
            "read the archive's file with gzip and COPY into a table of your own",
        )


def clear_interrupted(archive: Archive) -> None:
    for found in Mark.objects.filter(archive=archive):
        drop(step_of(archive, found.partition_name), rules_of(archive))


def step_of(archive: Archive, name: str) -> Step:
    return Step("drop", archive.table_name, name, "", archive.lower_time, archive.upper_time)


def rules_of(archive: Archive) -> Rules:
    return next((one for one in read_rules() if one.table == archive.table_name), Rules(archive.table_name))


def load_leaf(archive: Archive) -> str:
    """Make the table and fill it, in one transaction; return its name."""
    with transaction.atomic(), connection.cursor() as cursor:
        name = free_name(archive)
        cursor.execute(
            "SELECT partitions.create_leaf("
            "  p, %s, partitions.bound_text(p, %s), partitions.bound_text(p, %s))::oid::bigint"
            " FROM to_regclass(%s) p",
            [name.partition(".")[2], archive.lower_time, archive.upper_time, quoted(archive.table_name)],
        )
        oid = cursor.fetchone()[0]
        load(archive, quoted(name))
        if checksum_of(name, archive.columns) != (archive.row_count, archive.checksum):
            raise ArchiveDamaged(f"{archive.location} does not hold the {archive.row_count} rows it should")
        forbid_writing(name)
        mark(step_of(archive, name), oid, Mark.Kind.LOADING, archive)
    with connection.cursor() as cursor:
        cursor.execute(f"ANALYZE {quoted(name)}")
    return name


def free_name(archive: Archive) -> str:
    names = [archive.partition_name, *(f"{archive.partition_name}_{n}" for n in range(2, 10))]
    for name in names:
        if not QUERIES.run("leaf", {"table": "", "partition": name, "quoted": quoted(name)}):
            return name
    raise Refused(f"{archive.partition_name} and the names after it are taken")


def forbid_writing(name: str) -> None:
    with connection.cursor() as cursor:
        cursor.execute(
            f"CREATE TRIGGER archive_is_read_only BEFORE INSERT OR UPDATE OR DELETE ON {quoted(name)}"
            " FOR EACH ROW EXECUTE FUNCTION partitions.refuse_write()"
        )
        cursor.execute(
            f"CREATE TRIGGER archive_is_not_truncated BEFORE TRUNCATE ON {quoted(name)}"
            " FOR EACH STATEMENT EXECUTE FUNCTION partitions.refuse_write()"
        )


def attach_leaf(archive: Archive, name: str) -> str:
    step = step_of(archive, name)

    def work() -> int:
        with transaction.atomic(), connection.cursor() as cursor:
            cursor.execute(
                "SELECT partitions.attach_leaf("
                "  p, %s::regclass, partitions.bound_text(p, %s), partitions.bound_text(p, %s))"
                " FROM to_regclass(%s) p",
                [quoted(name), archive.lower_time, archive.upper_time, quoted(archive.table_name)],
            )
            Mark.objects.filter(archive=archive).update(kind=Mark.Kind.BROUGHT_BACK)
            cursor.execute("SELECT current_setting('partitions.lock_wait_ms')::int")
            return int(cursor.fetchone()[0])

    try:
        add_foreign_keys(archive, name)
        patiently(work)
    except (IntegrityError, PartitionError, OperationalError) as error:
        clear_interrupted(archive)
        if isinstance(error, IntegrityError):
            raise Refused(
                f"{archive.partition_name} refers to rows that are gone: {error}".strip(),
                "bring those rows back first, or read the archive's file with gzip and COPY",
            ) from error
        raise
    return step.partition


def add_foreign_keys(archive: Archive, name: str) -> None:
    """Check the parent's foreign keys beforehand, so that ATTACH need not do it while it blocks writers elsewhere."""
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT quote_ident(conname), pg_get_constraintdef(oid) FROM pg_constraint"
            " WHERE conrelid = to_regclass(%s) AND contype = 'f' AND conparentid = 0",
            [quoted(archive.table_name)],
        )
        keys = cursor.fetchall()
    for key, definition in keys:
        execute_patiently(f"ALTER TABLE {quoted(name)} ADD CONSTRAINT {key} {definition} NOT VALID")
        execute_patiently(f"ALTER TABLE {quoted(name)} VALIDATE CONSTRAINT {key}")


def release_archive(archive: Archive) -> None:
    """Let go what was brought back; its archive stays. Safe to repeat. Raises Refused, ArchiveDamaged, Busy."""
    with table_lock(archive.table_name) as is_ours:
        if not is_ours:
            raise Busy(f"another run has {archive.table_name}", "try again when it is done")
        found = Mark.objects.filter(archive=archive).first()
        if found is None:
            raise Refused(f"{archive.partition_name} is not attached from its archive")
        check_file(archive)
        step = step_of(archive, found.partition_name)
        Mark.objects.filter(archive=archive).update(kind=Mark.Kind.RELEASING)
        detach(step, rules_of(archive))
        drop(step, rules_of(archive))
