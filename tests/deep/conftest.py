"""The table of what was seen on which version of PostgreSQL, printed when all is done."""

from collections.abc import Callable
from typing import Any

import pytest

COLUMNS = ("server", "pgvector", "migrations", "story", "tests", "seconds")
_seen: dict[int, dict[str, str]] = {}


@pytest.fixture
def matrix(major: int, record_property: Callable[[str, Any], None]) -> Callable[..., None]:
    """Note cells of this version's row: `matrix(story="told")`."""

    def note(**cells: str) -> None:
        for name, text in cells.items():
            record_property(f"matrix {name}", [major, text])

    return note


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    if report.when == "call":
        for name, value in report.user_properties:
            if name.startswith("matrix "):
                major, text = value
                shown = text if report.passed else f"{text} FAILED"
                _seen.setdefault(major, {})[name.removeprefix("matrix ")] = shown


def pytest_terminal_summary(terminalreporter: Any) -> None:
    if not _seen:
        return
    rows = [COLUMNS, *([_seen[major].get(name, "-") for name in COLUMNS] for major in sorted(_seen))]
    widths = [max(len(row[column]) for row in rows) for column in range(len(COLUMNS))]
    terminalreporter.section("PostgreSQL versions")
    for row in rows:
        cells = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        terminalreporter.write_line("  ".join(cells).rstrip())
