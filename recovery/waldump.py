"""What is in a WAL segment: commits, named restore points, its last record. By pg_waldump."""

import re
import subprocess
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from recovery.tools import Tools
from recovery.wal import Archive, Segment, parse_lsn

COMMIT = re.compile(
    r"lsn: ([0-9A-F]+/[0-9A-F]+),.*desc: COMMIT (?:PREPARED )?(?:\w+ \d+: )?(\d{4}-\d\d-\d\d [0-9:.]+) UTC"
)
POINT = re.compile(r"lsn: ([0-9A-F]+/[0-9A-F]+),.*desc: RESTORE_POINT (.*)$")
RECORD = re.compile(r"tx: +(\d+), lsn: ([0-9A-F]+/[0-9A-F]+),")
TIMEOUT_SECONDS = 120


@dataclass
class Scan:
    """None: no transaction committed, no record begins in it."""

    first_commit_at: datetime | None = None
    last_commit_at: datetime | None = None
    last_lsn: int | None = None
    points: list[tuple[str, int]] = field(default_factory=list)  # name, position


def scan_commits(tools: Tools, name: str, raw: bytes) -> Scan:
    """Return the commits and restore points of segment `name` with contents `raw`."""
    scan = Scan()
    for line in dump_lines(tools, name, raw, "--rmgr=Transaction", "--rmgr=XLOG"):
        if found := COMMIT.search(line):
            scan.last_commit_at = datetime.fromisoformat(found[2]).replace(tzinfo=UTC)
            scan.first_commit_at = scan.first_commit_at or scan.last_commit_at
        elif found := POINT.search(line):
            scan.points.append((found[2].strip(), parse_lsn(found[1])))
    return scan


def last_record(tools: Tools, name: str, raw: bytes) -> int | None:
    """Return where the last whole record of a segment begins; None: none begins in it."""
    last = None
    for line in dump_lines(tools, name, raw):
        if found := RECORD.search(line):
            last = found[2]
    return parse_lsn(last) if last else None


def find_commit(tools: Tools, name: str, raw: bytes, xid: int) -> int | None:
    """Return where transaction `xid` commits in a segment, None where it does not."""
    for line in dump_lines(tools, name, raw, "--rmgr=Transaction", f"--xid={xid}"):
        if found := COMMIT.search(line):
            return parse_lsn(found[1])
    return None


def dump_lines(tools: Tools, name: str, raw: bytes, *options: str) -> Iterator[str]:
    """Yield pg_waldump's lines for one segment. It ends with an error at the last record, which goes on in the next."""
    with tempfile.TemporaryDirectory(prefix="mistersmith-wal-") as room:
        (Path(room) / name).write_bytes(raw)
        argv = [tools.program("pg_waldump"), f"--path={room}", *options, name]
        done = subprocess.run(
            argv, capture_output=True, text=True, env={"LC_ALL": "C", "TZ": "UTC"}, timeout=TIMEOUT_SECONDS
        )
    yield from done.stdout.splitlines()


def newest_commit(tools: Tools, archive: Archive, segments: Iterable[Segment]) -> datetime | None:
    """Return the newest commit in `segments`, given in order: read from the last backwards until one is found."""
    for segment in reversed(list(segments)):
        name = segment.name(archive.segment_bytes)
        if found := scan_commits(tools, name, archive.read(name)).last_commit_at:
            return found
    return None
