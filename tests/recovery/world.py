"""Both systems on servers of a test's own: PostgreSQL with our schema and a WAL archive, and a nats-server.

Rows, keys and messages are written in this process; relay and flusher are called, or run as `bridge run`.
"""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psycopg
import pytest
from django.conf import settings
from django.db import connections
from psycopg.conninfo import conninfo_to_dict

from agents.models import Agent
from bridge import connection, setup
from bridge.fastpath import breaker
from bridge.relay import Memory, relay_batch
from bridge.session import open_session
from cockpit.servers import Nats, Postgres, Running
from cockpit.servers.postgres import wheel_folder
from tests.databases import TEMPLATE
from tests.recovery.story import SMALL

ROOT = Path(__file__).parents[2]
PROGRAMS = wheel_folder() / "pginstall" / "bin"


@dataclass
class World:
    """`restored` counts the servers that came out of backups."""

    home: Path
    root: Path
    postgres: Running
    nats: Running
    restored: int = 0
    agents: list[Agent] = field(default_factory=list)

    # -- servers ------------------------------------------------------------------------------------------------
    def connect(self) -> psycopg.Connection[Any]:
        return psycopg.connect(self.postgres.server.url(), autocommit=True)

    def ask(self, query: str, *parameters: Any) -> list[tuple[Any, ...]]:
        with self.connect() as session:
            found = session.execute(query, parameters)
            return found.fetchall() if found.description else []

    def environment(self) -> dict[str, str]:
        """For processes of ours."""
        return {
            **os.environ, "DATABASE_URL": self.postgres.server.url(), "NATS_URL": self.nats.server.url(),
            "MISTERSMITH_BACKUP_DIR": str(self.root), "DJANGO_SETTINGS_MODULE": "config.settings",
            "PYTHONPATH": str(ROOT),
        }  # fmt: skip

    def manage(self, *arguments: str) -> tuple[int, dict[str, Any], str]:
        """Run a command as a process; return exit code, JSON answer and standard error."""
        argv = [sys.executable, "manage.py", *arguments, "--json"]
        done = subprocess.run(
            argv, cwd=ROOT, env=self.environment(), capture_output=True, text=True, timeout=120
        )
        return done.returncode, json.loads(done.stdout or "{}"), done.stderr

    def use(self) -> None:
        """Let this process's connections go to our servers."""
        given = conninfo_to_dict(self.postgres.server.url())
        connections.close_all()
        for db in connections.all():
            db.settings_dict |= {
                "HOST": given["host"], "PORT": str(given["port"]), "USER": given["user"],
                "PASSWORD": given["password"], "NAME": given["dbname"],
            }  # fmt: skip
        connection.close()
        breaker.reset()
        settings.NATS_URL = self.nats.server.url()

    def start_restored(self, data: Path) -> None:
        """Put a server on a restored data directory, and let everything use it."""
        self.restored += 1
        home = self.home / f"restored-{self.restored}"
        (home / "postgres").mkdir(parents=True)
        home.chmod(0o711)
        (home / "postgres").chmod(0o711)
        (home / "postgres" / "password").write_text(self.postgres.server.password())
        data.rename(home / "postgres" / "data")
        self.postgres.stop()
        self.postgres = Running(Postgres(home, settings=SMALL, archive=self.root)).start()
        self.use()

    def lose_nats(self) -> None:
        """Lose JetStream's store, and start an empty server."""
        if self.nats.is_alive():
            self.nats.kill()
        shutil.rmtree(self.nats.server.directory / "jetstream")
        self.nats.start()
        connection.close()

    # -- work ---------------------------------------------------------------------------------------------------
    def make_agents(self, number: int) -> None:
        names = range(len(self.agents), len(self.agents) + number)
        made = [Agent(agent_type="reader", agent_name=f"agent {n}") for n in names]
        self.agents += Agent.objects.bulk_create(made)

    def put(self, agent: Agent, key: str, value: Any, **headers: str) -> int:
        """Write an agent's state as the agent does; return the revision."""
        subject, text = f"$KV.AGENT_STATE.{agent.pk}.{key}", json.dumps(value).encode()
        return connection.call(lambda c: c.jetstream.publish(subject, text, headers=headers or None)).seq

    def relay(self) -> None:
        """Bring all that waits to JetStream."""
        with open_session() as session:
            while relay_batch(session, Memory()).read:
                pass

    def stored(self, agent: Agent) -> dict[str, Any]:
        """What PostgreSQL has of an agent's state."""
        query = "SELECT state_key, state_value FROM agents.state WHERE agent_id = %s"
        return dict(self.ask(query, agent.pk))


def begin_world(home: Path, template_url: str) -> World:
    root = home / "backups"
    world = World(
        home, root, Running(Postgres(home, settings=SMALL, archive=root)).start(), Running(Nats(home)).start()
    )
    copy_schema(template_url, world.postgres.server.url())
    return world


def copy_schema(source: str, target: str) -> None:
    """Load the migrated template: quicker than migrating."""
    argv = [PROGRAMS / "pg_restore", "--no-owner", "--exit-on-error", f"--dbname={target}"]
    with subprocess.Popen([PROGRAMS / "pg_dump", "-Fc", "-Z0", source], stdout=subprocess.PIPE) as dump:
        subprocess.run(argv, stdin=dump.stdout, check=True, capture_output=True)
    assert dump.returncode == 0


@contextmanager
def in_world(world: World, patch: pytest.MonkeyPatch) -> Iterator[World]:
    """Let this process live in the world, and afterwards where it was."""
    usual = {db.alias: dict(db.settings_dict) for db in connections.all()}
    nats_url = settings.NATS_URL
    patch.setattr(settings, "BACKUP_DIR", world.root)
    world.use()
    try:
        yield world
    finally:
        connections.close_all()
        connection.close()
        for db in connections.all():
            db.settings_dict |= usual[db.alias]
        settings.NATS_URL = nats_url


@pytest.fixture(scope="module")
def shared_world(template_database: str, clones: Any, make_home: Any) -> Iterator[World]:
    home = make_home()
    world = begin_world(home, clones.url_of(TEMPLATE))
    yield world
    world.nats.stop()
    world.postgres.stop()
    shutil.rmtree(home, ignore_errors=True)


@pytest.fixture
def world(shared_world: World, django_db_setup: None, django_db_blocker: Any) -> Iterator[World]:
    """The module's world, with buckets and streams as declared; what a test leaves, the next one finds."""
    with (
        pytest.MonkeyPatch.context() as patch,
        django_db_blocker.unblock(),
        in_world(shared_world, patch) as world,
    ):
        setup.apply_plan(setup.make_plan(setup.read_found()))
        yield world


__all__ = ["shared_world", "world"]
