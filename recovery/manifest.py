"""The manifest: what a finished backup consists of. It is written last, so a folder without one is no backup."""

import hashlib
import json
import os
import secrets
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from recovery.errors import Damaged

NAME = "manifest.json"
FORMAT = 1
CHUNK_BYTES = 1 << 20


@dataclass(frozen=True)
class StoredFile:
    """`path` is relative to the backup's folder, with slashes."""

    path: str
    size_bytes: int
    sha256: str


def list_files(folder: Path) -> list[StoredFile]:
    """Return every file below `folder` but the manifest, by path. Reads all of them."""
    return [
        StoredFile(str(path.relative_to(folder)), path.stat().st_size, sha256_of(path))
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path != folder / NAME
    ]


def size_of(folder: Path) -> int:
    """Return how many bytes all files of a backup have, the manifest included."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def sha256_of(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_manifest(folder: Path, body: dict[str, Any]) -> str:
    """Write the manifest of `folder` with its files; return the manifest's own SHA-256."""
    files = [asdict(file) for file in list_files(folder)]
    write_json(folder / NAME, {"format": FORMAT, **body, "files": files})
    return sha256_of(folder / NAME)


def read_manifest(folder: Path) -> dict[str, Any]:
    """Return the manifest. Raises Damaged when it is missing, unreadable, or of a format that we do not know."""
    path = folder / NAME
    try:
        body: dict[str, Any] = json.loads(path.read_text("utf-8"))
        known = body["format"] == FORMAT
    except FileNotFoundError as error:
        gone = f"{NAME} is missing" if folder.is_dir() else f"the folder {folder} is missing"
        raise Damaged(gone, "choose another backup: `manage.py backup list`") from error
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise Damaged(f"{NAME} cannot be read: {error}", "choose another backup") from error
    if not known:
        raise Damaged(f"{NAME} has format {body['format']}, not {FORMAT}", "use the version that wrote it")
    return body


def check_files(folder: Path, manifest_sha256: str | None) -> list[str]:
    """Return what is wrong with the stored files, one line each, without restoring; empty when nothing is.

    `manifest_sha256` is what the catalogue says of the manifest; None where no catalogue knows.
    """
    try:
        manifest = read_manifest(folder)
    except Damaged as error:
        return [str(error)]
    if manifest_sha256 is not None and sha256_of(folder / NAME) != manifest_sha256:
        return [f"{NAME} is not the one that was written"]
    wanted = {file["path"]: StoredFile(**file) for file in manifest["files"]}
    there = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()} - {NAME}
    problems = [f"file {name} is missing" for name in sorted(wanted.keys() - there)]
    problems += [f"file {name} is not in the manifest" for name in sorted(there - wanted.keys())]
    for name in sorted(wanted.keys() & there):
        problems += check_file(folder, wanted[name])
    return problems


def check_file(folder: Path, wanted: StoredFile) -> list[str]:
    try:
        size_bytes = (folder / wanted.path).stat().st_size
        if size_bytes != wanted.size_bytes:
            return [f"file {wanted.path} has {size_bytes} bytes, not {wanted.size_bytes}"]
        if sha256_of(folder / wanted.path) != wanted.sha256:
            return [f"file {wanted.path} has other contents: its SHA-256 differs"]
    except OSError as error:
        return [f"file {wanted.path} cannot be read: {error.strerror}"]
    return []


# -- files that appear whole or not at all ------------------------------------------------------------------
def write_json(path: Path, body: dict[str, Any]) -> None:
    """Replace `path`, readable by its owner alone and safe on the disk. A reader sees the old text or the new one."""
    fresh = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        with os.fdopen(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as out:
            json.dump(body, out, indent=1)
            out.flush()
            os.fsync(out.fileno())
        fresh.replace(path)
    finally:
        fresh.unlink(missing_ok=True)
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Make renames inside `folder` survive a power cut."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
