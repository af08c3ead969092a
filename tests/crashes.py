"""Backends that ended by a fault of the server: PostgreSQL starts again by itself, and no client may have noticed."""

import re
from pathlib import Path

# SIGSEGV alone: tests kill with SIGKILL, and a full disk may end a server by an abort of its own
CRASH = re.compile(
    r"^.*was terminated by signal 11.*\n(?:(?!\S+ \S+ \S+ \[).*\n|.*DETAIL: .*\n)*", re.MULTILINE
)


def crashes(log: Path) -> list[str]:
    """Return what a server's log says of each crash, with the statement; none where there is no log."""
    return CRASH.findall(log.read_text("utf-8", "replace")) if log.exists() else []


def refuse_crashes(log: Path) -> None:
    found = crashes(log)
    assert not found, f"{log}: the server crashed {len(found)} times\n{found[0]}"
