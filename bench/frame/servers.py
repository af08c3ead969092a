"""Servers for a benchmark: as `make up` runs them, on disk and with fsync, in a home of their own."""

import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from typing import Any

import psycopg

from bench.frame.machine import probe_fsync
from bench.frame.report import Report
from cockpit.servers import Nats, Postgres, Running, Valkey

# what a 2 GiB share of a machine would be given; everything that makes a commit durable stays as shipped
POSTGRES = {"shared_buffers": "1GB", "max_wal_size": "4GB", "checkpoint_timeout": "15min"}
TOLD = ("server_version", "shared_buffers", "max_wal_size", "fsync", "synchronous_commit", "full_page_writes")


@dataclass(frozen=True)
class Installation:
    """Running servers and a migrated database; the environment and Django's settings name them."""

    home: Path
    postgres: Running
    nats: Running
    valkey: Running

    @property
    def dsn(self) -> str:
        return self.postgres.server.url()


@contextmanager
def installation(
    report: Report | None = None, postgres: Mapping[str, str] = POSTGRES, folder: Path | None = None
) -> Iterator[Installation]:
    """Start the three servers, set Django up, migrate, make partitions; put everything away at the end.

    Import rooms only inside the block. With `report`, its `settings` get what the figures depend on. `folder` is
    where the data lies (default: the temporary folder, which must be on a disk).
    """
    with ExitStack() as stack:
        home = Path(tempfile.mkdtemp(prefix="mistersmith-bench-", dir=folder))
        stack.callback(shutil.rmtree, home, ignore_errors=True)
        home.chmod(0o711)
        found = Installation(
            home,
            stack.enter_context(Running(Postgres(home, settings=postgres))),
            stack.enter_context(Running(Nats(home))),
            stack.enter_context(Running(Valkey(home))),
        )
        os.environ |= {
            "MISTERSMITH_HOME": str(home),
            "DATABASE_URL": found.dsn,
            "NATS_URL": found.nats.server.url(),
            "CELERY_BROKER_URL": found.valkey.server.url(),
            "DJANGO_SETTINGS_MODULE": "config.settings",
            "LOG_LEVEL": "WARNING",
        }
        set_up_django(stack)
        if report is not None:
            report.settings |= {"fsync_probe": probe_fsync(home), **read_settings(found.dsn)}
            report.settings["nats_sync_interval"] = read_sync_interval(found.nats.server)
        yield found


def set_up_django(stack: ExitStack) -> None:
    import django
    from django.core.management import call_command

    django.setup()
    from django.db import connections

    from bridge import connection

    stack.callback(connections.close_all)
    stack.callback(connection.close)
    call_command("migrate", verbosity=0, interactive=False)
    call_command("partitions", "apply", stdout=StringIO())


def read_settings(dsn: str) -> dict[str, str]:
    with psycopg.connect(dsn) as connection:
        query = "SELECT name, current_setting(name) FROM unnest(%s::text[]) name"
        return {f"postgres_{name}": value for name, value in connection.execute(query, [list(TOLD)])}


def read_sync_interval(nats: Any) -> str:
    """Return what the written configuration says; `as shipped` (2 minutes) when it says nothing."""
    for text in nats.configuration.read_text().splitlines():
        if text.strip().startswith("sync_interval"):
            return str(text.partition(":")[2].strip())
    return "as shipped"
