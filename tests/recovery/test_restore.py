"""Restoring: only into what is new or empty, and with our own database gone."""

import json
from io import StringIO

import pytest
from django.core.management import CommandError, call_command
from django.db import connection

from recovery import catalogue
from recovery import restore as restoring
from recovery.errors import Damaged, TargetInUse, ToolFailed
from recovery.restore import plan_restore, restore
from tests.conftest import WORKER
from tests.recovery.conftest import biggest, environment_of, manage

TARGET = f"restored_{WORKER}"


@pytest.fixture(autouse=True)
def target(clones):
    clones.drop(TARGET)
    yield TARGET
    clones.drop(TARGET)


def answer(*arguments):
    out = StringIO()
    call_command("backup", *arguments, "--json", stdout=out)
    return json.loads(out.getvalue())


def test_a_dry_run_prints_the_steps_and_does_nothing(copy, clones):
    told = answer("restore", str(copy.pk), "--target-database", TARGET, "--dry-run")
    assert [step["action"] for step in told["steps"]] == ["check", "create", "load", "compare", "analyze"]
    assert "never verified" in told["warnings"][0]
    assert not clones.exists(TARGET)


def test_a_backup_is_restored_into_a_new_database(copy, clones):
    assert answer("restore", str(copy.pk)[:18], "--target-database", TARGET)["counts"] == {"problems": 0}
    with clones.connect() as session:
        owner = session.execute("SELECT datname FROM pg_database WHERE datname = %s", [TARGET])
        assert owner.fetchone()
    assert restored("SELECT count(*) FROM agents.registry") == 20
    assert restored("SELECT count(*) FROM odd.few") == 100
    assert restored('SELECT twice FROM odd."Un logged"') == 14


def restored(query):
    from recovery.server import home_server

    with home_server().connect(TARGET) as session:
        return session.execute(query).fetchone()[0]


def test_an_empty_database_will_do_and_extensions_do_not_count(copy, clones):
    clones.create(TARGET, template="template0")
    plan = plan_restore(str(copy.pk), TARGET)
    assert not plan.is_new
    assert restore(plan) == []


@pytest.mark.parametrize(
    "statement",
    [
        "CREATE TABLE t ()",
        "CREATE SCHEMA s",
        "CREATE VIEW v AS SELECT 1",
        "CREATE FUNCTION f() RETURNS int RETURN 1",
    ],
)
def test_a_database_with_anything_in_it_is_left_as_it_is(copy, clones, statement):
    with clones.create(TARGET, template="template0").connect() as session:
        session.execute(statement)
    with pytest.raises(TargetInUse, match="is left as it is"):
        plan_restore(str(copy.pk), TARGET)


def test_our_own_database_is_never_overwritten(copy):
    name = connection.settings_dict["NAME"]
    with pytest.raises(CommandError, match="exists and holds") as caught:
        call_command("backup", "restore", str(copy.pk), "--target-database", name)
    assert caught.value.returncode == 2


def test_a_damaged_backup_is_not_restored_from(copy, folder, clones):
    biggest(folder).write_bytes(b"")
    with pytest.raises(Damaged, match="has 0 bytes"):
        restore(plan_restore(str(copy.pk), TARGET))
    assert not clones.exists(TARGET)


def test_a_restore_that_fails_removes_the_database_that_it_made(copy, clones, monkeypatch):
    def fail(*_):
        raise ToolFailed("pg_restore ended with 1")

    monkeypatch.setattr(restoring, "load_dump", fail)
    with pytest.raises(ToolFailed):
        restore(plan_restore(str(copy.pk), TARGET))
    assert not clones.exists(TARGET)


def test_with_our_database_gone_the_list_and_the_restore_work(copy, backup_dir):
    """The disaster: nothing but the server and the backup folder is left."""
    env = environment_of(backup_dir, TARGET)
    code, told, _ = manage("list", env=env)
    assert code == 0
    assert [row["backup_id"] for row in told["items"]] == [str(copy.pk)]
    assert "cannot be read" in told["warnings"][0]
    code, told, _ = manage("logical", env=env)
    assert (code, told) == (2, {})
    code, told, _ = manage("restore", str(copy.pk), "--target-database", TARGET, env=env)
    assert (code, told["counts"]) == (0, {"problems": 0})
    code, told, _ = manage("list", env=env)
    assert (code, told["warnings"]) == (0, [])
    assert [row["status"] for row in told["items"]] == ["complete"]
    assert restored("SELECT status FROM recovery.backups") == "complete", "it was running in its own snapshot"


def test_a_backup_that_is_being_pruned_is_not_restored_from(copy, folder):
    with catalogue.in_use(folder, exclusively=True), pytest.raises(Exception, match="is being pruned"):
        restore(plan_restore(str(copy.pk), TARGET))


def test_newest_means_the_newest_verified_one(copy):
    with pytest.raises(CommandError, match="no logical backup is verified yet"):
        call_command("backup", "restore", "--target-database", TARGET)
