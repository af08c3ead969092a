"""Rooms import downwards only. The picture is in docs/design.md."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
ORDER = [
    {"pg"},
    {"operators"},
    {"monitoring"},
    {"partitions"},
    {"agents"},
    {"tasks", "messaging", "sessions", "knowledge"},
    {"bridge"},
    {"recovery"},
    {"cockpit"},
    {"demo"},
]
ROOMS = sorted(set.union(*ORDER))
# entered by no room; `config.env` and `config.checks` belong to config itself
FORBIDDEN = {"config", "tests", "bench"}


def rooms_below(room: str) -> set[str]:
    level = next(number for number, rooms in enumerate(ORDER) if room in rooms)
    return set.union(set(), *ORDER[:level])


def imported_packages(path: Path) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and not node.level and node.module:
            names.add(node.module.split(".")[0])
    return names


@pytest.mark.parametrize("room", ROOMS)
def test_room_imports_only_what_lies_below(room):
    allowed = rooms_below(room) | {room}
    for path in sorted((ROOT / room).rglob("*.py")):
        used = imported_packages(path) & (set(ROOMS) | FORBIDDEN)
        assert used <= allowed, (
            f"{path.relative_to(ROOT)} imports {sorted(used - allowed)}: {room} may import {sorted(rooms_below(room))}."
            " Move the code to the room that it belongs to, or meet in bridge, by a signal, or by an id."
        )


def test_config_imports_no_room():
    for path in sorted((ROOT / "config").rglob("*.py")):
        used = imported_packages(path) & set(ROOMS)
        assert not used, (
            f"{path.relative_to(ROOT)} imports {sorted(used)}: config names rooms as strings only."
        )


def test_every_room_is_in_the_picture():
    packages = {path.parent.name for path in ROOT.glob("*/apps.py")} - {"config"}
    assert packages == set(ROOMS)
