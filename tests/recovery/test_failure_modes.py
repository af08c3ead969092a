"""The documentation names a test for each way to fail; each of them is there."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
HEADING = "## Each way to fail, and its test"


def test_every_test_that_the_documentation_names_is_there():
    text = (ROOT / "docs/recovery.md").read_text().partition(HEADING)[2]
    named = set(re.findall(r"`(test_\w+)`", text))
    rows = [line for line in text.splitlines() if line.startswith("| ")][1:]
    there = {
        name
        for folder in ("tests/recovery", "tests/faults")
        for path in (ROOT / folder).glob("test_*.py")
        for name in re.findall(r"^def (test_\w+)", path.read_text(), re.MULTILINE)
    }
    assert len(rows) > 25, f"docs/recovery.md lacks its table below {HEADING!r}"
    assert not [row for row in rows if "`test_" not in row], (
        "each way to fail needs a test: write it, then name it"
    )
    assert not named - there, "docs/recovery.md names tests that are gone: rename them there, too"
