"""The pictures of the documentation can be taken; `make screenshots` keeps them, a test run throws them away."""

import os
import re
from pathlib import Path

import pytest

from tests.browser.screenshots import BY_HAND, FOLDER, SHOTS, take
from tests.marks import LATER

DOCS = Path(__file__).parents[2] / "docs"
MOST_BYTES = 250_000


@pytest.mark.parametrize(
    "name", [name if name in ("home", "search") else pytest.param(name, marks=LATER) for name in SHOTS]
)
def test_the_picture_can_be_taken(open_page, tmp_path, name):
    folder = FOLDER if os.environ.get("KEEP_SCREENSHOTS") else tmp_path
    take(open_page("/admin/", fresh=True), name, folder)
    assert 5_000 < (folder / f"{name}.png").stat().st_size < MOST_BYTES


def test_the_pictures_that_are_shown_are_those_that_are_taken():
    shown = {
        name
        for page in DOCS.rglob("*.md")
        for name in re.findall(r"screenshots/([\w-]+)\.png", page.read_text())
    }
    assert {path.stem for path in FOLDER.glob("*.png")} == set(SHOTS) | BY_HAND, (
        "make screenshots, and remove those of no use"
    )
    assert shown <= set(SHOTS) | BY_HAND, "name them in tests/browser/screenshots.py"
