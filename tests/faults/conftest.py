"""The fixture `faults`, which counts: see docs/testing.md. tests/faults/table.py prints what was counted."""

import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from cockpit.servers import Running
from tests.conftest import SERVER_KINDS
from tests.faults.installation import Installation
from tests.faults.ledger import PROPERTY, Faults
from tests.marks import LATER
from tests.tasks.conftest import agent_id, celery, other_id, worker

__all__ = ["agent_id", "celery", "other_id", "worker"]  # fixtures of the tasks room
HERE, PASSED = Path(__file__).parent, pytest.StashKey[bool]()


@pytest.fixture(autouse=True)
def faults() -> Faults:
    """Counts what this test breaks and what comes of it. Every fault test has it, and fails when it counts nothing."""
    return Faults()


class Shelf:
    """Keeps the installation that a test has left in order, for the next test of its module."""

    def __init__(self, make: Callable[[ExitStack], Installation]) -> None:
        self.make, self.stack = make, ExitStack()
        self.kept: Installation | None = None

    def take(self) -> Installation:
        if self.kept is None:
            self.kept = self.make(self.stack)
        return self.kept

    def throw_away(self) -> None:
        self.kept = None
        self.stack.close()


@pytest.fixture(scope="module")
def shelf(make_home: Callable[[], Path]) -> Iterator[Shelf]:
    def make(stack: ExitStack) -> Installation:
        home = make_home()
        stack.callback(shutil.rmtree, home, ignore_errors=True)
        servers = {name: stack.enter_context(Running(kind(home))) for name, kind in SERVER_KINDS.items()}
        made = Installation(home, servers)
        stack.callback(made.end)
        made.begin()
        return made

    shelf = Shelf(make)
    yield shelf
    shelf.throw_away()


@pytest.fixture
def installation(request: pytest.FixtureRequest, shelf: Shelf) -> Iterator[Installation]:
    """Three servers, the bridge, a worker and beat, at work; shared within a module for as long as its tests pass."""
    made = shelf.take()
    yield made
    if not request.node.stash.get(PASSED, False):
        print(made.tell())  # noqa: T201  (pytest shows it with the failure)
        shelf.throw_away()


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Faults take long: CI has the short ones after everything else (`make test-ci`), `make faults` has all."""
    for item in items:
        if item.path.is_relative_to(HERE) and not item.get_closest_marker("deep"):
            for mark in LATER:
                item.add_marker(mark)


# -- what was counted ---------------------------------------------------------------------------------------
@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Iterator[None]:
    """Keep the counts, of a test that fails too, and let them decide about one that would pass."""
    counted = getattr(item, "funcargs", {}).get(PROPERTY)
    try:
        result = yield
        if counted is not None:
            counted.check()
        item.stash[PASSED] = True
        return result
    finally:
        if counted is not None:
            item.user_properties.append((PROPERTY, counted.record()))
