"""What doctor, /readyz and /metrics learn from the bridge."""

from collections.abc import Callable, Iterable, Iterator

from django.db import connection as db

from bridge import setup
from bridge.clocks import read_skew
from bridge.fence import has_leader
from bridge.figures import read_bridges, worst_lag_ms
from bridge.hold import HINT as RELEASE
from bridge.hold import read_hold
from bridge.outbox import read_depth
from monitoring.registry import Finding, register_check
from pg.errors import MisterSmithError

LOOK_SECONDS = 5  # doctor must not wait for a server that is down
OLDEST_SECONDS = 5  # beyond that a write is critically late
APART_SECONDS = 1  # expiry is off by that much; machines that keep time are within some milliseconds
CLOCKS_HINT = "let both machines follow the same time servers (chrony, systemd-timesyncd)"


def check_topology() -> Iterator[Finding]:
    """Compare buckets and streams with their declaration."""
    try:
        found = setup.read_found(LOOK_SECONDS)
    except MisterSmithError as error:
        yield Finding(False, str(error), error.hint)
        return
    steps = setup.make_plan(found)
    for step in steps:
        yield Finding(False, f"{step.action} {step.object}: {step.why}", hint_of(step.action))
    if warning := setup.payload_warning(found):
        yield Finding(False, warning, "then restart nats-server")
    if not steps:
        yield Finding(True, f"{len(found.configs)} buckets and streams as declared")


def hint_of(action: str) -> str:
    if action == "refuse":
        return "back the stream up, delete it, run manage.py bridge setup and then manage.py bridge reconcile"
    return "run manage.py bridge setup"


def check_outbox() -> Iterator[Finding]:
    depth = read_depth(db)
    is_late = depth.oldest_seconds > OLDEST_SECONDS
    detail = f"{depth.rows} rows wait, the oldest for {depth.oldest_seconds:.1f} s"
    yield Finding(not is_late, detail, "is a relay running? start manage.py bridge run" if is_late else "")


def check_relay() -> Iterator[Finding]:
    if has_leader(db):
        yield Finding(True, "a relay leads")
    else:
        yield Finding(False, "no relay runs: nothing reaches JetStream", "start manage.py bridge run")


def check_quarantine() -> Iterator[Finding]:
    number = read_depth(db).quarantined
    hint = "look at them in the admin (Bridge, quarantined rows); send them again, or drop them"
    yield Finding(number == 0, f"{number} rows that NATS refuses", hint if number else "")


def check_dead_letters() -> Iterator[Finding]:
    number = read_depth(db).dead_letters
    hint = "look at them in the admin (Bridge, dead letters); then manage.py bridge redrive, or drop them"
    yield Finding(number == 0, f"{number} messages that could not be applied", hint if number else "")


def check_flusher() -> Iterator[Finding]:
    lag = worst_lag_ms(read_bridges(db), "flusher")
    is_late = lag is not None and lag > OLDEST_SECONDS * 1000
    detail = (
        "nothing was flushed lately"
        if lag is None
        else f"agents' writes are in PostgreSQL after {lag:.0f} ms (p95)"
    )
    yield Finding(
        not is_late,
        detail,
        "see Bridge, processes in the admin; run another manage.py bridge run" if is_late else "",
    )


def check_hold() -> Iterator[Finding]:
    held = read_hold(db)
    if held:
        yield Finding(
            False, f"the bridge stands still since {held.since:%Y-%m-%d %H:%M:%S}: {held.reason}", RELEASE
        )
    else:
        yield Finding(True, "nothing was restored that JetStream has not followed")


def check_clocks() -> Iterator[Finding]:
    """What is sure of their difference counts: a slow answer is no wrong clock."""
    try:
        skew = read_skew(db, LOOK_SECONDS)
    except MisterSmithError as error:
        yield Finding(False, str(error), error.hint)
        return
    if skew is None:
        yield Finding(True, "no bucket to ask for yet")
        return
    way = "ahead of" if skew.seconds > 0 else "behind"
    detail = (
        f"nats-server's clock is {abs(skew.seconds):.3f} s {way} PostgreSQL's (± {skew.error_seconds:.3f} s)"
    )
    yield Finding(skew.certain_seconds <= APART_SECONDS, detail, CLOCKS_HINT)


CHECKS: dict[str, Callable[[], Iterable[Finding]]] = {
    "bridge.topology": check_topology,
    "bridge.outbox": check_outbox,
    "bridge.relay": check_relay,
    "bridge.quarantine": check_quarantine,
    "bridge.dead_letters": check_dead_letters,
    "bridge.flusher": check_flusher,
    "bridge.hold": check_hold,
    "bridge.clocks": check_clocks,
}


def register() -> None:
    for name, look in CHECKS.items():
        register_check(name, look)
