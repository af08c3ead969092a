"""A primary with streaming standbys on loopback, and a process that writes and reads through our pools meanwhile."""

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import psycopg

from cockpit.servers import Postgres, Running
from cockpit.servers.base import keep_private
from tests.tasks.conftest import eventually

ROOT = Path(__file__).parents[2]
QUICK = {"fsync": "off", "full_page_writes": "off", "wal_log_hints": "on", "hot_standby_feedback": "on"}
TABLES = """
CREATE SCHEMA agents;
CREATE TABLE agents.registry (agent_id uuid);
CREATE TABLE written (id uuid, worker int);
"""


@dataclass(frozen=True)
class Standby(Postgres):
    """A server that begins as a copy of `upstream` and follows it."""

    upstream: Postgres | None = field(default=None, hash=False)

    def configure(self) -> None:
        assert self.upstream is not None
        keep_private(self.directory / "password", self.upstream.password)  # roles are the same everywhere
        super().configure()

    def initialise(self) -> None:
        assert self.upstream is not None
        staging = self.data_parent() / "data.new"
        shutil.rmtree(staging, ignore_errors=True)
        staging.mkdir(mode=0o700)
        self.give_away(staging)
        source = self.upstream.url("postgres")
        self.run("pg_basebackup", "-D", str(staging), "-d", source, "-R", "-X", "stream", "-c", "fast")
        target = self.data_parent() / "data"
        staging.rename(target)
        if target != self.data:
            self.data.symlink_to(target)


class Cluster:
    """Servers by name: `a` is the primary to begin with. `sync`: what is acknowledged is on `b` too."""

    def __init__(
        self,
        make_home: Callable[[], Path],
        stack: ExitStack,
        standbys: str = "bc",
        sync: bool = True,
        tables: str = TABLES,
    ) -> None:
        def place() -> Path:
            home = make_home()
            stack.callback(shutil.rmtree, home, ignore_errors=True)
            return home

        first = Postgres(place(), settings={**QUICK, "cluster_name": "a"})
        self.servers = {"a": stack.enter_context(Running(first))}
        self.home = place()
        for name in standbys:
            standby = Standby(place(), settings={**QUICK, "cluster_name": name}, upstream=first)
            self.servers[name] = stack.enter_context(Running(standby))
        self.ask("a", tables)
        if sync:
            self.configure("a", "synchronous_standby_names", "FIRST 1 (b)")
        for name in standbys:
            eventually(lambda name=name: self.is_caught_up(name), 30)

    def url(self, *names: str) -> str:
        """Return one URL for these servers."""
        servers = [self.servers[name].server for name in names]
        first = servers[0]
        assert isinstance(first, Postgres)
        hosts = ",".join(f"127.0.0.1:{server.port()}" for server in servers)
        return f"postgresql://mistersmith:{first.password()}@{hosts}/mistersmith"

    def ask(self, name: str, query: str, *parameters: object) -> list[tuple[Any, ...]]:
        with psycopg.connect(self.url(name), autocommit=True, connect_timeout=5) as session:
            answer = session.execute(query, parameters or None)  # type: ignore[call-overload]
            return answer.fetchall() if answer.description else []

    def configure(self, name: str, setting: str, value: str) -> None:
        self.ask(name, f"ALTER SYSTEM SET {setting} = '{value}'")
        self.ask(name, "SELECT pg_reload_conf()")

    def is_caught_up(self, name: str) -> bool:
        (lsn,) = self.ask("a", "SELECT pg_current_wal_lsn()")[0]
        with suppress(psycopg.Error):
            return bool(self.ask(name, "SELECT pg_last_wal_replay_lsn() >= %s::pg_lsn", lsn)[0][0])
        return False

    def promote(self, name: str) -> float:
        """Promote a standby; return when it takes writes (monotonic seconds)."""
        assert self.ask(name, "SELECT pg_promote(true, 60)") == [(True,)]
        return time.monotonic()

    def follow(self, name: str, upstream: str) -> None:
        """Let a standby stream from another server."""
        server = self.servers[upstream].server
        assert isinstance(server, Postgres)
        conninfo = f"host=127.0.0.1 port={server.port()} user=mistersmith password={server.password()}"
        self.configure(name, "primary_conninfo", conninfo)

    def family(self, name: str) -> list[psutil.Process]:
        process = self.servers[name].process
        assert process is not None
        leash = psutil.Process(process.pid)
        return [leash, *leash.children(recursive=True)]

    @contextmanager
    def paused(self, name: str) -> Iterator[None]:
        """Stop all processes of a server: it holds its connections, and answers nobody."""
        family = self.family(name)
        for process in family:
            process.suspend()
        try:
            yield
        finally:
            for process in family:
                with suppress(psutil.NoSuchProcess):
                    process.resume()


@dataclass
class Event:
    """What a client did: `what` is "wrote", "read" or "failed"."""

    what: str
    at: float
    detail: str


class Client:
    """A process that writes and reads through our pools until it is ended."""

    def __init__(
        self, cluster: Cluster, url: str, writers: int = 0, readers: int = 0, **environ: str
    ) -> None:
        self.events: list[Event] = []
        argv = [sys.executable, "-m", "tests.faults.pool_client", str(writers), str(readers)]
        given = {
            "DATABASE_URL": url,
            "MISTERSMITH_PROCESS": "web",
            "MISTERSMITH_HOME": str(cluster.home),
            **environ,
        }
        self.log = cluster.home / "client.log"
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                argv, cwd=ROOT, env={**os.environ, **given}, stdout=subprocess.PIPE, stderr=log, text=True
            )
        self.thread = threading.Thread(target=self.collect, daemon=True)
        self.thread.start()

    def collect(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.events.append(Event(**json.loads(line)))

    def those(self, what: str, since: float = 0.0, detail: str = "") -> list[Event]:
        return [
            one for one in list(self.events) if one.what == what and one.at > since and detail in one.detail
        ]

    def sees(
        self, what: str, since: float, detail: str = "", number: int = 1, timeout_seconds: float = 60
    ) -> list[Event]:
        """Wait until that many events are there, and return them."""
        try:
            return eventually(
                lambda: (found := self.those(what, since, detail)) and len(found) >= number and found,
                timeout_seconds,
            )
        except AssertionError:
            last = "\n".join(map(str, self.events[-20:]))
            raise AssertionError(
                f"no {what} {detail}; the last events:\n{last}\n{self.log.read_text()[-3000:]}"
            ) from None

    def end(self) -> None:
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()
        self.thread.join(10)
        assert self.process.stdout is not None
        self.process.stdout.close()
