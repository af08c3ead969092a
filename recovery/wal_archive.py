"""PostgreSQL's archive_command and restore_command: one file of the standard library, run by its path.

    wal_archive.py push %p REPOSITORY [--level=1] [--group]    a finished WAL file goes into REPOSITORY/wal
    wal_archive.py get %f %p REPOSITORY                        a file comes back

It is copied to where the server's user can run it, so it imports nothing of ours. A pushed file is on the disk, whole
and under its name, before the exit code is 0. It is never replaced: the same contents are success (PostgreSQL asks
again after a crash), others are refused, whoever wrote them. Exit codes of `push`: 0 or 1, for PostgreSQL reports 1
(pg_stat_archiver) and goes on trying. Of `get`: 0, 1 for a file that the archive has not (the normal end of WAL), 200
for a damaged one: above 125 recovery stops, where 1 would make it believe that the history ended here.
"""

from __future__ import annotations

import json
import os
import re
import struct
import sys
import zlib
from collections import namedtuple

TYPE_CHECKING = False  # `typing` takes a tenth of the program's start
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from typing import BinaryIO

SEGMENT = re.compile(r"[0-9A-F]{24}")
NAMES = re.compile(r"[0-9A-F]{24}(\.partial|\.[0-9A-F]{8}\.backup)?|[0-9A-F]{8}\.history")
USAGE = """usage: wal_archive.py push PATH REPOSITORY [--level=0..9] [--group]
       wal_archive.py get NAME PATH REPOSITORY
       wal_archive.py check
"""
LONG_HEADER = 0x0002  # XLP_LONG_HEADER: the first page of a segment has one
HEADER_BYTES = 40
GZIP = 31  # zlib's window for the gzip format, whose checksum notices a flipped bit
OWNER = "archive.json"
MISSING, DAMAGED = 1, 200
CHUNK_BYTES = 1 << 18  # small enough to stay in the processor's cache on its way

# The first page of a segment (XLogLongPageHeaderData). `magic` goes with the major version.
Header = namedtuple("Header", "magic is_long timeline address system_identifier segment_bytes")


def read_header(raw: bytes) -> Header:
    """Return the header of a segment. Raises ValueError when there are too few bytes."""
    if len(raw) < HEADER_BYTES:
        raise ValueError(f"has {len(raw)} bytes, a WAL segment has more")
    magic, info, timeline, address = struct.unpack_from("=HHIQ", raw)
    system_identifier, segment_bytes = struct.unpack_from("=QI", raw, 24)
    return Header(magic, bool(info & LONG_HEADER), timeline, address, system_identifier, segment_bytes)


def check_segment(name: str, raw: bytes) -> Header:
    """Return the header of segment `name`; raise ValueError when the contents are not what the name says."""
    return check_beginning(name, raw, len(raw))


def check_beginning(name: str, raw: bytes, size_bytes: int) -> Header:
    """The same of a file of `size_bytes` that begins with `raw`.

    A timeline's first segment begins with its parent's pages, so the page may be of a lower timeline.
    """
    header = read_header(raw)
    if not header.is_long or not header.segment_bytes:
        raise ValueError("does not begin as a WAL segment does")
    if size_bytes != header.segment_bytes:
        raise ValueError(f"has {size_bytes} bytes, not {header.segment_bytes}")
    address = (int(name[8:16], 16) << 32) + int(name[16:24], 16) * header.segment_bytes
    if header.address != address:
        raise ValueError(f"begins at {lsn_text(header.address)}, its name says {lsn_text(address)}")
    if header.timeline > int(name[:8], 16):
        raise ValueError(f"is of timeline {header.timeline}, its name says {int(name[:8], 16)}")
    return header


def lsn_text(lsn: int) -> str:
    """Return an LSN as PostgreSQL writes it, for instance 0/3000028."""
    return f"{lsn >> 32:X}/{lsn & 0xFFFFFFFF:X}"


def stored_path(repository: str, name: str) -> str:
    """Return where file `name` lies: segments in a folder per timeline and 4 GB, histories in one."""
    folder = name[:16] if len(name) >= 24 else "history"
    return os.path.join(repository, "wal", folder, f"{name}.gz")


def read_stored(path: str) -> bytes:
    """Return a stored file's contents. Raises FileNotFoundError; ValueError for damage, to the last byte."""
    with open(path, "rb") as file:
        packed = file.read()
    try:
        unpack = zlib.decompressobj(GZIP)
        raw = unpack.decompress(packed) + unpack.flush()
    except zlib.error as error:
        raise ValueError(f"is damaged: {error}") from error
    if not unpack.eof or unpack.unused_data:
        raise ValueError("is damaged: it is cut short, or something follows its end")
    return raw


