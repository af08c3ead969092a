"""System checks of the pools: their sizes, with the arithmetic, and whether passwords travel in the clear."""

from collections.abc import Iterator
from typing import Any

from django.conf import settings
from django.core.checks import CheckMessage, Error, Tags, Warning, register
from django.db import connections

WEB_THREADS = 4  # of gunicorn, in Procfile
SECURE = ("verify-full", "verify-ca")
LOOPBACK = ("", "localhost", "::1", "[::1]")


@register(Tags.database)
def check_server_limit(databases: Any = None, **_: Any) -> list[CheckMessage]:
    """The pools fit into max_connections. With `check --database default`, and before `migrate`."""
    if not databases or "default" not in databases:
        return []
    from pg.budget import read_budget

    budget = read_budget(connections["default"])
    if budget.needed <= budget.usable:
        return []
    return [
        Warning(
            f"the pools may need more connections than the server has: {budget.arithmetic}",
            hint="raise max_connections, or make a pool smaller: MISTERSMITH_POOL_PRIMARY=10/2 (docs/settings.md)",
            id="pg.W001",
        )
    ]


@register()
def check_shares(**_: Any) -> list[CheckMessage]:
    """Each process gets the connections that it cannot do without."""
    return list(too_small())


def too_small() -> Iterator[CheckMessage]:
    pool = settings.POOLS["primary"]
    share, _ = pool.share
    sizes = f"{pool.maximum} connections over {pool.processes} processes are {share} each"
    hint = f"raise MISTERSMITH_POOL_PRIMARY to {WEB_THREADS * pool.processes}/{pool.minimum}"
    if share < 2:
        yield Error(
            f"pool primary: {sizes}; a worker needs 2, for its task and its heartbeat",
            hint=hint,
            id="pg.E001",
        )
    elif share < WEB_THREADS:
        yield Warning(
            f"pool primary: {sizes}; a web process has {WEB_THREADS} threads, some will wait",
            hint=hint,
            id="pg.W002",
        )
    for name, one in settings.POOLS.items():
        if one.processes > one.maximum:
            yield Warning(
                f"pool {name}: {one.processes} processes share {one.maximum} connections; each takes at least 1",
                hint=f"raise MISTERSMITH_POOL_{name.upper()} or lower MISTERSMITH_POOL_{name.upper()}_PROCESSES",
                id="pg.W003",
            )


@register(Tags.security, deploy=True)
def check_tls(**_: Any) -> list[CheckMessage]:
    """Beyond this machine a connection is encrypted, and the server proves who it is."""
    return [
        Warning(
            f"the connection `{alias}` to {entry['HOST']} does not verify the server: sslmode is"
            f" {entry.get('OPTIONS', {}).get('sslmode', 'not set')}",
            hint="add ?sslmode=verify-full&sslrootcert=/path/to/ca.crt to its URL",
            id="pg.W004",
        )
        for alias, entry in settings.DATABASES.items()
        if not entry.get("IS_SHARED")
        and is_remote(entry.get("HOST", ""))
        and entry.get("OPTIONS", {}).get("sslmode") not in SECURE
    ]


def is_remote(hosts: str) -> bool:
    return any(
        not (host in LOOPBACK or host.startswith(("127.", "/")) or host.endswith(".localhost"))
        for host in hosts.split(",")
    )
