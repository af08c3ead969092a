"""Opens connections to PostgreSQL: of several hosts to the one that is the primary now."""

import logging
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import psycopg
from django.conf import settings

from pg.guard import Guard, Look, NotPrimary, look_at

log = logging.getLogger(__name__)
Connection = psycopg.Connection[Any]
SURVEY_SECONDS = 2  # a host that is silent for so long is passed over while others are there
OWN_CHOICE = ("standby", "read-only", "any", "prefer-standby")  # target_session_attrs that mean no primary


@cache
def guard() -> Guard:
    """Return this process's guard; it remembers in `<home>/timelines.json`."""
    home = getattr(settings, "MISTERSMITH_HOME", None)
    return Guard(Path(home) / "timelines.json" if home else None)


def hosts_of(params: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return the pairs of host and port that the parameters name. Raises OperationalError as libpq does."""
    hosts = str(params.get("host") or "").split(",")
    ports = str(params.get("port") or "").split(",")
    if len(ports) == 1:
        ports *= len(hosts)
    if len(ports) != len(hosts):
        raise psycopg.OperationalError(f"{len(ports)} ports for {len(hosts)} hosts")
    return list(zip(hosts, ports, strict=True))


@dataclass
class Opener:
    """Opens the connections of one alias. `writes`: they may be written to, so the guard watches them. `must_lead`: a
    standby will not do. It stands in for the connection class of a pool."""

    writes: bool
    must_lead: bool
    leader: tuple[str, str] | None = field(default=None, init=False)  # where the last connection went

    def connect(self, conninfo: str = "", **params: Any) -> Connection:
        """Return a new connection. Raises psycopg.OperationalError; NotPrimary is one."""
        if not self.writes or params.get("target_session_attrs") in OWN_CHOICE:
            return psycopg.Connection.connect(conninfo, **params)
        hosts = hosts_of(params)
        if len(hosts) == 1:
            return self.open(hosts[0], hosts, params)
        return self.find_leader(hosts, {**params, "target_session_attrs": "any"})

    def open(
        self, host: tuple[str, str], hosts: Sequence[tuple[str, str]], params: Mapping[str, Any]
    ) -> Connection:
        connection = psycopg.Connection.connect(**at(host, params))
        try:
            self.admit(connection, look_at(connection), host, hosts)
        except BaseException:
            connection.close()
            raise
        return connection

    def admit(
        self, connection: Connection, look: Look, host: tuple[str, str], hosts: Sequence[tuple[str, str]]
    ) -> None:
        if not connection.autocommit:
            connection.rollback()  # asking has begun a transaction
        guard().admit(connection, look, name_of(host), self.must_lead, ",".join(map(name_of, hosts)))

    # -- several hosts --------------------------------------------------------------------------------------
    def find_leader(self, hosts: Sequence[tuple[str, str]], params: Mapping[str, Any]) -> Connection:
        """Go where the last connection went; where that is not the primary any more, ask all hosts at once and take the
        one that takes writes on the newest timeline."""
        if self.leader is not None and self.leader in hosts:
            with suppress(psycopg.Error):
                return self.open(self.leader, hosts, params)
        connection, self.leader = self.survey(hosts, params)
        if self.must_lead:
            from pg.watch import (
                ensure_watch,
            )  # it looks at all hosts, so that a promotion is noticed while this one lives

            ensure_watch()
        return connection

    def survey(
        self, hosts: Sequence[tuple[str, str]], params: Mapping[str, Any]
    ) -> tuple[Connection, tuple[str, str]]:
        quick = {**params, "connect_timeout": min(SURVEY_SECONDS, int(params.get("connect_timeout", 5)))}
        with ThreadPoolExecutor(len(hosts)) as threads:
            answers = list(threads.map(lambda host: ask(host, quick), hosts))
        # the newest primary first, standbys last
        answers.sort(key=lambda answer: answer.look.timeline if answer.look else -1, reverse=True)
        chosen = None
        for answer in answers:
            if answer.connection is None or chosen is not None:
                continue
            try:
                self.admit(answer.connection, answer.look, answer.host, hosts)  # type: ignore[arg-type]
                chosen = answer
            except NotPrimary as error:
                answer.error = str(error)
        for answer in answers:
            if answer is not chosen and answer.connection is not None:
                answer.connection.close()
        if chosen is None or chosen.connection is None:
            told = "; ".join(f"{name_of(answer.host)}: {answer.error}".strip() for answer in answers)
            raise psycopg.OperationalError(f"no primary among {len(hosts)} hosts ({told})")
        return chosen.connection, chosen.host


@dataclass
class Answer:
    """What one host said."""

    host: tuple[str, str]
    connection: Connection | None = None
    look: Look | None = None
    error: str = ""


def ask(host: tuple[str, str], params: Mapping[str, Any]) -> Answer:
    try:
        connection = psycopg.Connection.connect(**at(host, params))
    except psycopg.Error as error:
        return Answer(host, error=str(error).strip())
    try:
        return Answer(host, connection, look_at(connection))
    except psycopg.Error as error:
        connection.close()
        return Answer(host, error=str(error).strip())


def at(host: tuple[str, str], params: Mapping[str, Any]) -> dict[str, Any]:
    return {**params, "host": host[0] or None, "port": host[1] or None}


def name_of(host: tuple[str, str]) -> str:
    return ":".join(part for part in host if part) or "the local socket"
