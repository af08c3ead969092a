"""What doctor asks of the messaging room, and its figures for /metrics."""

from collections.abc import Iterator

from monitoring.registry import Finding, register_check, register_metric
from pg.queries import Queries

QUERIES = Queries("messaging")
OVERDUE_SECONDS = 3600
COUNT_AT_MOST = 10_000


def look_for_dead_deliveries() -> Iterator[Finding]:
    dead = count_deliveries()["dead"]
    yield Finding(
        dead == 0,
        f"{dead} deliveries are dead" if dead else "no delivery is dead",
        "see their errors: `manage.py messages redrive --dry-run`; then send them again: `manage.py messages redrive`",
    )


def look_for_overdue_deliveries() -> Iterator[Finding]:
    overdue = count_deliveries()["overdue"]
    yield Finding(
        overdue == 0,
        f"{overdue} deliveries have been due for more than {OVERDUE_SECONDS // 60} minutes"
        if overdue
        else "what is due is taken",
        "their agents do not take them: `manage.py agents list --liveness lost`, `manage.py messages inbox <agent>`",
    )


def count_deliveries() -> dict[str, int]:
    """Return how many are dead, overdue, open: each up to COUNT_AT_MOST, by index."""
    return QUERIES.run("dead_and_overdue", {"grace_seconds": OVERDUE_SECONDS}, limit=COUNT_AT_MOST)[0]


def read_deliveries() -> Iterator[tuple[dict[str, str], float]]:
    counts = count_deliveries()
    for state in ("open", "overdue", "dead"):
        yield {"state": state}, counts[state]


def register() -> None:
    register_check("messaging.dead", look_for_dead_deliveries)
    register_check("messaging.overdue", look_for_overdue_deliveries)
    register_metric(
        "mistersmith_message_deliveries",
        "Deliveries that are open, overdue or dead, each counted up to 10000.",
        read_deliveries,
    )
