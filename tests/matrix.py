"""Pytest plugin: the table of what was seen on which version of PostgreSQL, printed when all is done.

A plugin, for the process that prints it collects nothing with xdist. Tests note the cells: tests/deep/conftest.py.
"""

from typing import Any

import pytest

COLUMNS = ("server", "pgvector", "migrations", "story", "tests", "seconds")
_seen: dict[int, dict[str, str]] = {}


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
