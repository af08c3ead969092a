"""Asks each server that the settings name for its version and what we rely on."""

import asyncio
import json
import re
from dataclasses import dataclass
from typing import Any
from urllib.request import urlopen

import kombu
import nats
from celery import current_app
from django.conf import settings
from django.db import connection

from bridge.servers import connect_options
from cockpit.servers import Nats
from pg.errors import Unreachable

TIMEOUT_SECONDS = 3
NATS_HINT = "is nats-server up? run `manage.py status`, start it with `make up`, or correct NATS_URL"
BROKER_HINT = (
    "is the broker up? run `manage.py status`, start it with `make up`, or correct CELERY_BROKER_URL"
)


@dataclass(frozen=True)
class NatsVitals:
    version: str
    has_jetstream: bool
    max_payload_bytes: int


def ask_postgres() -> str:
    """Return PostgreSQL's version. Raises Django's OperationalError."""
    with connection.cursor() as cursor:
        cursor.execute("SHOW server_version")
        return str(cursor.fetchone()[0]).split()[0]


def ask_nats() -> NatsVitals:
    """Connect as our processes do. Raises Unreachable."""
    try:
        return asyncio.run(asyncio.wait_for(greet_nats(), TIMEOUT_SECONDS + 1))
    except Exception as error:  # nats-py raises its own, the loop's and the socket's errors
        raise Unreachable(
            f"NATS at {without_password(settings.NATS_URL)}: {reason(error)}", NATS_HINT
        ) from error


async def greet_nats() -> NatsVitals:
    # with these three nats-py says at once that nobody listens; without them it waits for the time-out
    once = {"allow_reconnect": False, "max_reconnect_attempts": 1, "reconnect_time_wait": 0}
    options = connect_options(settings.NATS_URL)
    client = await nats.connect(**options, connect_timeout=TIMEOUT_SECONDS, error_cb=ignore, **once)
    try:
        info: dict[str, Any] = client._server_info
        return NatsVitals(str(info["version"]), bool(info.get("jetstream")), client.max_payload)
    finally:
        await client.close()


async def ignore(error: Exception) -> None:
    """The error is raised as well; nats-py would also log it."""


def sync_interval() -> str | None:
    """Return when JetStream syncs ("always", or seconds); None for a server that does not show it to us."""
    server = Nats(settings.MISTERSMITH_HOME)
    if not server.configuration.is_file() or server.url() != settings.NATS_URL:
        return None
    with urlopen(f"{server.monitor_url()}/jsz?config=1", timeout=TIMEOUT_SECONDS) as page:  # noqa: S310  (our own)
        config = json.load(page)["config"]
    return "always" if config.get("sync_always") else f"{config.get('sync_interval', 0) / 1e9:g} s"


def ask_worker() -> list[str]:
    """Return the names of the Celery workers that answer within 2 seconds. Raises Unreachable without a broker."""
    ask_broker()
    return sorted(current_app.control.inspect(timeout=2).ping() or {})


def ask_broker() -> str:
    """Connect to Celery's broker; return its version ('' where the transport does not tell). Raises Unreachable."""
    url = settings.CELERY_BROKER_URL
    options = {"socket_connect_timeout": TIMEOUT_SECONDS, "socket_timeout": TIMEOUT_SECONDS}
    try:
        with kombu.Connection(url, connect_timeout=TIMEOUT_SECONDS, transport_options=options) as broker:
            broker.ensure_connection(max_retries=1, timeout=TIMEOUT_SECONDS)
            client = getattr(broker.default_channel, "client", None)
            info = client.info("server") if client is not None else {}
            return str(info.get("valkey_version") or info.get("redis_version") or "")
    except Exception as error:  # each transport has errors of its own
        raise Unreachable(f"broker at {without_password(url)}: {reason(error)}", BROKER_HINT) from error


def server_rows() -> list[dict[str, Any]]:
    """Return the three servers as rows for `status`; one that does not answer says why."""
    database = settings.DATABASES["default"]
    address = f"postgresql://{database['HOST']}:{database['PORT']}/{database['NAME']}"
    return [
        server_row("PostgreSQL", address, ask_postgres),
        server_row("NATS", without_password(settings.NATS_URL), lambda: ask_nats().version),
        server_row("broker", without_password(settings.CELERY_BROKER_URL), ask_broker),
    ]


def server_row(name: str, address: str, ask: Any) -> dict[str, Any]:
    row = {"kind": "server", "name": name, "state": "answers", "pid": None, "uptime_seconds": None}
    try:
        return {**row, "version": ask(), "address": address, "error": None}
    except Exception as error:  # any reason why it does not answer is what we came for
        return {**row, "state": "unreachable", "version": None, "address": address, "error": reason(error)}


def without_password(text: str) -> str:
    """Return a text without the users and passwords of the URLs in it."""
    return re.sub(r"//[^@/\s]*@", "//", text)


def reason(error: BaseException) -> str:
    """Return the first line of an error, without passwords."""
    text = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    return without_password(text)
