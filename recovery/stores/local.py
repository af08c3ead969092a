"""A store in a folder: another disk, or one that the network brings. Switched on by BACKUP_STORE_URL=file:///path.

Beside each object lies `<name>.sha256` as sha256sum writes it, so `sha256sum -c` checks the folder without us. The
folder itself is never made: where the disk is not mounted, nothing may be written to the place where it should be.
"""

import hashlib
import os
import secrets
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

from pg.errors import Refused, Unreachable
from recovery.errors import Damaged, Taken
from recovery.manifest import sha256_of, sync_folder
from recovery.stores import Stored

SUM, PARTIAL = ".sha256", ".partial-"
CHUNK_BYTES = 1 << 20


class LocalStore:
    """`url` is file:///path."""

    def __init__(self, url: str) -> None:
        self.url = url.rstrip("/")
        self.root = Path(self.url.removeprefix("file://"))

    def put(self, path: Path, key: str, sha256: str, *, replace: bool = False, is_cold: bool = False) -> None:
        with self.told(key):
            target = self.root / key
            if not replace and (found := self.head(key)) is not None:
                require_same(f"{self.url}/{key}", found, sha256, path.stat().st_size)
                return
            make_folder(target.parent, self.root)
            fresh = target.with_name(f"{PARTIAL}{target.name}.{secrets.token_hex(4)}")
            try:
                copy(path, fresh, sha256)
                replaced = [found.sha256] if replace and (found := self.head(key)) and found.sha256 else []
                write_sums(target, [sha256, *replaced])  # first: an object always has one
                self.publish(fresh, target, replace)
                if replaced:
                    write_sums(target, [sha256])
            finally:
                fresh.unlink(missing_ok=True)
            sync_folder(target.parent)

    def publish(self, fresh: Path, target: Path, replace: bool) -> None:
        if replace:
            fresh.replace(target)
            return
        try:
            os.link(fresh, target)  # unlike a rename, this never replaces
        except FileExistsError as error:
            raise Taken(f"{target}: another process put an object there just now", "run it again") from error

    def head(self, key: str) -> Stored | None:
        with self.told(key):
            target = self.root / key
            if not target.is_file():
                return None
            stat = target.stat()
            return Stored(key, stat.st_size, datetime.fromtimestamp(stat.st_mtime, UTC), sum_in(target))

    def get(self, key: str, path: Path) -> Stored:
        found = self.head(key)
        if found is None:
            raise FileNotFoundError(f"{self.url}/{key} is not there")
        with self.told(key):
            try:
                copy(self.root / key, path, found.sha256)
            except Damaged:
                path.unlink(missing_ok=True)
                raise
        return found

    def list(self, prefix: str = "") -> Iterator[Stored]:
        with self.told(prefix):
            below = self.root / prefix.rpartition("/")[0]
            for path in sorted(below.rglob("*")) if below.is_dir() else ():
                key = str(path.relative_to(self.root))
                if path.is_file() and key.startswith(prefix) and not is_ours(path):
                    stat = path.stat()
                    yield Stored(key, stat.st_size, datetime.fromtimestamp(stat.st_mtime, UTC))

    def delete(self, keys: Iterable[str]) -> dict[str, str]:
        refused: dict[str, str] = {}
        with self.told(""):
            for key in keys:
                target = self.root / key
                try:
                    target.unlink(missing_ok=True)
                    sum_of(target).unlink(missing_ok=True)
                except OSError as error:
                    refused[key] = error.strerror or str(error)
        return refused

    def end_unfinished(self, before: datetime) -> int:
        with self.told(""):
            left = [path for path in self.root.rglob(f"{PARTIAL}*")
                    if datetime.fromtimestamp(path.stat().st_mtime, UTC) < before]  # fmt: skip
            for path in left:
                path.unlink(missing_ok=True)
            return len(left)

    @contextmanager
    def told(self, key: str) -> Iterator[None]:
        """Say in our words what the disk says."""
        if not self.root.is_dir():
            raise Unreachable(
                f"{self.url}: the folder is not there", "is its disk mounted? make it once: nothing else does"
            )
        try:
            yield
        except FileNotFoundError:
            raise
        except PermissionError as error:
            raise Refused(
                f"{self.url}/{key}: {error.strerror}", "let our user read and write there"
            ) from error
        except OSError as error:
            raise Unreachable(f"{self.url}/{key}: {error.strerror}", "see the disk; is it full?") from error


def require_same(address: str, found: Stored, sha256: str, size_bytes: int) -> None:
    """Raise Taken unless the object is the file of that SHA-256 and size."""
    if (found.sha256, found.size_bytes) != (sha256, size_bytes):
        raise Taken(
            f"{address}: another object has that key, nothing was overwritten",
            "does another installation, or a copy of this one, keep its backups there? give each a place of its own",
        )


def copy(source: Path, target: Path, sha256: str | None) -> None:
    """Copy to a new file, on the disk at the end. Raises Damaged where the contents have another SHA-256."""
    digest = hashlib.sha256()
    handle = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with source.open("rb") as raw, os.fdopen(handle, "wb") as out:
        while chunk := raw.read(CHUNK_BYTES):
            digest.update(chunk)
            out.write(chunk)
        out.flush()
        os.fsync(out.fileno())
    if sha256 is not None and digest.hexdigest() != sha256:
        raise Damaged(
            f"{source} has other contents: its SHA-256 differs", "look for the cause: is a disk failing?"
        )


def make_folder(folder: Path, root: Path) -> None:
    """Make a folder below the root, each level safe on the disk."""
    if folder == root or folder.is_dir():
        return
    make_folder(folder.parent, root)
    folder.mkdir(mode=0o700, exist_ok=True)
    sync_folder(folder.parent)


def sum_of(target: Path) -> Path:
    return target.with_name(target.name + SUM)


def write_sums(target: Path, sums: list[str]) -> None:
    fresh = target.with_name(f"{PARTIAL}{target.name}.{secrets.token_hex(4)}")
    fresh.write_text("".join(f"{found}  {target.name}\n" for found in dict.fromkeys(sums)), "utf-8")
    fresh.replace(sum_of(target))


def sum_in(target: Path) -> str | None:
    """Return the SHA-256 that the object was put with. There are two where somebody was killed while he replaced it:
    then the object itself says which."""
    try:
        sums = [line.partition(" ")[0] for line in sum_of(target).read_text("utf-8").splitlines()]
    except FileNotFoundError:
        return None
    if len(sums) > 1 and (found := sha256_of(target)) in sums:
        return found
    return sums[0] if sums else None


def is_ours(path: Path) -> bool:
    """Tell whether the file is no object but belongs to one."""
    return path.name.endswith(SUM) or path.name.startswith(PARTIAL)
