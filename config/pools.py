"""DATABASES: which pool each kind of process works with, how large its share is, and what its sessions may not do.

Sizes and times are those of the guide's section 12.1: totals of the installation, shared out over its processes.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import PurePath
from typing import Any

KINDS = ("web", "worker", "upkeep", "beat", "bridge", "command")
POOLED = frozenset(
    {"web", "worker", "upkeep"}
)  # the others hold few sessions, and those for as long as they live
OF_BACKGROUND = frozenset({"upkeep", "beat", "bridge"})
DEFAULT, REPLICA, BACKGROUND, ANALYTICS = "default", "replica", "background", "analytics"


@dataclass(frozen=True)
class Pool:
    """`maximum` and `minimum` are connections of the whole installation, `processes` how many share them. Times are in
    seconds; a time-out of 0 is none."""

    name: str
    role: str
    maximum: int
    minimum: int
    processes: int
    acquire_seconds: int
    idle_seconds: int
    life_seconds: int
    is_checked: bool
    statement_seconds: int
    lock_seconds: int
    idle_in_transaction_seconds: int
    is_read_only: bool = False

    @property
    def share(self) -> tuple[int, int]:
        """Return the most and the least connections of one process."""
        return max(1, self.maximum // self.processes), self.minimum // self.processes


# processes: 2 of web, 2 of the worker, 1 of upkeep (Procfile). A worker runs long jobs with the background pool.
POOLS = {
    pool.name: pool
    for pool in (
        Pool("primary", "app_primary", 20, 5, 4, 30, 600, 3600, True, 300, 30, 300),
        Pool("replica", "app_replica", 15, 3, 4, 20, 300, 1800, True, 60, 10, 120, is_read_only=True),
        Pool("background", "app_background", 5, 1, 3, 60, 1800, 7200, False, 0, 60, 3600),
        Pool("analytics", "app_analytics", 10, 2, 2, 45, 900, 3600, True, 300, 10, 300, is_read_only=True),
    )
}
SIZE = re.compile(r"(\d{1,5})/(\d{1,5})", re.ASCII)


def parse_size(text: str) -> tuple[int, int]:
    """Return maximum and minimum of "20/5". Raises ValueError."""
    found = SIZE.fullmatch(text.strip())
    if not found:
        raise ValueError("not MAXIMUM/MINIMUM")
    maximum, minimum = int(found[1]), int(found[2])
    if not maximum or minimum > maximum:
        raise ValueError("the maximum must be 1 or more, the minimum not above it")
    return maximum, minimum


def resized(pool: Pool, size: str, processes: int) -> Pool:
    maximum, minimum = parse_size(size)
    return replace(pool, maximum=maximum, minimum=minimum, processes=processes)


def process_kind(argv: Sequence[str]) -> str:
    """Tell from its command line what kind of process this is; whatever is none of ours is a command."""
    name, words = PurePath(argv[0] if argv else ""), list(argv[1:])
    program = name.parent.name if name.name == "__main__.py" else name.name
    if program == "gunicorn" or (program == "manage.py" and words[:1] == ["runserver"]):
        return "web"
    if program == "celery":
        return celery_kind(words)
    return "bridge" if words[:2] == ["bridge", "run"] else "command"


def celery_kind(words: Sequence[str]) -> str:
    if "beat" in words:
        return "beat"
    if "worker" not in words:
        return "command"
    queues = re.search(r"(?:^| )(?:--queues|-Q)[ =](\S+)", " ".join(words))
    return "upkeep" if queues and "tasks" not in queues[1].split(",") else "worker"


def split_urls(text: str) -> list[str]:
    """Split REPLICA_URLS: a comma within a URL stands between hosts."""
    return [url.strip() for url in re.split(r",(?=\s*\w+://)", text) if url.strip()]


def make_databases(
    kind: str,
    pools: Mapping[str, Pool],
    given: Mapping[str, Sequence[dict[str, Any]]],
    max_age_seconds: int,
) -> dict[str, dict[str, Any]]:
    """Return DATABASES for a process of `kind`. `given`: the entries of URLs, by `primary`, and where there are such,
    `owner`, `background`, `replica` (any number), `analytics`."""
    primary = given["primary"][0]
    background = first(given, "background", primary)
    own = first(given, "owner", primary) if kind == "command" else primary
    own_pool = "background" if kind in OF_BACKGROUND else "primary"

    def make(pool: str, entry: dict[str, Any], alias: str, is_shared: bool = False) -> dict[str, Any]:
        return make_entry(kind, pools[pool], entry, alias, max_age_seconds, is_shared)

    databases = {
        DEFAULT: make(own_pool, background if kind in OF_BACKGROUND else own, DEFAULT),
        BACKGROUND: make("background", background, BACKGROUND, not given.get("background")),
        ANALYTICS: make("analytics", first(given, "analytics", own), ANALYTICS, not given.get("analytics")),
    }
    for number, entry in enumerate(given.get("replica") or [own], 1):
        alias = REPLICA if number == 1 else f"{REPLICA}_{number}"
        databases[alias] = make("replica", entry, alias, not given.get("replica"))
    return databases


def first(
    given: Mapping[str, Sequence[dict[str, Any]]], name: str, default: dict[str, Any]
) -> dict[str, Any]:
    return given[name][0] if given.get(name) else default


def make_entry(
    kind: str, pool: Pool, entry: dict[str, Any], alias: str, max_age_seconds: int, is_shared: bool
) -> dict[str, Any]:
    """Return Django's entry for one alias. Keys of our own are for `pg.backend`: POOL, ROLE, IS_SHARED, IS_READ_ONLY,
    MUST_LEAD, WEIGHT."""
    options = {"connect_timeout": 5, **entry.get("OPTIONS", {})}
    weight = int(options.pop("weight", 1))
    is_own = alias == DEFAULT
    options.setdefault("application_name", f"mistersmith {kind}" + ("" if is_own else f" {alias}"))
    limits = session_settings(pool) if kind != "command" or pool.is_read_only else {}
    if limits:
        words = [options["options"]] if options.get("options") else []
        options["options"] = " ".join(words + [f"-c {name}={value}" for name, value in limits.items()])
    if kind in POOLED:
        options["pool"] = pool_options(pool)
    return {
        **entry,
        "ENGINE": "pg.backend",
        "OPTIONS": options,
        "CONN_MAX_AGE": 0 if kind in POOLED else max_age_seconds,
        "CONN_HEALTH_CHECKS": pool.is_checked if kind in POOLED else True,
        "POOL": pool.name,
        "ROLE": pool.role,
        "IS_SHARED": is_shared,
        "IS_READ_ONLY": pool.is_read_only,
        "MUST_LEAD": kind != "command" and not pool.is_read_only,
        "WEIGHT": weight,
    }


def session_settings(pool: Pool) -> dict[str, str]:
    """Return what sessions of the pool begin with; `roles apply` gives the same to the roles."""
    settings = {
        "statement_timeout": f"{pool.statement_seconds}s",
        "lock_timeout": f"{pool.lock_seconds}s",
        "idle_in_transaction_session_timeout": f"{pool.idle_in_transaction_seconds}s",
    }
    return settings | ({"default_transaction_read_only": "on"} if pool.is_read_only else {})


def pool_options(pool: Pool) -> dict[str, Any]:
    maximum, minimum = pool.share
    return {
        "max_size": maximum,
        "min_size": minimum,
        "timeout": pool.acquire_seconds,
        "max_idle": pool.idle_seconds,
        "max_lifetime": pool.life_seconds,
        "name": pool.name,
    }
