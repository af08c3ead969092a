"""Processes that fork after the bridge was used: each child has a connection of its own, and what it saves is in KV at
once, by the fast path: no relay runs here."""

import json
import os
import subprocess
import sys
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from celery import Celery
from django.db import connection as db

from agents.models import Agent
from cockpit.servers.ports import free_port
from tests.bridge.conftest import rows, value, wait_until
from tests.tasks.conftest import celery  # noqa: F401  (a fixture)

pytestmark = [pytest.mark.servers, pytest.mark.usefixtures("jetstream")]
ROOT = Path(__file__).parents[2]
MOST = 200


def saved_by_two(save):
    """Save key after key until two processes have; return what each key should hold."""
    found = {}
    while len({told["pid"] for told in found.values()}) < 2:
        assert len(found) < MOST, "one process did it all"
        keys = [f"key.{len(found) + n}" for n in range(8)]
        with ThreadPoolExecutor(8) as pool:
            found |= dict(zip(keys, pool.map(save, keys), strict=True))
    return found


def check(agent, found, parent=None):
    clients = {told["pid"]: told["client"] for told in found.values()}
    assert len(set(clients.values()) | {parent}) == len(clients) + 1, "two processes on one connection"
    for key, told in found.items():
        wait_until(lambda key=key, told=told: value("AGENT_STATE", f"{agent.pk}.{key}") == told)


def test_gunicorn_with_preload(agent, committed, tmp_path):
    url, log = f"http://127.0.0.1:{free_port()}", tmp_path / "gunicorn.log"
    command = [
        sys.executable,
        "-m",
        "gunicorn",
        "tests.bridge.forks.wsgi",
        "--preload",
        "--no-control-socket",
    ]
    command += ["--workers=2", "--threads=4", "--bind", url.removeprefix("http://")]

    def save(key):
        with urllib.request.urlopen(f"{url}/?agent_id={agent.pk}&key={key}", timeout=30) as answer:  # noqa: S310  (our own)
            return json.load(answer)

    with log.open("wb") as out:
        server = subprocess.Popen(command, cwd=ROOT, stdout=out, stderr=out, env=os.environ)
    try:
        wait_until(lambda: log.read_text().count("Booting worker") == 2 or server.poll(), 60)
        found = saved_by_two(save)
        (master,) = {told.pop("master") for told in found.values()}
        check(agent, found, master)
    finally:
        server.terminate()
        server.wait(30)
        print(log.read_text())  # noqa: T201  (pytest shows it with a failure)


def test_celery_with_prefork(celery, broker_url):  # noqa: F811
    agent = Agent.objects.create(agent_type="worker", agent_name="forks")
    app = Celery(broker=broker_url, set_as_current=False)  # nothing that another test has set

    def save(key):
        app.send_task("forks.save", [str(agent.pk), key], queue="mistersmith")
        query = "SELECT state_value::text FROM agents.state WHERE state_key = %s"
        try:
            return json.loads(wait_until(lambda: rows(query, key), 60)[0][0])
        finally:
            db.close()  # this thread's

    options = ["--concurrency=2", "--loglevel=INFO", "--without-gossip", "--without-mingle"]
    with celery("worker", *options, MISTERSMITH_APPS="tests.bridge.forks") as worker:
        wait_until(lambda: " ready." in worker.log, 60)
        check(agent, saved_by_two(save))
    app.close()
