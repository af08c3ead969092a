"""Wait until the archive holds the WAL that a backup needs."""

import time
from collections.abc import Callable

from recovery.errors import RecoveryError
from recovery.models import Backup
from recovery.receiving import receives
from recovery.server import Session
from recovery.wal import Archive, Segment, open_archive

ARCHIVE_WAIT_SECONDS = 120
POLL_SECONDS = 0.1


def archives_here(session: Session, archive: Archive, backup: Backup) -> bool:
    """Tell whether the server's WAL goes to our folder; where it does nowhere, or elsewhere, WAL comes along."""
    is_owner = archive.system_identifier in ("", backup.system_identifier)
    if is_owner and receives(session):
        return True
    command = session.execute("SELECT current_setting('archive_command', true)").fetchone()[0] or ""  # type: ignore[index]
    mode = session.execute("SHOW archive_mode").fetchone()[0]  # type: ignore[index]
    return bool(mode != "off" and is_owner and str(archive.place) in command)


def wait_for_wal(archive: Archive, backup: Backup) -> None:
    """Return when the archive holds every segment that the backup needs. Raises RecoveryError after two minutes."""
    wait_until_archived(lambda: missing_wal(archive, backup))


def wait_for_segment(archive: Archive, name: str) -> None:
    """Return when the archive holds segment `name`. Raises RecoveryError after two minutes."""
    wait_until_archived(lambda: None if archive.path(name).exists() else name)


def wait_until_archived(find_missing: Callable[[], str | None]) -> None:
    deadline = time.monotonic() + ARCHIVE_WAIT_SECONDS
    while missing := find_missing():
        if time.monotonic() > deadline:
            raise RecoveryError(
                f"WAL segment {missing} was not archived within {ARCHIVE_WAIT_SECONDS} s",
                "see pg_stat_archiver and the server's log for what archive_command says",
            )
        time.sleep(POLL_SECONDS)


def missing_wal(archive: Archive, backup: Backup) -> str | None:
    """Return the first segment of the backup's own range that is not archived, None where all are."""
    if not archive.segment_bytes:
        archive = open_archive()
    if not archive.segment_bytes:
        return "of its beginning"
    first, last = (
        (lsn or 0) // archive.segment_bytes for lsn in (backup.start_lsn, (backup.end_lsn or 1) - 1)
    )
    for number in range(first, last + 1):
        name = Segment(backup.timeline or 1, number).name(archive.segment_bytes)
        if not archive.path(name).exists():
            return name
    return None
