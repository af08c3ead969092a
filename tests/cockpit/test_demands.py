"""What the schema demands of a server is looked at before anything is changed."""

import os
import subprocess
import sys
from pathlib import Path

import psycopg
import pytest
from django.core.management import CommandError, call_command
from django.db import connection

from cockpit.servers import Running
from pg import demands
from tests.versions import PROGRAMS, has_programs, make_server

DEBIAN = PROGRAMS[15]
CHECKOUT = Path(__file__).parents[2]


@pytest.fixture
def server_without_pgvector(own_home):
    if not has_programs(15):
        pytest.skip("postgresql-15 is not installed: make system-deps")
    if (DEBIAN.parents[2] / "share/postgresql/15/extension/vector.control").is_file():
        pytest.skip("postgresql-15-pgvector is installed")
    with Running(make_server(15, own_home)) as running:
        yield running.server


def test_missing_pgvector_is_named_with_its_package_before_anything_is_changed(server_without_pgvector):
    url = server_without_pgvector.url()
    argv = [sys.executable, str(CHECKOUT / "manage.py"), "migrate"]
    done = subprocess.run(argv, env={**os.environ, "DATABASE_URL": url}, capture_output=True, text=True)
    assert done.returncode == 2, done.stderr
    assert "PostgreSQL 15 has no extension vector (pgvector)" in done.stderr
    assert "HINT: install the package postgresql-15-pgvector" in done.stderr
    assert "Traceback" not in done.stderr
    with psycopg.connect(url) as session:
        tables = "SELECT count(*) FROM pg_tables WHERE schemaname NOT IN ('pg_catalog', 'information_schema')"
        assert session.execute(tables).fetchone() == (0,)


@pytest.mark.django_db
def test_server_that_is_too_old_is_refused(monkeypatch):
    monkeypatch.setattr(demands, "server_major", lambda connection: 14)
    with pytest.raises(CommandError, match="PostgreSQL 14 is too old: 15 or newer") as caught:
        call_command("migrate", verbosity=0)
    assert caught.value.returncode == 2
    assert "HINT: upgrade the server" in str(caught.value)


@pytest.mark.django_db
def test_extension_that_only_a_superuser_may_create_is_named():
    with connection.cursor() as cursor:
        cursor.execute("DROP EXTENSION vector CASCADE")
        cursor.execute("CREATE ROLE plain NOSUPERUSER")
        cursor.execute("SET LOCAL ROLE plain")
    with pytest.raises(demands.Refused, match="extension vector is not created") as caught:
        demands.require_fit_server(connection)
    assert caught.value.hint.endswith("CREATE EXTENSION vector")
