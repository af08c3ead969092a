"""A migration on a database at work: whoever wants several tables takes all their locks first, or none."""

import pytest

from tests.migration_locks import Noted, rank, read_notes

EXEMPT = "0001_initial"  # run on an empty database, before anything works


@pytest.fixture
def notes(template_database):
    return [noted for noted in read_notes() if not noted.migration.endswith(EXEMPT)]


def late_locks(noted: Noted) -> dict[str, str]:
    """Return what the migration locked after its first operation, if it then held more than one table."""
    late = {table: mode for table, mode in noted.last.items() if rank(noted.first.get(table)) < rank(mode)}
    return late if len(noted.last) > 1 else {}


def test_all_locks_come_with_the_first_operation(notes):
    late = {noted.migration: found for noted in notes if (found := late_locks(noted))}
    assert late == {}, (
        "these take a lock while they hold another: a client's statement may wait for the one and hold the other,"
        " and PostgreSQL may end it. Begin the migration with pg.locks.LockTables({table: mode, ...}); partitions"
        " are locked with their table"
    )


def test_what_migrations_lock_was_seen(notes):
    """Else the test above would see nothing wrong in nothing."""
    seen = {noted.migration: noted.last for noted in notes}
    assert seen["bridge.0003_inbound"]["bridge.outbox"] == "ACCESS EXCLUSIVE"
    assert seen["bridge.0003_inbound"]["agents.state_0"] == "SHARE ROW EXCLUSIVE"


@pytest.mark.parametrize(
    ("first", "last", "late"),
    [
        ({}, {"a": "SHARE"}, {}),
        ({"a": "SHARE"}, {"a": "SHARE", "b": "SHARE"}, {"b": "SHARE"}),
        ({"a": "SHARE", "b": "SHARE"}, {"a": "SHARE", "b": "EXCLUSIVE"}, {"b": "EXCLUSIVE"}),
        ({"a": "SHARE", "b": "ACCESS EXCLUSIVE"}, {"a": "SHARE", "b": "ACCESS EXCLUSIVE"}, {}),
    ],
)
def test_what_is_late(first, last, late):
    assert late_locks(Noted("room.0002_more", first, last)) == late
