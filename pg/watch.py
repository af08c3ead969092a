"""Looks at the servers twice a second while this process uses more than one: who leads, who lags, who is gone.

One thread per server, each with a connection of its own (application_name `... watch`), so that one that hangs holds
nobody up; one more thread notices that, and cuts what hangs there.
"""

import logging
import os
import threading
from collections.abc import Mapping
from time import monotonic
from typing import Any

import psycopg
from django.conf import settings
from django.db import DEFAULT_DB_ALIAS, connections

from pg.guard import cut, one_row
from pg.opener import at, guard, hosts_of, name_of
from pg.pool import pools
from pg.replicas import STALE_SECONDS, replicas

log = logging.getLogger(__name__)
PAUSE_SECONDS = 0.5
RENEW_SECONDS = 30.0  # a name may mean another server by then
PRIMARY = """
SELECT pg_is_in_recovery(), (SELECT system_identifier::text FROM pg_control_system()),
       CASE WHEN pg_is_in_recovery() THEN 0
            ELSE ('x' || left(pg_walfile_name(pg_current_wal_lsn()), 8))::bit(32)::int END,
       CASE WHEN pg_is_in_recovery() THEN 0 ELSE pg_wal_lsn_diff(pg_current_wal_insert_lsn(), '0/0')::bigint END
"""
# received_tli is for pg_read_all_stats; pg_control_checkpoint() tells of a new timeline at the next restart point
REPLICA = """
SELECT r.is_standby,
       CASE WHEN r.is_standby
            THEN greatest((SELECT timeline_id FROM pg_control_checkpoint()), (SELECT received_tli FROM
            pg_stat_wal_receiver)) ELSE ('x' || left(pg_walfile_name(pg_current_wal_lsn()), 8))::bit(32)::int END,
       pg_wal_lsn_diff(CASE WHEN r.is_standby THEN pg_last_wal_replay_lsn() ELSE pg_current_wal_lsn() END,
       '0/0')::bigint
FROM (SELECT pg_is_in_recovery() AS is_standby) r
"""


class Probe:
    """Asks one server, again and again. `params`: of psycopg.connect."""

    def __init__(self, name: str, params: Mapping[str, Any]) -> None:
        self.name, self.params = name, params
        self.connection: psycopg.Connection[Any] | None = None
        self.opened_at = 0.0

    def run(self, ended: threading.Event) -> None:
        while not ended.is_set():
            try:
                self.turn()
            except psycopg.Error as error:
                self.close()
                self.failed(str(error))
            except Exception:  # the thread must go on
                log.exception("watch of %s", self.name)
                self.close()
            ended.wait(PAUSE_SECONDS)
        self.close()

    def turn(self) -> None:
        if self.connection is None or monotonic() - self.opened_at > RENEW_SECONDS:
            self.close()
            self.connection = psycopg.Connection.connect(**self.params)
            self.opened_at = monotonic()
        self.look(self.connection)

    def close(self) -> None:
        if self.connection is not None:
            self.connection.close()
        self.connection = None

    def look(self, connection: psycopg.Connection[Any]) -> None:
        raise NotImplementedError

    def failed(self, error: str) -> None:
        log.debug("watch of %s: %s", self.name, error)


class PrimaryProbe(Probe):
    """One host of DATABASE_URL."""

    def __init__(
        self, host: tuple[str, str], hosts: list[tuple[str, str]], params: Mapping[str, Any]
    ) -> None:
        super().__init__(name_of(host), at(host, params))
        self.hosts = ",".join(map(name_of, hosts))

    def look(self, connection: psycopg.Connection[Any]) -> None:
        is_standby, system_id, timeline, lsn = one_row(connection, PRIMARY)
        if is_standby:
            return
        known = guard().newest.get(f"{system_id}@{self.hosts}", 0)
        guard().learn(f"{system_id}@{self.hosts}", timeline)
        if timeline >= known:
            replicas().saw_primary(lsn, timeline)


class ReplicaProbe(Probe):
    """One replica; its name is its alias."""

    def look(self, connection: psycopg.Connection[Any]) -> None:
        is_standby, timeline, lsn = one_row(connection, REPLICA)
        replicas().saw(self.name, lsn or 0, timeline or 0, is_standby)

    def failed(self, error: str) -> None:
        replicas().failed(self.name, error)


# -- the watch of this process --------------------------------------------------------------------------------
_lock = threading.Lock()
_ended: threading.Event | None = None


def ensure_watch() -> None:
    """Begin to watch, unless this process does already. The threads end with the process."""
    global _ended
    if _ended is not None:
        return
    with _lock:
        if _ended is None:
            ended = threading.Event()
            probes = make_probes()
            for probe in probes:
                start(f"watch-{probe.name}", probe.run, ended)
            start("watch", look_after_hanging, ended)
            _ended = ended


def stop_watch() -> None:
    """End the threads after the piece in hand; `ensure_watch` begins anew."""
    global _ended
    with _lock:
        if _ended is not None:
            _ended.set()
        _ended = None


def start(name: str, run: Any, ended: threading.Event) -> None:
    threading.Thread(target=run, args=(ended,), name=name, daemon=True).start()


def make_probes() -> list[Probe]:
    params = params_of(DEFAULT_DB_ALIAS)
    hosts = hosts_of(params)
    probes: list[Probe] = [PrimaryProbe(host, hosts, params) for host in hosts]
    return probes + [ReplicaProbe(alias, params_of(alias)) for alias in settings.REPLICA_ALIASES]


def params_of(alias: str) -> dict[str, Any]:
    params: dict[str, Any] = connections[alias].get_connection_params()
    for name in ("cursor_factory", "context", "prepare_threshold"):
        params.pop(name, None)
    name = params.get("application_name", "mistersmith")
    return {**params, "application_name": f"{name} watch", "connect_timeout": 2, "autocommit": True}


def look_after_hanging(ended: threading.Event) -> None:
    """Cut the connections to a replica that has not answered its probe for a while: a paused machine answers nobody,
    and whoever waits for it would wait for ever."""
    while not ended.wait(PAUSE_SECONDS):
        for one in replicas().members:
            if one.measured and one.breaker.is_closed and monotonic() - one.measured.at > STALE_SECONDS:
                replicas().failed(one.alias, "it does not answer")
                if pool := pools().get(one.alias):
                    for connection in list(pool.living):
                        cut(connection)


def forget_watch() -> None:
    """In a forked child no thread runs."""
    global _ended, _lock
    _ended, _lock = None, threading.Lock()
    replicas.cache_clear()


os.register_at_fork(after_in_child=forget_watch)
