"""Fixtures that every test may use. `tests/harness.py` has started the servers before this is imported."""

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from io import StringIO
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from django.conf import settings
from django.core.management import call_command
from django.db import connections
from django.test import TransactionTestCase

import bridge.connection
from cockpit.servers import Nats, Postgres, Running, Server, Valkey
from tests.crashes import refuse_crashes
from tests.databases import TEMPLATE, Clones, Database, lock_file
from tests.migration_locks import noting_locks

ADMIN_URL = os.environ["DATABASE_URL"]  # before the worker's own database takes its place
WORKER = os.environ.get("PYTEST_XDIST_WORKER", "gw")
SERVER_KINDS: dict[str, Callable[[Path], Server]] = {"postgres": Postgres, "nats": Nats, "valkey": Valkey}
_numbers = count(1)

# pages need no collected files here, and passwords that live for a second no expensive digest
settings.STORAGES["staticfiles"] = {"BACKEND": "django.contrib.staticfiles.storage.StaticFilesStorage"}
settings.PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]
Path(settings.STATIC_ROOT).mkdir(exist_ok=True)  # WhiteNoise warns without it


# -- databases ----------------------------------------------------------------------------------------------
@pytest.fixture(scope="session")
def clones() -> Clones:
    return Clones(ADMIN_URL)


@pytest.fixture(scope="session")
def template_database(clones: Clones, django_test_environment: None, django_db_blocker: Any) -> str:
    """The migrated database that all others are cloned from; the first worker makes it."""
    with lock_file(Path(os.environ["MISTERSMITH_HOME"]) / "template.lock"), django_db_blocker.unblock():
        if not clones.exists(TEMPLATE):
            migrate(clones)
    return TEMPLATE


def migrate(clones: Clones) -> None:
    """Build under another name, so that a failure leaves no half-made template behind."""
    clones.create(f"{TEMPLATE}_new", template="template0")
    use_database(f"{TEMPLATE}_new")
    with noting_locks():
        call_command("migrate", verbosity=0, interactive=False)
    call_command("partitions", "apply", stdout=StringIO())
    connections.close_all()
    clones.execute(f"ALTER DATABASE {TEMPLATE}_new RENAME TO {TEMPLATE}")


def use_database(name: str) -> None:
    """Let every alias of the settings that means our server use database `name`."""
    connections.close_all()
    for connection in connections.all():
        connection.settings_dict["NAME"] = name


@pytest.fixture(scope="session")
def django_db_setup(template_database: str, clones: Clones, django_db_blocker: Any) -> Iterator[None]:
    """pytest-django's own would migrate once per worker."""
    name = f"test_{WORKER}"
    with django_db_blocker.unblock():
        clones.create(name)
        use_database(name)
        os.environ["DATABASE_URL"] = clones.url_of(name)  # for processes that tests start
        yield
        connections.close_all()


@pytest.fixture(autouse=True, scope="session")
def clone_anew_after_commits() -> Iterator[None]:
    """Transactional tests leave what they committed: replace the database instead of emptying it.

    Django's flush sees neither tables in schemas of their own nor rows that migrations wrote.
    """
    patch = pytest.MonkeyPatch()
    patch.setattr(TransactionTestCase, "_fixture_teardown", replace_database)
    yield
    patch.undo()


def replace_database(test_case: Any) -> None:
    name = connections["default"].settings_dict["NAME"]
    connections.close_all()
    Clones(ADMIN_URL).create(name)


@pytest.fixture
def own_database(template_database: str, clones: Clones) -> Iterator[Database]:
    """A fresh clone of the migrated database for this test alone, for instance for processes that it starts."""
    name = f"own_{WORKER}_{next(_numbers)}"
    yield clones.create(name)
    clones.drop(name)


@pytest.fixture
def empty_database(clones: Clones) -> Iterator[Database]:
    """A database of this test's own without any of our tables."""
    name = f"empty_{WORKER}_{next(_numbers)}"
    yield clones.create(name, template="template0")
    clones.drop(name)


# -- servers ------------------------------------------------------------------------------------------------
@pytest.fixture(scope="session")
def nats_url() -> str:
    """The nats-server of this worker. Streams outlive a test: name them anew or remove them."""
    return os.environ["NATS_URL"]


@pytest.fixture(scope="session")
def broker_url() -> str:
    return os.environ["CELERY_BROKER_URL"]


@pytest.fixture(scope="session")
def make_home() -> Callable[[], Path]:
    """Make an empty MISTERSMITH_HOME with a short path, which PostgreSQL's user can enter."""

    def make() -> Path:
        home = Path(tempfile.mkdtemp(prefix="own-", dir=os.environ["MISTERSMITH_HOME"]))
        home.chmod(0o711)
        return home

    return make


@pytest.fixture
def own_home(make_home: Callable[[], Path]) -> Iterator[Path]:
    """An empty MISTERSMITH_HOME for this test alone."""
    home = make_home()
    yield home
    shutil.rmtree(home, ignore_errors=True)


@pytest.fixture
def restartable(own_home: Path) -> Iterator[Callable[[str], Running]]:
    """Start a server for this test alone, which it may `stop()`, `kill()` (-9) and `start()` again on its data.

    `restartable("nats")`, "postgres" or "valkey"; its address is `.server.url()`.
    """
    started: list[Running] = []

    def start(name: str) -> Running:
        started.append(Running(SERVER_KINDS[name](own_home)).start())
        return started[-1]

    yield start
    for running in reversed(started):
        running.stop()


@pytest.fixture(autouse=True, scope="session")
def no_server_crashes() -> Iterator[None]:
    """Whatever server a test stops, or had killed, must not have crashed by itself. That of the run: see harness.py."""
    stop = Running.stop

    def stop_and_look(running: Running) -> None:
        stop(running)
        refuse_crashes(running.log)

    patch = pytest.MonkeyPatch()
    patch.setattr(Running, "stop", stop_and_look)
    yield
    patch.undo()


@pytest.fixture(autouse=True, scope="session")
def link_ends_with_the_tests() -> Iterator[None]:
    """The servers stop after the last test: until then the bridge's link must be closed."""
    yield
    bridge.connection.close()


# -- pages --------------------------------------------------------------------------------------------------
@pytest.fixture(autouse=True, scope="session")
def uncollected_static_files() -> Iterator[None]:
    """Pages name static files as they are in the source; `collectstatic` belongs to `up`."""
    from django.conf import settings
    from django.test import override_settings

    plain = {"BACKEND": "django.contrib.staticfiles.storage.StaticFilesStorage"}
    settings.STATIC_ROOT.mkdir(exist_ok=True)
    with override_settings(STORAGES={**settings.STORAGES, "staticfiles": plain}):
        yield
