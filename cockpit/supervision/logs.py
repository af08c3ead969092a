"""What the processes say: their log files, read as one stream of prefixed lines."""

import os
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

COLOURS = (36, 33, 32, 35, 34, 96, 93, 92, 95, 94)
LAST_BYTES = 16_384
FOLLOW_SECONDS = 0.2


@dataclass
class LogFile:
    """A growing log file, read from `position` on. supervisord renames it at 10 MB and begins anew."""

    path: Path
    position: int = 0
    inode: int = 0

    def skip_to_end(self, keep_bytes: int = 0) -> None:
        if self.path.is_file():
            found = self.path.stat()
            self.position, self.inode = max(0, found.st_size - keep_bytes), found.st_ino

    def read(self) -> list[str]:
        """Return the complete lines since the last call."""
        try:
            found = self.path.stat()
        except FileNotFoundError:
            return []
        if found.st_ino != self.inode or found.st_size < self.position:
            self.position, self.inode = 0, found.st_ino
        with self.path.open("rb") as log:
            log.seek(self.position)
            text = log.read()
        text = text[: text.rfind(b"\n") + 1]
        self.position += len(text)
        return text.decode("utf-8", "replace").splitlines()


class Logs:
    """The logs of the processes `names` (of all, when none is named); files may appear later."""

    def __init__(self, home: Path, names: Sequence[str] = ()) -> None:
        self.folder, self.names = home / "log", names
        self.files: dict[str, LogFile] = {}
        self.find()

    def find(self) -> None:
        for path in sorted(self.folder.glob("*.log")):
            wanted = path.stem in self.names if self.names else path.stem != "supervisord"
            if wanted and path.stem not in self.files:
                self.files[path.stem] = LogFile(path)

    def skip_to_end(self, keep_bytes: int = 0) -> None:
        for file in self.files.values():
            file.skip_to_end(keep_bytes)

    def new_lines(self, colour: bool) -> Iterator[str]:
        """Yield the new lines of all files, each with the name of its process in front."""
        self.find()
        width = max(map(len, self.files), default=0)
        for number, (name, file) in enumerate(self.files.items()):
            prefix = f"{name:{width}} | "
            if colour:
                prefix = f"\x1b[{COLOURS[number % len(COLOURS)]}m{prefix}\x1b[0m"
            yield from (prefix + line for line in file.read())

    def follow(self, colour: bool) -> Iterator[str]:
        """Yield new lines as they come, and an empty string after each look, so that the caller may stop."""
        while True:
            yield from self.new_lines(colour)
            yield ""
            time.sleep(FOLLOW_SECONDS)


def wants_colour(out: TextIO = sys.stdout) -> bool:
    return out.isatty() and not os.environ.get("NO_COLOR")
