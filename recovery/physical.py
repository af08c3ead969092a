"""Make a base or an incremental backup of the whole server: pg_basebackup, its manifest checked, ours over all of it.

As with logical ones everything is made in a `.partial-` folder, the manifest is written last, then the folder gets its
name. A backup of a server that archives into our folder leaves its WAL to the archive, and is complete only when that
holds every segment up to its end; any other brings its WAL along, and restores to its own end only.
"""

import json
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from django.conf import settings
from django.utils import timezone

from pg.errors import Refused
from recovery import catalogue, manifest
from recovery.catalogue import Status
from recovery.chain import choose_parent, parent_of
from recovery.contents import QUERIES
from recovery.errors import Damaged
from recovery.logical import describe, failure_noted, publish, require_space
from recovery.models import Backup
from recovery.server import Server, Session, exclusive, home_server, server_version
from recovery.tidying import tidy
from recovery.tools import Tools, find_tools, run
from recovery.wal import open_archive, parse_lsn
from recovery.wal_waiting import (
    archives_here,
    wait_for_wal,
)

log = logging.getLogger(__name__)
Kind = Backup.Kind
INCREMENTAL_SINCE = 17
TAR_CHECK_SINCE = 18


@dataclass(frozen=True)
class Options:
    """`rate_mb` is MB per second, 0 without a limit. `compress` is pg_basebackup's, for instance "server-gzip:1";
    "" stores plain files, which incremental backups are combined from fastest. `checkpoint` "fast" begins at once,
    "spread" leaves the server's disk alone and may wait minutes."""

    rate_mb: int = 0
    compress: str = ""
    checkpoint: str = "fast"


def default_options() -> Options:
    return Options(settings.BACKUP_RATE_MB, settings.BACKUP_COMPRESS)


