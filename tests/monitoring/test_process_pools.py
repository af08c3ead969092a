"""What each process says of its pools, and where it shows: /metrics, the admin, `manage.py pools status`."""

import os
import re
import subprocess
import sys
from datetime import timedelta

import pytest
from django.db import connection
from django.utils import timezone

from monitoring import process_pools
from monitoring.models import ProcessPool
from monitoring.process_pools import figures_of, read_own
from tests.monitoring.test_pools_command import rows, run
from tests.versions import ROOT

ROW = {"process": "worker", "host": "h", "pid": 7, "pool": "default", "maximum": 5, "connections": 4, "idle": 0,
       "waiting": 2, "requests": 10, "waited_seconds": 1.5, "refused": 1, "lost": 0}  # fmt: skip


@pytest.fixture
def pool(db):
    return ProcessPool.objects.create(**ROW)


def test_each_process_shows_in_metrics_whoever_is_asked(client, pool):
    ProcessPool.objects.create(**ROW | {"process": "bridge", "maximum": None})
    page = client.get("/metrics").content.decode()
    labels = 'host="h",pid="7",pool="default",process="%s"'
    for name, value in (("connections", "4.0"), ("waiting_requests", "2.0"), ("waited_seconds", "1.5")):
        assert f"mistersmith_pool_{name}{{{labels % 'worker'}}} {value}" in page
    assert f"mistersmith_pool_maximum{{{labels % 'worker'}}} 5.0" in page
    assert not re.search(r"mistersmith_pool_maximum\{[^}]*bridge", page), "it has no pool"


def test_a_process_that_is_silent_shows_no_more(client, pool):
    ProcessPool.objects.update(seen_at=timezone.now() - timedelta(minutes=1))
    assert 'pid="7"' not in client.get("/metrics").content.decode()
    assert rows(run("status")[1], "process") == {}


def test_status_and_the_admin_show_them(admin_client, pool):
    told = rows(run("status")[1], "process")["worker h:7"]
    assert told["connections"] == "4/5"
    assert "10 requests waited 1.5 s, 1 got none in time" in told["detail"]
    page = admin_client.get("/admin/monitoring/processpool/").content.decode()
    assert "150.0 ms" in page


def test_figures_that_are_left_out_are_zero():
    assert figures_of({"pool_max": 3, "requests_wait_ms": 250}) == {
        "maximum": 3, "connections": 0, "idle": 0, "waiting": 0, "requests": 0, "waited_seconds": 0.25, "refused": 0,
        "lost": 0,
    }  # fmt: skip


def test_a_command_tells_nothing_of_itself():
    process_pools.ensure_reporter()
    assert process_pools._thread is None


REPORTS = """
import django
django.setup()
from django.db import connection, connections
from django.conf import settings
import time
with connection.cursor() as cursor:
    cursor.execute("SELECT 1")
    deadline = time.monotonic() + 60
    while True:  # the thread began with the first connection
        cursor.execute(
            "SELECT pool, connections, maximum FROM monitoring.process_pools"
            " WHERE process = %s AND connections > 0",
            [settings.PROCESS_KIND],
        )
        if found := cursor.fetchall():
            break
        assert time.monotonic() < deadline
print(found)
"""


@pytest.mark.parametrize(("kind", "size"), [("web", "4/0"), ("bridge", "4/0")])
def test_a_process_reports_by_itself_though_all_its_connections_are_in_use(own_database, kind, size):
    """One connection for each of four processes, and the one in use: the report finds a way beside the pool."""
    environ = {**os.environ, "DATABASE_URL": own_database.url, "MISTERSMITH_PROCESS": kind,
               "DJANGO_SETTINGS_MODULE": "config.settings", "MISTERSMITH_POOL_PRIMARY": size}  # fmt: skip
    argv = [sys.executable, "-c", REPORTS]
    done = subprocess.run(argv, cwd=ROOT, env=environ, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    ((pool, _, maximum),) = eval(done.stdout)  # noqa: S307  (our own child's)
    assert (pool, maximum) == ("default", 1 if kind == "web" else None)


def test_own_figures_have_the_columns_of_the_table(db):
    connection.ensure_connection()
    own = read_own()
    for row in own:
        assert set(row) == {field.name for field in ProcessPool._meta.fields} - {"started_at", "seen_at"}
