"""What the other tests rely on."""

import os
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path

import psutil
import psycopg
import pytest
from django.contrib.auth.models import User
from django.db import connection

from tests.harness import file_of, place_of, seconds_of
from tests.marks import LATER

ROOT = Path(__file__).parents[2]


@pytest.mark.django_db
def test_rolled_back_rows_are_gone_first():
    assert not User.objects.filter(username="rolled-back").exists()
    User.objects.create(username="rolled-back")


@pytest.mark.django_db
def test_rolled_back_rows_are_gone_second():
    test_rolled_back_rows_are_gone_first()


@pytest.mark.django_db(transaction=True)
def test_committed_rows_and_tables_are_gone_first():
    with connection.cursor() as cursor:
        cursor.execute("SELECT to_regclass('left_over')")
        assert cursor.fetchone() == (None,)
        cursor.execute("CREATE SCHEMA kept CREATE TABLE left_over (x int)")
        cursor.execute("CREATE TABLE left_over (x int)")
    assert not User.objects.filter(username="committed").exists()
    User.objects.create(username="committed")


@pytest.mark.django_db(transaction=True)
def test_committed_rows_and_tables_are_gone_second():
    test_committed_rows_and_tables_are_gone_first()


def test_own_database_is_migrated_and_no_one_elses(own_database):
    with own_database.connect() as own:
        assert own.execute("SELECT count(*) FROM django_migrations").fetchone() > (0,)
        assert own.execute("SELECT current_database()").fetchone() == (own_database.name,)


def test_servers_belong_to_the_run_and_not_to_make_up():
    assert Path(os.environ["MISTERSMITH_HOME"]).name.startswith("mistersmith-test-")
    with psycopg.connect(os.environ["DATABASE_URL"]) as session:
        port = session.info.port
    assert 20_001 <= port <= 32_767


@pytest.mark.parametrize(
    "number",
    [pytest.param(signal.SIGINT, marks=LATER), pytest.param(signal.SIGTERM, marks=LATER), signal.SIGKILL],
)
def test_an_ended_run_leaves_no_process(tmp_path, number):
    run = subprocess.Popen(
        start_of_run(tmp_path), cwd=ROOT, env=clean_environ(), stdout=subprocess.PIPE, text=True
    )
    try:
        assert "waits for its end" in next(line for line in run.stdout if "waits" in line)
        children = psutil.Process(run.pid).children(recursive=True)
        assert {child.name() for child in children} >= {"postgres", "nats-server", "valkey-server"}
        run.send_signal(number)
        run.communicate(timeout=30)
        _gone, alive = psutil.wait_procs(children, timeout=30)
        assert not alive
    finally:
        run.kill()


def start_of_run(folder):
    test = folder / "test_waiting.py"
    test.write_text("import threading\ndef test_waits():\n    print('waits for its end', flush=True)\n"
                    "    threading.Event().wait(60)\n")  # fmt: skip
    return [sys.executable, "-m", "pytest", "-s", "-c", "pyproject.toml", "--rootdir=.", str(test)]


def clean_environ():
    ours = ("PYTEST_", "REQUIRE_ALL")
    return {name: value for name, value in os.environ.items() if not name.startswith(ours)}


@pytest.mark.parametrize(
    ("require_all", "code", "said"),
    [
        ("1", 1, "was not run: no chromium"),
        pytest.param("", 0, "not run: 1 (no chromium)", marks=LATER),
    ],
)
def test_a_skip_fails_a_run_that_requires_all(tmp_path, require_all, code, said):
    test = tmp_path / "test_skipping.py"
    test.write_text("import pytest\ndef test_skips():\n    pytest.skip('no chromium')\n")
    argv = [sys.executable, "-m", "pytest", "-c", "pyproject.toml", "--rootdir=.", str(test)]
    environ = clean_environ() | {"REQUIRE_ALL": require_all}
    done = subprocess.run(argv, cwd=ROOT, env=environ, capture_output=True, text=True)
    assert done.returncode == code
    assert said in done.stdout


def test_what_names_its_length_is_run_singly_and_the_longest_of_all_first():
    names = [
        "tests/faults/test_tasks.py::test_a",
        "tests/faults/test_bridge.py::test_a[short]",
        "tests/faults/test_bridge.py::test_a[60-s-+3600s]",
        "tests/faults/test_processes.py::test_a[60-kills]",
        "tests/faults/test_task_workers.py::test_a[600-s]",
    ]
    numbers = Counter(file_of(name) for name in names)
    assert sorted(names, key=lambda name: place_of(name, numbers)) == names[::-1]
    assert [seconds_of(name) for name in names] == [0, 0, 60, 300, 600]
