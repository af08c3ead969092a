"""MISTERSMITH_KNOWLEDGE=false: everything but `knowledge` and `demo` works, and nothing asks for pgvector."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.marks import LATER

pytestmark = LATER
ROOT = Path(__file__).parents[2]
SCHEMAS = "SELECT nspname FROM pg_namespace WHERE nspname IN ('agents', 'tasks', 'recovery', 'knowledge')"
PLAN = """
import django
django.setup()
from cockpit.management.commands.up import make_plan
print(make_plan(False, with_demo=True).with_demo)
"""
PAGES = """
import django
django.setup()
from django.apps import apps
from django.conf import settings
from django.contrib import admin
from django.contrib.auth.models import User
from django.test import Client
from django.urls import reverse
settings.STORAGES["staticfiles"]["BACKEND"] = "django.contrib.staticfiles.storage.StaticFilesStorage"
settings.STATIC_ROOT.mkdir(exist_ok=True)
client = Client(HTTP_HOST="localhost")
client.force_login(User.objects.create_superuser("smith"))
names = [f"admin:{m._meta.app_label}_{m._meta.model_name}_changelist" for m in admin.site._registry]
for name in ["admin:index", *names]:
    assert client.get(reverse(name)).status_code == 200, name
assert not apps.is_installed("knowledge") and not apps.is_installed("demo")
print(len(names))
"""


@pytest.fixture
def run(empty_database, own_home):
    """Run Python with the switch off, on a database of its own; return what it printed."""

    def run(*arguments, returncode=0):
        environ = os.environ | empty_database.environ | {"DJANGO_SETTINGS_MODULE": "config.settings"}
        environ |= {"MISTERSMITH_KNOWLEDGE": "false", "MISTERSMITH_HOME": str(own_home)}
        done = subprocess.run(
            [sys.executable, *arguments], cwd=ROOT, env=environ, capture_output=True, text=True, timeout=240
        )
        assert done.returncode == returncode, done.stdout[-2000:] + done.stderr[-3000:]
        return done.stdout

    return run


def test_an_installation_without_knowledge_works(run, empty_database):
    run("manage.py", "check")
    run("manage.py", "makemigrations", "--check", "--dry-run")
    run("manage.py", "prepare")
    with empty_database.connect() as session:
        assert {name for (name,) in session.execute(SCHEMAS)} == {"agents", "tasks", "recovery"}
        assert session.execute("SELECT FROM pg_extension WHERE extname = 'vector'").fetchone() is None
        (jobs,) = session.execute("SELECT array_agg(task) FROM django_celery_beat_periodictask").fetchone()
        assert not any(job.startswith(("knowledge.", "demo.")) for job in jobs)
        issues = "SELECT array_agg(consistency_check) FROM recovery.verify_data_consistency()"
        assert set(session.execute(issues).fetchone()[0]) == {"PASS"}
    assert int(run("-c", PAGES)) > 10
    assert run("-c", PLAN).strip() == "False"
    # nothing runs here but the servers: what doctor finds wrong is that, and not that knowledge is missing
    found = json.loads(run("manage.py", "doctor", "--json", returncode=1))
    assert "vector" not in json.dumps(found)
    assert "knowledge" not in json.dumps(found)


def test_knowledge_can_be_added_later(run, empty_database):
    run("manage.py", "migrate", "--verbosity=0")
    script = "import os; os.environ['MISTERSMITH_KNOWLEDGE'] = 'true'; import manage; manage.main()"
    run("-c", script, "migrate", "--verbosity=0")
    with empty_database.connect() as session:
        assert ("knowledge",) in session.execute(SCHEMAS).fetchall()
