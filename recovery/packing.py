"""A backup as it goes to a store: its files as tar, in parts of a bounded size, and `parts.json`, which is written
last.

Thousands of small files would be thousands of requests; one object of all would begin anew whenever it is interrupted.
Plain files of a base backup are compressed on the way. Packing the same backup again gives the same bytes.
"""

import gzip
import json
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any

from pg.errors import Refused
from recovery import manifest
from recovery.errors import Damaged
from recovery.manifest import StoredFile

PART_BYTES = 256 << 20
LEVEL = 1  # of gzip: the next ones cost twice the time and save a tenth
INDEX = "parts.json"
FORMAT = 1
PACKED = (".gz", ".zst", ".lz4")


@dataclass(frozen=True)
class Part:
    """`name` is the object's, below the backup's location; `files` are relative to its folder."""

    name: str
    files: tuple[StoredFile, ...]

    @property
    def size_bytes(self) -> int:
        return sum(file.size_bytes for file in self.files)


@dataclass(frozen=True)
class PartStored:
    """A part as the index names it: `sha256` and size are the object's, `key_id` None: it is not encrypted."""

    name: str
    size_bytes: int
    sha256: str
    key_id: str | None = None


def plan_parts(folder: Path, part_bytes: int = PART_BYTES) -> list[Part]:
    """Return the parts of a finished backup, by its manifest, which is in the last one. Raises Damaged."""
    body = manifest.read_manifest(folder)
    files = [StoredFile(**file) for file in body["files"]]
    path = folder / manifest.NAME
    files.append(StoredFile(manifest.NAME, path.stat().st_size, manifest.sha256_of(path)))
    suffix = "tar" if is_packed(files) else "tar.gz"
    return [
        Part(f"part-{number:05}.{suffix}", tuple(some))
        for number, some in enumerate(in_groups(files, part_bytes), 1)
    ]


def is_packed(files: list[StoredFile]) -> bool:
    """Tell whether most bytes are compressed already."""
    packed = sum(file.size_bytes for file in files if file.path.endswith(PACKED))
    return packed * 2 > sum(file.size_bytes for file in files)


def in_groups(files: list[StoredFile], part_bytes: int) -> Iterator[list[StoredFile]]:
    """Yield files in their order, together at most `part_bytes`, or one that is larger by itself."""
    group: list[StoredFile] = []
    total = 0
    for file in files:
        if group and total + file.size_bytes > part_bytes:
            yield group
            group, total = [], 0
        group.append(file)
        total += file.size_bytes
    if group:
        yield group


# -- packing ------------------------------------------------------------------------------------------------
def pack(folder: Path, part: Part, target: Path) -> None:
    """Write a part to `target`. Raises Damaged where a file is not what the manifest says."""
    with (
        target.open("wb") as out,
        squeezed(out, part.name) as raw,
        tarfile.open(fileobj=raw, mode="w|", format=tarfile.PAX_FORMAT, bufsize=1 << 20) as tar,
    ):
        for file in part.files:
            add(tar, folder, file)


@contextmanager
def squeezed(out: IO[bytes], name: str) -> Iterator[IO[bytes]]:
    if not name.endswith(".gz"):
        yield out
        return
    with gzip.GzipFile(filename="", mode="wb", compresslevel=LEVEL, fileobj=out, mtime=0) as packed:
        yield packed  # type: ignore[misc]


def add(tar: tarfile.TarFile, folder: Path, file: StoredFile) -> None:
    if problems := manifest.check_file(folder, file):
        raise Damaged(problems[0], "the backup is damaged here: `manage.py backup check`")
    entry = tarfile.TarInfo(file.path)
    entry.size, entry.mode = file.size_bytes, 0o600
    with (folder / file.path).open("rb") as raw:
        tar.addfile(entry, raw)


def unpack(source: Path, folder: Path) -> None:
    """Write a part's files below `folder`. Raises Damaged; Refused for a name that leads out of it."""
    try:
        with tarfile.open(source, "r:*") as tar:
            for entry in tar:
                target = folder / entry.name
                if not entry.isfile() or not target.resolve().is_relative_to(folder.resolve()):
                    raise Refused(
                        f"{source.name} has {entry.name}, which is no file of a backup", "take another"
                    )
                target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
                tar.extract(entry, folder, filter="data")
    except (tarfile.TarError, EOFError, gzip.BadGzipFile) as error:
        raise Damaged(f"{source.name} cannot be unpacked: {error}", "another copy is needed") from error


# -- the index ----------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Index:
    """`entry` is the catalogue's; `folders` are those of the backup, empty ones too: PostgreSQL wants them."""

    entry: dict[str, Any]
    folders: list[str]
    parts: list[PartStored]


def write_index(path: Path, entry: dict[str, Any], folder: Path, parts: list[PartStored]) -> None:
    """Write what makes the parts a backup: the catalogue's entry, every folder, every part with its SHA-256."""
    folders = sorted(str(found.relative_to(folder)) for found in folder.rglob("*") if found.is_dir())
    save_index(path, Index(entry, folders, parts))


def save_index(path: Path, index: Index) -> None:
    body = {"format": FORMAT, **asdict(index)}
    path.write_text(json.dumps(body, indent=1), "utf-8")


def read_index(path: Path) -> Index:
    """Raises Damaged for what is none."""
    try:
        body = json.loads(path.read_text("utf-8"))
        if body["format"] != FORMAT:
            raise Damaged(
                f"{INDEX} has format {body['format']}, not {FORMAT}", "use the version that wrote it"
            )
        return Index(body["entry"], body["folders"], [PartStored(**part) for part in body["parts"]])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise Damaged(f"{path.name} cannot be read: {error!r}", "another copy is needed") from error
