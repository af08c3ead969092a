"""What /metrics shows of the bridge."""

from collections.abc import Callable, Iterable, Iterator

from django.db import connection as db

from bridge import figures, outbox
from bridge.figures import worst_lag_ms
from monitoring.registry import Sample, register_metric, shared


@shared
def read_bridges() -> list[figures.Bridge]:
    return figures.read_bridges(db)


@shared
def read_depth() -> outbox.Depth:
    return outbox.read_depth(db)


def lags() -> Iterator[Sample]:
    for bridge in read_bridges():
        for part, told in bridge.figures.items():
            for quantile, milliseconds in told.get("lag_ms", {}).items():
                yield {"bridge": bridge.name, "part": part, "quantile": quantile}, milliseconds / 1000


def flush_lag() -> Iterator[Sample]:
    worst = worst_lag_ms(read_bridges(), "flusher")
    if worst is not None:
        yield {}, worst / 1000


def pending() -> Iterator[Sample]:
    for bridge in read_bridges():
        for part, told in bridge.figures.items():
            if "pending" in told:
                yield {"bridge": bridge.name, "part": part}, told["pending"]


def reconnects() -> Iterator[Sample]:
    for bridge in read_bridges():
        yield {"bridge": bridge.name}, bridge.figures.get("nats", {}).get("reconnects", 0)


def clocks() -> Iterator[Sample]:
    found = [bridge.figures.get("nats", {}).get("clock_apart_ms") for bridge in read_bridges()]
    known = [apart for apart in found if apart is not None]
    if known:
        yield {}, max(known) / 1000


METRICS: dict[str, tuple[str, Callable[[], Iterable[Sample]]]] = {
    "mistersmith_outbox_rows": ("Rows that wait for the relay", lambda: [({}, read_depth().rows)]),
    "mistersmith_outbox_oldest_seconds": (
        "Age of the oldest row that waits",
        lambda: [({}, read_depth().oldest_seconds)],
    ),
    "mistersmith_outbox_quarantined_rows": (
        "Rows that NATS refuses for good",
        lambda: [({}, read_depth().quarantined)],
    ),
    "mistersmith_bridge_dead_letters_rows": (
        "Messages that could not be applied",
        lambda: [({}, read_depth().dead_letters)],
    ),
    "mistersmith_bridge_conflicts_rows": (
        "Writes that collided and are kept",
        lambda: [({}, read_depth().conflicts)],
    ),
    "mistersmith_bridge_lag_seconds": ("From one store to the other: p50, p95, p99 of the newest", lags),
    "mistersmith_flush_lag_seconds": ("From an agent's write to PostgreSQL's commit, p95", flush_lag),
    "mistersmith_bridge_pending_messages": ("Messages that wait on the server for a part", pending),
    "mistersmith_bridge_clocks_apart_seconds": (
        "How far PostgreSQL's clock and nats-server's are apart at least",
        clocks,
    ),
    "mistersmith_bridge_reconnects_count": ("Connections to NATS that were lost and found again", reconnects),
}


def register() -> None:
    for name, (help, read) in METRICS.items():
        register_metric(name, help, read)
