"""A backup as commands print it."""

from typing import Any

from recovery import catalogue
from recovery.models import Backup
from recovery.wal import lsn_text


def row_of(backup: Backup) -> dict[str, Any]:
    """`verified_at` None: never restored and compared. The error comes last: it is long."""
    return {
        "backup_id": backup.pk,
        "kind": str(backup.kind),
        "status": str(backup.status),
        "started_at": f"{backup.started_at:%Y-%m-%d %H:%M:%S}",
        "verified_at": f"{backup.verified_at:%Y-%m-%d %H:%M:%S}" if backup.verified_at else None,
        "size_bytes": backup.size_bytes,
        "pinned": "yes" if backup.is_pinned else "",
        "lies": lies(backup),
        "builds_on": backup.parent_id,
        "wal_end": lsn_text(backup.end_lsn) if backup.end_lsn else None,
        "database": backup.database_name,
        "error": backup.error,
    }


def lies(backup: Backup) -> str:
    """Return where a backup lies, in words."""
    places = [("here", catalogue.is_stored(backup)), ("store", backup.stored_at is not None)]
    return ", ".join(name for name, is_there in places if is_there)
