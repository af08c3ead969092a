"""The manifest of a cross-system backup: the guide's fields (14.3), filled, and what a restore needs to know.

As with every backup it is written last, names each file with its SHA-256, and a file that is missing, extra or unknown
to it makes the backup damaged. PostgreSQL's side is named by the SHA-256 of its manifests, which name its files.
"""

from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from recovery import catalogue, manifest
from recovery.cross_wal import check_wal, describe_wal
from recovery.errors import Damaged
from recovery.jetstream import Snapshot, read_snapshot
from recovery.keeping import How, Keeping
from recovery.logical import describe
from recovery.models import Backup
from recovery.moment import Moment, Place
from recovery.wal import lsn_text, open_archive

TYPE = "cross_system_consistent"


def describe_cross(
    backup: Backup, chain: list[Backup], kept: list[Keeping], moment: Moment, completed_at: datetime
) -> dict[str, Any]:
    """Return the manifest's body. `chain` is the server's side, the base first."""
    by_stream = {snapshot.stream: snapshot for snapshot in moment.snapshots}
    entries = [describe_kept(keeping, by_stream.get(keeping.stream), moment) for keeping in kept]
    is_bucket = [keeping.is_bucket for keeping in kept]
    at = moment.at or completed_at
    return {
        **describe(backup, {"name": backup.database_name}, None, completed_at),
        "parent_id": str(backup.parent_id),
        "system_identifier": backup.system_identifier,
        "timeline": backup.timeline,
        "start_lsn": backup.start_lsn,
        "end_lsn": backup.end_lsn,
        "backup_timestamp": f"{at:%Y%m%d_%H%M%S}",
        "backup_type": TYPE,
        "systems": {
            "postgresql": describe_postgresql(backup, chain, moment),
            "nats": {
                "backup_method": "jetstream snapshot api",
                "streams": [entry for entry, bucket in zip(entries, is_bucket, strict=True) if not bucket],
                "kv_buckets": [entry for entry, bucket in zip(entries, is_bucket, strict=True) if bucket],
            },
        },
        "fence": {"at": at.isoformat(), "waited_ms": moment.waited_ms, "fenced_ms": moment.fenced_ms},
        "verification": {
            "backup_verified": True,
            "verification_timestamp": completed_at.isoformat(),
            "verification_notes": f"{len(by_stream)} snapshots restored into a throw-away nats-server and compared;"
            " the server's side is proved by a drill, see the catalogue",
        },
    }


def describe_postgresql(backup: Backup, chain: list[Backup], moment: Moment) -> dict[str, Any]:
    newest = chain[-1]
    return {
        "backup_method": "pg_basebackup",
        "backup_location": f"../../{newest.location}",
        "database_version": backup.server_version,
        "backup_size": sum(part.size_bytes or 0 for part in chain),
        "chain": [
            {"backup_id": str(part.pk), "kind": part.kind, "location": f"../../{part.location}",
             "size": part.size_bytes, "manifest_sha256": part.manifest_sha256}
            for part in chain
        ],
        "restore_point": moment.name,
        "restore_point_lsn": lsn_text(moment.lsn),
        "wal": describe_wal(backup, open_archive()),
    }  # fmt: skip


def describe_kept(keeping: Keeping, snapshot: Snapshot | None, moment: Moment) -> dict[str, Any]:
    """Return one stream's or bucket's entry. `backup_file` None: it has no snapshot, see `how`."""
    entry: dict[str, Any] = {
        "name": keeping.name,
        "stream": keeping.stream,
        "how": keeping.how.value,
        "backup_file": None,
        "size": 0,
        "last_sequence": moment.marks.get(keeping.stream, 0),
        "epoch": moment.epochs.get(keeping.stream, 0),
    }
    if snapshot is not None:
        entry["backup_file"] = f"./{snapshot.folder.parent.name}/{snapshot.stream}/{snapshot.path.name}"
        entry["size"] = snapshot.size_bytes
        entry["messages"] = snapshot.state["messages"]
    if place := moment.places.get(keeping.name) if keeping.how is How.REBUILD else None:
        entry |= asdict(place)
    return entry


def write(folder: Path, body: dict[str, Any]) -> str:
    """Write the manifest over every file below `folder`; return its own SHA-256."""
    files = manifest.list_files(folder)
    checksums = {f"./{file.path}": file.sha256 for file in files}
    manifest.write_json(
        folder / manifest.NAME,
        {
            "format": manifest.FORMAT,
            **body,
            "checksums": checksums,
            "files": [asdict(file) for file in files],
        },
    )
    return manifest.sha256_of(folder / manifest.NAME)


# -- reading ------------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Stored:
    """What a restore reads of a cross-system backup. `marks` and `places` as in Moment; `snapshots` by stream."""

    backup: Backup
    point: str
    at: datetime
    snapshots: dict[str, Snapshot]
    marks: dict[str, int]
    epochs: dict[str, int]
    places: dict[str, Place]
    waited_ms: float
    fenced_ms: float


def read_stored(backup: Backup, with_server: bool = True) -> Stored:
    """Return it, every file compared with the manifest; `with_server` also the manifests of the server's side and its
    WAL, which JetStream's side does not need. Raises Damaged."""
    folder = catalogue.folder_of(backup)
    if (
        problems := check_cross(backup)
        if with_server
        else manifest.check_files(folder, backup.manifest_sha256)
    ):
        raise Damaged(
            f"backup {backup.pk}: {'; '.join(problems[:5])}", "choose another one: `manage.py backup list`"
        )
    body = manifest.read_manifest(folder)
    try:
        entries = body["systems"]["nats"]["streams"] + body["systems"]["nats"]["kv_buckets"]
        names = list(Place.__dataclass_fields__)
        return Stored(
            backup,
            body["systems"]["postgresql"]["restore_point"],
            datetime.fromisoformat(body["fence"]["at"]),
            {
                e["stream"]: read_snapshot((folder / e["backup_file"]).parent)
                for e in entries
                if e["backup_file"]
            },
            {e["stream"]: e["last_sequence"] for e in entries},
            {e["stream"]: e["epoch"] for e in entries},
            {e["name"]: Place(*(e[name] for name in names)) for e in entries if e["how"] == How.REBUILD},
            body["fence"]["waited_ms"],
            body["fence"]["fenced_ms"],
        )
    except (KeyError, TypeError, ValueError) as error:
        raise Damaged(f"backup {backup.pk}: its manifest lacks {error!r}", "choose another one") from error


def check_cross(backup: Backup) -> list[str]:
    """Return what is wrong with a cross-system backup's files, its chain and its WAL, one line each. Reads all but the
    chain's own files."""
    folder = catalogue.folder_of(backup)
    if problems := manifest.check_files(folder, backup.manifest_sha256):
        return problems
    body = manifest.read_manifest(folder)
    return check_chain(backup, body) + check_wal(body, open_archive())


def check_chain(backup: Backup, body: dict[str, Any]) -> list[str]:
    """Return what is wrong unless the server's side is the very one that was there: by the SHA-256 of each manifest."""
    problems = []
    for part in body["systems"]["postgresql"]["chain"]:
        path = catalogue.folder_of(backup) / part["location"] / manifest.NAME
        if not path.is_file():
            problems.append(f"it builds on {part['backup_id']}, which is gone")
        elif manifest.sha256_of(path) != part["manifest_sha256"]:
            problems.append(f"it builds on {part['backup_id']}, which is not the one that was there")
    return problems
