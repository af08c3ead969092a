"""The fixture `faults`, and the table of what the fault tests counted: see docs/testing.md."""

import json
import os
import platform
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from cockpit.servers import Running
from tests.faults.installation import INSERT, PATIENCE_SECONDS, Installation
from tests.faults.ledger import Faults, add_up, make_table
from tests.tasks.conftest import eventually

ROOT = Path(__file__).parents[2]
PROPERTY = "faults"
_records: dict[str, dict[str, Any]] = {}


@pytest.fixture(autouse=True)
def faults() -> Faults:
    """Counts what this test breaks and what comes of it. Every fault test has it, and fails when it counts nothing."""
    return Faults()


@pytest.fixture
def installation(restartable: Callable[[str], Running], tmp_path: Path) -> Iterator[Installation]:
    """Three servers, the bridge, a worker and beat, that have done their first task."""
    with ExitStack() as stack:
        made = Installation(tmp_path, {name: restartable(name) for name in ("postgres", "nats", "valkey")})
        stack.callback(made.end)
        prepared = made.manage("prepare")
        assert prepared.returncode == 0, prepared.stderr
        made.start("bridge", "manage.py", "bridge", "run")
        made.start("worker", "-m", "celery", "-A", "config", "worker", "--concurrency=2", "--without-gossip")
        made.start("beat", "-m", "celery", "-A", "config", "beat")
        made.ask(INSERT, 1, 1)
        eventually(lambda: made.completed() == 1, PATIENCE_SECONDS)
        yield made


# -- what was counted ---------------------------------------------------------------------------------------
@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Iterator[None]:
    """Keep the counts, of a test that fails too, and let them decide about one that would pass."""
    counted = getattr(item, "funcargs", {}).get(PROPERTY)
    try:
        result = yield
        if counted is not None:
            counted.check()
        return result
    finally:
        if counted is not None:
            item.user_properties.append((PROPERTY, counted.record()))


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    counts = dict(report.user_properties).get(PROPERTY)
    if report.when == "call" and isinstance(counts, dict):
        name = report.nodeid.removeprefix("tests/faults/")
        told = {"test": name, "outcome": report.outcome, "seconds": round(report.duration, 2)}
        _records[report.nodeid] = told | counts


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Print the table; write it where FAULT_COUNTS says (`make faults` does)."""
    records = list(_records.values())
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
