"""What the pages tell an operator to run is there, and each check of doctor is explained."""

import argparse
import re
from pathlib import Path

import pytest
from django.core.management import get_commands, load_command_class

from monitoring.registry import checks

ROOT = Path(__file__).parents[1]
PAGES = sorted([ROOT / "README.md", *ROOT.glob("docs/*.md")])
CALL = re.compile(r"manage\.py (?!commands\b)([a-z_]+)(?: ([a-z_]+))?")


def test_each_check_of_doctor_is_explained():
    page = (ROOT / "docs/troubleshoot.md").read_text().partition("## What doctor says")[2]
    named = set(re.findall(r"`([a-z]+\.[a-z_]+)`", page))
    missing = {check.name for check in checks()} - named
    assert not missing, (
        f"docs/troubleshoot.md, What doctor says: add a row that says what to do for {missing}"
    )


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_each_command_that_a_page_names_is_there(page):
    wrong = sorted({" ".join(call) for call in CALL.findall(page.read_text()) if not is_there(*call)})
    assert not wrong, f"{page.name} names commands that manage.py does not have: {wrong}"


def is_there(command, verb):
    if command not in get_commands():
        return False
    verbs = verbs_of(command)
    return not verb or not verbs or verb in verbs


def verbs_of(command):
    parser = load_command_class(get_commands()[command], command).create_parser("manage.py", command)
    found = [action for action in parser._actions if isinstance(action, argparse._SubParsersAction)]
    return set(found[0].choices) if found else set()
