"""Migrations on a database that is at work."""

import pytest
from django.db import connection, connections

from cockpit import preparation
from pg.errors import Refused

pytestmark = pytest.mark.django_db(transaction=True)
CHANGE = "ALTER TABLE agents.registry ADD COLUMN more text"


def show_lock_timeout():
    with connection.cursor() as cursor:
        cursor.execute("SHOW lock_timeout")
        return cursor.fetchone()[0]


@pytest.fixture
def pending(monkeypatch):
    """A migration that changes a table in use."""

    def call_command(*_, **__):
        with connection.cursor() as cursor:
            cursor.execute(CHANGE)

    monkeypatch.setattr(preparation, "unapplied_migrations", lambda: ["agents.0002_more"])
    monkeypatch.setattr(preparation, "call_command", call_command)


def test_migration_that_waits_for_running_work_gives_up_with_a_hint(pending, monkeypatch):
    monkeypatch.setattr(preparation, "LOCK_TIMEOUT_MS", 50)
    other = connections["default"].copy()
    try:
        other.set_autocommit(False)
        with other.cursor() as cursor:
            cursor.execute("SELECT FROM agents.registry")
        with pytest.raises(Refused, match="did not get its lock") as caught:
            preparation.migrate()
        assert "manage.py prepare` again" in caught.value.hint
        assert show_lock_timeout() == "0"
        other.rollback()
    finally:
        other.close()
    assert preparation.migrate() == {"detail": "1 migrations applied"}
    assert show_lock_timeout() == "0"