def back_up_server(incremental: bool = False, options: Options | None = None) -> Backup:
    """Make one base backup, or one that holds only what changed since the newest; return it, complete.

    Raises before anything is written Busy, UnfitTools, NoSpace, and Refused where the server cannot (tablespaces, an
    incremental one before PostgreSQL 17 or without summarize_wal) or nothing is there to build on. After that a failure
    leaves an entry `failed` that says why, and no files. Running it again is always safe.
    """
    server = home_server()
    with exclusive(server) as session:
        end_leftover_copies(server, session)
        backups = tidy()
        tools = find_tools(session.info.server_version // 10000)
        require_able(session, tools, incremental)
        backup = begin(server, session, tools)
        if incremental:
            backup.kind, backup.parent_id = Kind.INCREMENTAL, choose_parent(backup, backups).pk
        backup.location = f"base/{backup.started_at:%Y%m%dT%H%M%SZ}-{backup.pk}"
        require_space(backup, [other for other in backups if other.kind == backup.kind])
        with failure_noted(backup):
            make(backup, server, session, tools, options or default_options())
        log.info("%s: %s bytes", backup, backup.size_bytes)
    return backup


def require_able(session: Session, tools: Tools, incremental: bool) -> None:
    """Raise Refused or UnfitTools for what would fail later, or be restored wrongly."""
    tools.require("pg_basebackup", "pg_verifybackup")
    spaces = session.execute(
        "SELECT spcname FROM pg_tablespace WHERE spcname NOT IN ('pg_default', 'pg_global') ORDER BY 1"
    ).fetchall()
    if spaces:
        raise Refused(
            f"the server has tablespaces ({', '.join(name for (name,) in spaces)}): they are not supported",
            "move their tables to pg_default, or make logical backups: `manage.py backup logical`",
        )
    if not incremental:
        return
    if session.info.server_version < INCREMENTAL_SINCE * 10000:
        raise Refused(
            f"PostgreSQL {server_version(session)} has no incremental backups",
            "make a base backup: `manage.py backup base`; 17 and newer have them",
        )
    if session.execute("SHOW summarize_wal").fetchone()[0] != "on":  # type: ignore[index]
        raise Refused(
            "summarize_wal is off: the server does not know what changed",
            "ALTER SYSTEM SET summarize_wal = on; SELECT pg_reload_conf(); then make a base backup first",
        )


def begin(server: Server, session: Session, tools: Tools) -> Backup:
    """Return the entry of the backup that is about to be made; it is not saved yet."""
    row = session.execute(QUERIES.text("cluster")).fetchone()
    return Backup(
        kind=Kind.BASE,
        database_name=server.database,
        server_version=server_version(session),
        tool_version=tools.version,
        system_identifier=row[0],  # type: ignore[index]
        database_bytes=row[1],  # type: ignore[index]
    )


def make(backup: Backup, server: Server, session: Session, tools: Tools, options: Options) -> None:
    """Copy, check, wait for the WAL, write the manifest, move the folder to its place, save the entry as complete."""
    folder, archive = catalogue.partial_of(backup), open_archive()
    folder.mkdir(mode=0o700)
    backup.has_wal = not archives_here(session, archive, backup)
    copy_server(folder / "data", backup, server, tools, options)
    completed_at = max(timezone.now(), backup.started_at)
    read_range(backup, folder / "data")
    check_copy(folder / "data", tools, is_tar=bool(options.compress))
    if not backup.has_wal:
        wait_for_wal(archive, backup)
    backup.manifest_sha256 = manifest.write_manifest(folder, describe_physical(backup, completed_at, options))
    backup.size_bytes = manifest.size_of(folder)
    session.execute("SELECT 1")  # the lock is ours until here, or this fails
    publish(folder, catalogue.folder_of(backup))
    backup.status, backup.completed_at = Status.COMPLETE, completed_at
    catalogue.save(backup)


def copy_server(data: Path, backup: Backup, server: Server, tools: Tools, options: Options) -> None:
    argv = [
        tools.program("pg_basebackup"), f"--pgdata={data}", f"--checkpoint={options.checkpoint}", "--no-password",
        f"--wal-method={'fetch' if backup.has_wal else 'none'}", "--manifest-checksums=CRC32C",
        f"--label=mistersmith {backup.pk}", f"--dbname={server.conninfo(server.database)}",
        *(["--format=tar", f"--compress={options.compress}"] if options.compress else ["--format=plain"]),
        *([f"--max-rate={options.rate_mb}M"] if options.rate_mb else []),
    ]  # fmt: skip
    if backup.parent_id:
        argv.append(f"--incremental={catalogue.folder_of(parent_of(backup)) / 'data' / 'backup_manifest'}")
    run(argv, server.environment(application_of(server)))


def application_of(server: Server) -> str:
    """Return the name that pg_basebackup's sessions have; another installation's on the same server have another."""
    return f"mistersmith copy of {server.database}"[:63]


def end_leftover_copies(server: Server, session: Session) -> None:
    """End the pg_basebackup that a killed run left behind. Hold the recovery lock: then none is at work."""
    session.execute(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
        " WHERE backend_type = 'walsender' AND application_name = %s",
        [application_of(server)],
    )


def read_range(backup: Backup, data: Path) -> None:
    """Fill in timeline and positions from pg_basebackup's manifest. Raises Damaged."""
    try:
        body = json.loads((data / "backup_manifest").read_text("utf-8"))
        ranges = body["WAL-Ranges"]
        backup.timeline = int(ranges[-1]["Timeline"])
        backup.start_lsn = min(parse_lsn(found["Start-LSN"]) for found in ranges)
        backup.end_lsn = max(parse_lsn(found["End-LSN"]) for found in ranges)
    except (OSError, ValueError, KeyError, IndexError) as error:
        raise Damaged(f"pg_basebackup's manifest: {error!r}", "run the command again") from error


def check_copy(data: Path, tools: Tools, is_tar: bool) -> None:
    """Compare every file with pg_basebackup's manifest; before 18 a tar file is looked at when it is unpacked."""
    if is_tar and tools.major < TAR_CHECK_SINCE:
        return
    run([tools.program("pg_verifybackup"), "--no-parse-wal", "--exit-on-error", str(data)], {"LC_ALL": "C"})


def describe_physical(backup: Backup, completed_at: Any, options: Options) -> dict[str, Any]:
    """Return the manifest's body: enough to restore from the folder alone."""
    return {
        **describe(backup, {"name": backup.database_name}, None, completed_at),
        "parent_id": str(backup.parent_id) if backup.parent_id else None,
        "system_identifier": backup.system_identifier,
        "timeline": backup.timeline,
        "start_lsn": backup.start_lsn,
        "end_lsn": backup.end_lsn,
        "has_wal": backup.has_wal,
        "compress": options.compress,
    }


def may_copy() -> str:
    """Return what stands in the way of base backups on this server, "" where nothing does. One query."""
    with home_server().connect_anywhere() as session:
        able = session.execute(
            "SELECT rolsuper OR rolreplication FROM pg_roles WHERE rolname = current_user"
        ).fetchone()
        if not able or not able[0]:
            return (
                "the role of DATABASE_URL may not replicate (HINT: ALTER ROLE ... REPLICATION,"
                " or MISTERSMITH_BACKUP_SERVER=false for logical backups only)"
            )
        try:
            require_able(session, find_tools(session.info.server_version // 10000), incremental=False)
        except Refused as refused:
            return f"{refused} (HINT: {refused.hint})"
    return ""
