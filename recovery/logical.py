"""Make a logical backup: pg_dump in directory format, the roles, what is in it, and a manifest over all of it.

The dump and our own counting read one exported snapshot, so that a restore can be compared row for row although writers
went on. Everything is made in a `.partial-` folder; the manifest is written last, then the folder gets its name.
"""

import logging
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

from django.utils import timezone

from pg.errors import MisterSmithError
from recovery import catalogue, manifest
from recovery.catalogue import Status
from recovery.contents import QUERIES, Contents, list_tables, lock_tables, read_contents
from recovery.errors import NoSpace
from recovery.models import Backup
from recovery.server import Server, Session, exclusive, home_server, require_database, server_version
from recovery.tidying import tidy
from recovery.tools import Tools, find_tools, run, running

log = logging.getLogger(__name__)
MARGIN = 1.2  # more room than the last backup of a database of this size took
LEAST_BYTES = 16 << 20
LOCK_WAIT = "60s"
APPLICATION = "mistersmith backup"


def back_up(jobs: int | None = None) -> Backup:
    """Make one logical backup of the control plane's database; return it, complete and not yet verified.

    `jobs` is how many tables are dumped at once, by default one per CPU core, at most 4. Raises Busy, UnfitTools and
    NoSpace before anything is written; after that a failure of any kind leaves an entry `failed` that says why, and
    no files. Running it again is always safe.
    """
    server = home_server()
    with exclusive(server) as session:
        require_database(server, session)
        end_leftover_dumps(server, session)
        backups = tidy()
        tools = find_tools(session.info.server_version // 10000)
        backup = begin(server, session, tools)
        require_space(backup, [other for other in backups if other.kind == backup.kind])
        with failure_noted(backup):
            make(backup, server, session, tools, jobs or default_jobs())
        log.info("%s: %s rows, %s bytes", backup, sum(backup.row_counts.values()), backup.size_bytes)
    return backup


def default_jobs() -> int:
    return min(4, os.cpu_count() or 1)


def begin(server: Server, session: Session, tools: Tools) -> Backup:
    """Return the entry of the backup that is about to be made; it is not saved yet."""
    row = session.execute("SELECT pg_database_size(current_database())").fetchone()
    backup = Backup(
        database_name=server.database,
        server_version=server_version(session),
        tool_version=tools.version,
        database_bytes=row[0],  # type: ignore[index]
    )
    backup.location = f"logical/{backup.started_at:%Y%m%dT%H%M%SZ}-{backup.pk}"
    return backup


def require_space(backup: Backup, earlier: list[Backup]) -> None:
    """Raise NoSpace when the backup folder's disk has less room than the backup is likely to take."""
    free, needed = shutil.disk_usage(catalogue.root()).free, expected_bytes(backup.database_bytes, earlier)
    if free < needed:
        raise NoSpace(
            f"{catalogue.root()} has {free >> 20} MB free, the backup may need {needed >> 20} MB",
            "free some room, set MISTERSMITH_BACKUP_DIR to a larger disk, or run `manage.py backup prune`",
        )


def expected_bytes(database_bytes: int, earlier: list[Backup]) -> int:
    """Return how much room to ask for: the ratio of the newest earlier backup, or the database's own size."""
    measured = [backup for backup in earlier if backup.size_bytes and backup.database_bytes]
    ratio = (measured[0].size_bytes or 0) / measured[0].database_bytes if measured else 1.0
    return int(database_bytes * ratio * MARGIN) + LEAST_BYTES


@contextmanager
def failure_noted(backup: Backup) -> Iterator[None]:
    """Save the entry as running; when the block fails, as failed, with no files left. The error goes on."""
    catalogue.save(backup)
    try:
        yield
    except BaseException as error:
        shutil.rmtree(catalogue.partial_of(backup), ignore_errors=True)
        if not catalogue.is_stored(backup):
            backup.status, backup.completed_at = Status.FAILED, None
            backup.error = explain(error)
            catalogue.save(backup)
        raise


def make(backup: Backup, server: Server, session: Session, tools: Tools, jobs: int) -> None:
    """Dump, count, write the manifest, move the folder to its place, save the entry as complete."""
    folder = catalogue.partial_of(backup)
    folder.mkdir(mode=0o700)
    contents, database = dump(folder, server, session, tools, jobs)
    dump_globals(folder / "globals.sql", server, session, tools)
    backup.row_counts, completed_at = contents.row_counts, max(timezone.now(), backup.started_at)
    body = describe(backup, database, contents, completed_at)
    backup.manifest_sha256 = manifest.write_manifest(folder, body)
    backup.size_bytes = manifest.size_of(folder)
    session.execute("SELECT 1")  # the lock is ours until here, or this fails
    publish(folder, catalogue.folder_of(backup))
    backup.status, backup.completed_at = Status.COMPLETE, completed_at
    catalogue.save(backup)


def dump(
    folder: Path, server: Server, session: Session, tools: Tools, jobs: int
) -> tuple[Contents, dict[str, Any]]:
    """Run pg_dump and read the same snapshot beside it; return its contents and how the database was made."""
    session.execute("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
    try:
        snapshot = session.execute("SELECT pg_export_snapshot()").fetchone()[0]  # type: ignore[index]
        refs = list_tables(session)
        lock_tables(session, refs)
        argv = [
            tools.program("pg_dump"), "--format=directory", f"--jobs={jobs}", f"--file={folder / 'dump'}",
            f"--snapshot={snapshot}", f"--lock-wait-timeout={LOCK_WAIT}", "--no-password",
            f"--dbname={server.conninfo(server.database)}",
        ]  # fmt: skip
        with running(argv, server.environment(APPLICATION)):
            contents, database = read_contents(session, refs), describe_database(session)
        return contents, database
    finally:
        if not session.closed:
            session.execute("ROLLBACK")


def dump_globals(path: Path, server: Server, session: Session, tools: Tools) -> None:
    """Write roles and tablespaces, for a new server; only a superuser sees the passwords' digests."""
    is_superuser = session.execute("SELECT current_setting('is_superuser') = 'on'").fetchone()[0]  # type: ignore[index]
    argv = [tools.program("pg_dumpall"), "--globals-only", f"--file={path}", "--no-password",
            f"--dbname={server.conninfo(server.database)}"]  # fmt: skip
    run(argv if is_superuser else [*argv, "--no-role-passwords"], server.environment(APPLICATION))


def describe_database(session: Session) -> dict[str, Any]:
    """Return name, encoding, locale and roles of the session's database. One query."""
    version = session.info.server_version
    locale = "datlocale" if version >= 170_000 else "daticulocale"
    cursor = session.execute(QUERIES.text("database", locale=locale))
    names = [column.name for column in cursor.description or ()]
    return dict(zip(names, cursor.fetchone() or (), strict=True))


def describe(
    backup: Backup, database: dict[str, Any], contents: Contents | None, completed_at: datetime
) -> dict[str, Any]:
    """Return the manifest's body: enough to restore and verify from the folder alone. `contents` None: not read."""
    return {
        "backup_id": str(backup.pk),
        "kind": str(backup.kind),
        "database": database,
        "server_version": backup.server_version,
        "tool_version": backup.tool_version,
        "started_at": backup.started_at.isoformat(),
        "completed_at": completed_at.isoformat(),
        "database_bytes": backup.database_bytes,
        "row_counts": backup.row_counts,
        "contents": contents.to_json() if contents else None,
    }


def publish(partial: Path, folder: Path) -> None:
    """Give the finished folder its name: the one step that makes it a backup."""
    manifest.sync_folder(partial)
    partial.rename(folder)
    manifest.sync_folder(folder.parent)


def end_leftover_dumps(server: Server, session: Session) -> None:
    """End the pg_dump that a killed run left behind. Hold the recovery lock: then none is at work."""
    session.execute(
        QUERIES.text("end_leftover_dumps"), {"database": server.database, "application": APPLICATION}
    )


def explain(error: BaseException) -> str:
    """Return the error for the catalogue, with its hint where it has one."""
    hint = error.hint if isinstance(error, MisterSmithError) else ""
    return f"{str(error) or type(error).__name__}{f' (HINT: {hint})' if hint else ''}"
