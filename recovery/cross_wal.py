"""The WAL that a cross-system backup needs, in its manifest: each segment from its base backup's start to the moment.

It lies in the archive, not in the backup's folder, so the manifest names each file with its size and SHA-256: one that
is missing, or another one than on the day of the backup, is found by looking, not by a restore.
"""

from typing import Any

from recovery import manifest
from recovery.errors import Damaged
from recovery.manifest import StoredFile
from recovery.models import Backup
from recovery.wal import Archive, Segment


def needed_names(backup: Backup, segment_bytes: int) -> list[str]:
    """Return the names of the segments that a restore to the backup's moment replays, in order."""
    first, last = (backup.start_lsn or 0) // segment_bytes, ((backup.end_lsn or 1) - 1) // segment_bytes
    return [Segment(backup.timeline or 1, number).name(segment_bytes) for number in range(first, last + 1)]


def describe_wal(backup: Backup, archive: Archive) -> list[dict[str, Any]]:
    """Return the manifest's entries: segment, file (from the backup's folder), size in bytes, SHA-256. Reads them all.

    Raises Damaged where one is not archived: nothing would lead to the moment.
    """
    entries = []
    for name in needed_names(backup, archive.segment_bytes):
        path = archive.path(name)
        if not path.exists():
            raise Damaged(
                f"WAL segment {name} is not archived: nothing would lead to the moment",
                "make one with a base backup of its own: `manage.py backup cross --copy`",
            )
        file = f"../../{path.relative_to(archive.place)}"
        size, sha256 = path.stat().st_size, manifest.sha256_of(path)
        entries.append({"segment": name, "file": file, "size": size, "sha256": sha256})
    return entries


def check_wal(body: dict[str, Any], archive: Archive) -> list[str]:
    """Return what is wrong with the segments that the manifest names, one line each. One from before it named any has
    nothing to compare."""
    problems = []
    for entry in body["systems"]["postgresql"].get("wal", ()):
        path = archive.path(entry["segment"])
        if not path.exists():
            problems.append(f"WAL segment {entry['segment']} is missing")
            continue
        wanted = StoredFile(path.name, entry["size"], entry["sha256"])
        problems += [f"WAL {problem}" for problem in manifest.check_file(path.parent, wanted)]
    return problems
