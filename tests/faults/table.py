"""Pytest plugin: the table of what the fault tests counted, printed when all is done.

A plugin, as tests/matrix.py is, for the process that prints it collects nothing with xdist. The counts come with the
reports of tests: see tests/faults/conftest.py.
"""

import json
import os
import platform
import subprocess
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from tests.faults.ledger import PROPERTY, add_up, make_table

HERE, ROOT = "tests/faults/", Path(__file__).parents[2]
NOTHING: dict[str, dict[str, int]] = {"faults": {}, "work": {}, "wrong": {}}
_records: dict[str, dict[str, Any]] = {}


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    if report.nodeid.startswith(HERE) and (report.when == "call" or report.failed):
        add(_records, report)


def add(records: dict[str, dict[str, Any]], report: pytest.TestReport) -> None:
    """Add a test to the records: one that failed before it counted anything, or a process that died of it, too."""
    counts = dict(report.user_properties).get(PROPERTY, NOTHING)
    before = records.get(report.nodeid, {"seconds": 0.0})
    records[report.nodeid] = {
        "test": report.nodeid.removeprefix(HERE),
        "outcome": report.outcome if report.when == "call" else "error",
        "seconds": round(before["seconds"] + report.duration, 2),
        **counts,
    }


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Print the table; write it where FAULT_COUNTS says (`make faults` does)."""
    records = [_records[nodeid] for nodeid in sorted(_records)]
    if records:
        terminalreporter.section("faults")
        for line in make_table(records):
            terminalreporter.write_line(line)
    if path := os.environ.get("FAULT_COUNTS"):
        write(Path(path), records)
        terminalreporter.write_line(f"written to {path}")


def write(path: Path, records: list[dict[str, Any]]) -> None:
    made = {
        "made_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": commit(),
        "machine": {
            "cpus": os.cpu_count(),
            "system": platform.platform(),
            "python": platform.python_version(),
        },
        "totals": add_up(records),
        "tests": records,
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(made, indent=1) + "\n")


def commit() -> str:
    """Return the commit that was tested, with "+" when files differ from it; "" outside a repository."""
    argv = ["git", "describe", "--always", "--abbrev=12", "--dirty=+", "--match=nothing"]
    told = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, check=False)
    return told.stdout.strip()
