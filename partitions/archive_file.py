"""An archive's file: the text of COPY, compressed with gzip; and the digest of its bytes.

Anybody can read it without us: `gzip -dc FILE | psql -c '\\copy TABLE (COLUMNS) FROM STDIN'`. Beside it lies
`<name>.json`, which says of what table, columns and range it is.
"""

import gzip
import hashlib
import json
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, cast

from partitions.errors import ArchiveDamaged

COMPRESSION = 1  # docs/decisions, 0006
BLOCK_BYTES = 1 << 20


@dataclass(frozen=True)
class Written:
    size_bytes: int
    sha256: str


class Digesting:
    """A file to write to, which keeps the digest of what went through."""

    def __init__(self, raw: IO[bytes]) -> None:
        self.raw, self.digest, self.size_bytes = raw, hashlib.sha256(), 0

    def write(self, block: bytes) -> int:
        self.digest.update(block)
        self.size_bytes += len(block)
        return self.raw.write(block)

    def flush(self) -> None:
        self.raw.flush()


def write_file(path: Path, blocks: Iterable[bytes]) -> Written:
    """Write the compressed blocks; the file is there, whole and on disk, or not at all. Raises OSError."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    try:
        with open(part, "wb", opener=private) as raw:
            out = Digesting(raw)
            with gzip.GzipFile(
                filename="", mode="wb", fileobj=cast("IO[bytes]", out), compresslevel=COMPRESSION, mtime=0
            ) as packed:
                for block in blocks:
                    packed.write(block)
            raw.flush()
            os.fsync(raw.fileno())
        part.replace(path)
    except BaseException:
        part.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)
    return Written(out.size_bytes, out.digest.hexdigest())


def write_label(path: Path, label: dict[str, Any]) -> None:
    """Write what the file is of beside it."""
    with open(label_of(path), "w", encoding="utf-8", opener=private) as out:
        json.dump(label, out, indent=1, default=str)
        out.flush()
        os.fsync(out.fileno())
    sync_folder(path.parent)


def label_of(path: Path) -> Path:
    return path.with_name(path.name + ".json")


def private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)


def sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def read_file(path: Path) -> Iterator[bytes]:
    """Yield what was compressed. Raises ArchiveDamaged where gzip finds it broken, OSError where it is not there."""
    try:
        with gzip.open(path) as packed:
            while block := packed.read(BLOCK_BYTES):
                yield block
    except (gzip.BadGzipFile, EOFError, gzip.zlib.error) as error:  # type: ignore[attr-defined]
        raise ArchiveDamaged(f"{path}: {error}") from error


def digest_of(path: Path) -> str:
    """Return the SHA-256 of the file. Raises OSError."""
    with path.open("rb") as raw:
        return hashlib.file_digest(raw, "sha256").hexdigest()