# -- push ---------------------------------------------------------------------------------------------------
def push(source: str, repository: str, level: int = 1, mode: int = 0o600) -> None:
    """Store WAL file `source`. Raises ValueError for what must not be stored, OSError."""
    name = os.path.basename(source)
    if not NAMES.fullmatch(name):
        raise ValueError("is no name of a WAL file")
    folder_mode = mode | (mode & 0o444) >> 2
    os.makedirs(os.path.join(repository, "wal"), folder_mode, exist_ok=True)
    with open(source, "rb", buffering=0) as file:
        if SEGMENT.fullmatch(name):
            header = check_beginning(name, file.read(HEADER_BYTES), os.fstat(file.fileno()).st_size)
            claim(os.path.join(repository, "wal"), header, mode)
            file.seek(0)
        path = stored_path(repository, name)
        if not os.path.isdir(os.path.dirname(path)):
            os.makedirs(os.path.dirname(path), folder_mode, exist_ok=True)
            sync_folder(os.path.join(repository, "wal"))
        store(path, file, level, mode)


def claim(folder: str, header: Header, mode: int) -> None:
    """Let the first segment decide whose WAL lies here; raise ValueError for another server's."""
    path = os.path.join(folder, OWNER)
    wanted = {"system_identifier": str(header.system_identifier), "segment_bytes": header.segment_bytes}
    try:
        with open(path, "rb") as file:
            found = json.load(file)
    except FileNotFoundError:
        write_new(path, [json.dumps(wanted).encode()], mode)
        return
    if found != wanted:
        raise ValueError(
            f"is of server {wanted['system_identifier']}, the archive is of {found.get('system_identifier')}:"
            " give each server a folder of its own"
        )


def store(path: str, file: BinaryIO, level: int, mode: int) -> None:
    if not os.path.exists(path) and write_new(path, pack(file, level), mode):
        return
    file.seek(0)
    if read_stored(path) != file.read():
        raise ValueError("is archived already, with other contents: does a copy of this server archive here?")
    sync_folder(os.path.dirname(path))  # the crash may have come before this


def pack(file: BinaryIO, level: int) -> Iterator[bytes]:
    """Yield the file's contents as gzip, piece by piece."""
    packer = zlib.compressobj(level, zlib.DEFLATED, GZIP)
    while piece := file.read(CHUNK_BYTES):
        yield packer.compress(piece)
    yield packer.flush()


def write_new(path: str, pieces: Iterable[bytes], mode: int) -> bool:
    """Make file `path`, safe on the disk, in one step; return False when somebody else was first."""
    fresh = f"{os.path.dirname(path)}/.{os.path.basename(path)}.{os.getpid()}"
    try:
        with open(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode), "wb", buffering=0) as out:
            for piece in pieces:
                write_all(out, piece)
            os.fsync(out.fileno())
        os.link(fresh, path)  # unlike a rename, this never replaces
    except FileExistsError:
        return False
    finally:
        if os.path.exists(fresh):
            os.unlink(fresh)
    sync_folder(os.path.dirname(path))
    return True


def write_all(out: BinaryIO, piece: bytes) -> None:
    """Write all of it: without a buffer a write may stop half way, on a disk that is getting full for one."""
    rest = memoryview(piece)
    while rest:
        rest = rest[out.write(rest) :]


def sync_folder(path: str) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


# -- get ----------------------------------------------------------------------------------------------------
def get(name: str, target: str, repository: str) -> None:
    """Write stored file `name` to `target`. Raises FileNotFoundError when it is not there, ValueError for damage."""
    if not NAMES.fullmatch(name):
        raise FileNotFoundError(name)
    raw = read_stored(stored_path(repository, name))
    if SEGMENT.fullmatch(name):
        check_segment(name, raw)
    with open(target, "wb") as out:
        out.write(raw)


# -- the program --------------------------------------------------------------------------------------------
def main(arguments: list[str]) -> int:
    """Read the arguments by hand: argparse takes longer to import than a segment to write."""
    words = [word for word in arguments if not word.startswith("--")]
    options = [word for word in arguments if word.startswith("--")]
    level = next((word[8:] for word in options if word.startswith("--level=")), "1")
    wanted = {"push": 3, "get": 4, "check": 1}.get(words[0] if words else "")
    is_known = all(word == "--group" or word.startswith("--level=") for word in options)
    if len(words) != wanted or not is_known or level not in "0123456789" or len(level) != 1:
        sys.stderr.write(USAGE)
        return DAMAGED if words[:1] == ["get"] else 1
    if words[0] == "push":
        return run_push(words[1], words[2], int(level), 0o640 if "--group" in options else 0o600)
    return run_get(*words[1:]) if words[0] == "get" else 0


def run_push(path: str, repository: str, level: int, mode: int) -> int:
    try:
        push(path, repository, level, mode)
    except (OSError, ValueError, KeyError) as error:
        return tell(os.path.basename(path), error, 1)
    return 0


def run_get(name: str, path: str, repository: str) -> int:
    try:
        get(name, path, repository)
    except FileNotFoundError:
        return MISSING
    except (OSError, ValueError, KeyError) as error:
        return tell(name, error, DAMAGED)
    return 0


def tell(name: str, error: Exception, code: int) -> int:
    """Say it on standard error, which PostgreSQL puts into its log; return `code`."""
    sys.stderr.write(f"wal_archive: {name}: {error}\n")
    return code


if __name__ == "__main__":
    os.umask(0o027)
    sys.exit(main(sys.argv[1:]))
