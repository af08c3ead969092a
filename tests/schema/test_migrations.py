"""Migrations forwards, back to zero, and forwards again, as programs of their own on a scratch database."""

import os
import re
import subprocess
import sys

import pytest
from django.core.management import call_command

from tests.schema.catalog import ROOMS, ROOT

FORWARDS = "call_command('migrate', verbosity=0)"
# each room by name: a dependency that a migration forgot to declare must not hide behind another room's
BACKWARDS = "[call_command('migrate', label, 'zero', verbosity=0) for label in labels]"
# the newest one of each room that has an earlier one
NEWEST_BACK = """
for label in labels:
    names = sorted(name for app, name in MigrationLoader(None).disk_migrations if app == label)
    if len(names) > 1:
        call_command('migrate', label, names[-2], verbosity=0)
"""
SCRIPT = """
import django
django.setup()
from django.apps import apps
from django.core.management import call_command
from django.db.migrations.loader import MigrationLoader
migrated = MigrationLoader(None).migrated_apps
rooms = {rooms}
labels = [c.label for c in reversed(list(apps.get_app_configs())) if c.name in rooms and c.label in migrated]
others = [c.label for c in apps.get_app_configs() if c.name not in rooms and c.label in migrated]
{step}
"""
OBJECTS = """
SELECT 'relation ' || c.relkind::text || ' ' || n.nspname || '.' || c.relname
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE NOT EXISTS (SELECT FROM pg_depend d WHERE d.objid = c.oid AND d.deptype = 'e')
UNION ALL
SELECT 'function ' || n.nspname || '.' || p.oid::regprocedure
FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace
WHERE NOT EXISTS (SELECT FROM pg_depend d WHERE d.objid = p.oid AND d.deptype = 'e')
UNION ALL
SELECT 'type ' || n.nspname || '.' || t.typname
FROM pg_type t JOIN pg_namespace n ON n.oid = t.typnamespace
WHERE t.typcategory <> 'A'  -- an array goes with its element
  AND NOT EXISTS (SELECT FROM pg_depend d WHERE d.objid IN (t.oid, t.typrelid) AND d.deptype = 'e')
UNION ALL
SELECT 'schema ' || nspname FROM pg_namespace
UNION ALL
SELECT 'trigger ' || tgrelid::regclass || ' ' || tgname FROM pg_trigger WHERE NOT tgisinternal
UNION ALL
SELECT 'constraint ' || conrelid::regclass || ' ' || conname FROM pg_constraint WHERE conrelid <> 0
"""
SYSTEM = re.compile(r"\b(pg_catalog|information_schema|pg_toast|pg_temp)")


def run_step(database, step):
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT.format(rooms=ROOMS, step=step)],
        cwd=ROOT,
        env=os.environ | database.environ | {"DJANGO_SETTINGS_MODULE": "config.settings"},
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr[-3000:]


def objects_in(database):
    """Every object by kind and name; the day in a partition's name does not count, midnight may pass."""
    with database.connect() as connection:
        names = (row[0] for row in connection.execute(OBJECTS))
        return {re.sub(r"\d{4}_\d\d_\d\d", "day", name) for name in names if not SYSTEM.search(name)}


def test_the_newest_migrations_go_back_and_forwards_again(own_database):
    before = objects_in(own_database)
    run_step(own_database, NEWEST_BACK)
    assert objects_in(own_database) != before
    run_step(own_database, FORWARDS)
    assert objects_in(own_database) == before, "a .down.sql file does not undo its .sql file"


@pytest.mark.deep  # CI sees the same on each version, in tests/deep
def test_migrations_go_forwards_back_to_zero_and_forwards_again(empty_database):
    run_step(empty_database, "[call_command('migrate', label, verbosity=0) for label in others]")
    without_rooms = objects_in(empty_database)
    run_step(empty_database, FORWARDS)
    with_rooms = objects_in(empty_database)
    run_step(empty_database, BACKWARDS)
    left = objects_in(empty_database)
    assert left - without_rooms == set(), "a .down.sql file leaves these behind"
    assert without_rooms - left == set(), "a .down.sql file drops what was not its own"
    run_step(empty_database, FORWARDS)
    assert objects_in(empty_database) == with_rooms


@pytest.mark.django_db
def test_models_and_migrations_agree(capsys):
    try:
        call_command("makemigrations", check=True, dry_run=True, verbosity=1)
    except SystemExit:
        pytest.fail(f"write the migration for:\n{capsys.readouterr().out}")
