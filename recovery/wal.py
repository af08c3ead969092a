"""Positions, segments and timelines of WAL, and the archive that holds them. No database, no server."""

import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from django.conf import settings

from recovery import wal_archive
from recovery.errors import Damaged

HISTORY_LINE = re.compile(r"^\s*(\d+)\s+([0-9A-F]+/[0-9A-F]+)", re.MULTILINE)


def parse_lsn(text: str) -> int:
    """Return a position in WAL ("0/3000028") as a number of bytes. Raises ValueError."""
    high, _, low = text.partition("/")
    return (int(high, 16) << 32) + int(low, 16)


lsn_text = wal_archive.lsn_text


class Segment(NamedTuple):
    """A WAL file: `number` is its position divided by its size."""

    timeline: int
    number: int

    def name(self, segment_bytes: int) -> str:
        per_log = (1 << 32) // segment_bytes
        return f"{self.timeline:08X}{self.number // per_log:08X}{self.number % per_log:08X}"

    @classmethod
    def parse(cls, name: str, segment_bytes: int) -> "Segment":
        per_log = (1 << 32) // segment_bytes
        return cls(int(name[:8], 16), int(name[8:16], 16) * per_log + int(name[16:24], 16))


@dataclass(frozen=True)
class Archive:
    """The archive of one server below `place`, as its files say. `segment_bytes` 0: nothing was archived yet."""

    place: Path
    system_identifier: str = ""
    segment_bytes: int = 0

    def path(self, name: str) -> Path:
        return Path(wal_archive.stored_path(str(self.place), name))

    def segments(self) -> set[Segment]:
        """Return all whole segments that are there. Lists every folder."""
        names = (path.name[:-3] for path in (self.place / "wal").glob("[0-9A-F]*/*.gz"))
        return {
            Segment.parse(name, self.segment_bytes) for name in names if wal_archive.SEGMENT.fullmatch(name)
        }

    def read(self, name: str) -> bytes:
        """Return a segment's contents, which are what its name says. Raises Damaged; FileNotFoundError."""
        try:
            raw = wal_archive.read_stored(str(self.path(name)))
            header = wal_archive.check_segment(name, raw)
        except ValueError as error:
            raise Damaged(f"WAL segment {name} {error}") from error
        if str(header.system_identifier) != self.system_identifier:
            raise Damaged(f"WAL segment {name} is of server {header.system_identifier}")
        return raw

    def histories(self) -> "Histories":
        """Return the timelines that the archive knows of. Raises Damaged."""
        found = {}
        for path in sorted((self.place / "wal" / "history").glob("[0-9A-F]*.history.gz")):
            try:
                text = wal_archive.read_stored(str(path)).decode("utf-8")
            except ValueError as error:
                raise Damaged(f"{path.name} {error}") from error
            found[int(path.name[:8], 16)] = parse_history(text)
        return Histories(found)


def open_archive() -> Archive:
    """Return the archive of the backup folder, which may have nothing in it yet. Raises Damaged."""
    place = (Path(settings.BACKUP_DIR) / "wal").resolve().parent
    try:
        found = json.loads((place / "wal" / wal_archive.OWNER).read_text("utf-8"))
        return Archive(place, found["system_identifier"], found["segment_bytes"])
    except FileNotFoundError:
        return Archive(place)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise Damaged(
            f"{place / 'wal' / wal_archive.OWNER}: {error}",
            "restore the file, or remove it: the next archived segment writes it anew",
        ) from error


# -- timelines ----------------------------------------------------------------------------------------------
def parse_history(text: str) -> list[tuple[int, int]]:
    """Return a .history file's lines: each ancestor, oldest first, and where it was left."""
    return [(int(match[1]), parse_lsn(match[2])) for match in HISTORY_LINE.finditer(text)]


class Span(NamedTuple):
    """A stretch of one timeline; `until` None: to the end of what is archived."""

    timeline: int
    start: int
    until: int | None


@dataclass(frozen=True)
class Histories:
    """`ancestors` maps a timeline to its ancestors, oldest first, with the position where each was left."""

    ancestors: dict[int, list[tuple[int, int]]]

    def path(self, timeline: int, lsn: int, target: int) -> list[Span]:
        """Return the stretches that replay from `lsn` of `timeline` to `target` reads; [] where none leads there."""
        if timeline == target:
            return [Span(timeline, lsn, None)]
        spans: list[Span] = []
        start = lsn
        for ancestor, left_at in self.ancestors.get(target, []):
            if ancestor < timeline:
                continue
            if (ancestor == timeline) != (not spans) or left_at < start:
                return []
            spans.append(Span(ancestor, start, left_at))
            start = left_at
        return [*spans, Span(target, start, None)] if spans else []

    def newest(self, timeline: int, lsn: int) -> int:
        """Return the newest timeline that goes on from `lsn` of `timeline`; that one where no other does."""
        later = [
            target for target in self.ancestors if target > timeline and self.path(timeline, lsn, target)
        ]
        return max(later, default=timeline)

    def parents(self) -> dict[int, tuple[int, int]]:
        """Return each timeline's own parent and where it left it."""
        return {timeline: lines[-1] for timeline, lines in self.ancestors.items() if lines}


def needed_segments(spans: Iterable[Span], segment_bytes: int, there: set[Segment]) -> Iterator[Segment]:
    """Yield the segments that replay along `spans` reads, in order, as far as anything of the last one is `there`.

    A segment that two timelines share is read from the newer one.
    """
    for span in spans:
        first = span.start // segment_bytes
        if span.until is None:
            last = max(
                (found.number for found in there if found.timeline == span.timeline), default=first - 1
            )
        else:
            last = span.until // segment_bytes - 1
        for number in range(first, last + 1):
            yield Segment(span.timeline, number)
