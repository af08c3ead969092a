"""Checks that `doctor` and /readyz run, and figures that /metrics shows. Rooms add theirs in `AppConfig.ready`.

Nothing here knows a room: the arrows point downwards.
"""

import logging
from collections.abc import Callable, Iterable
from dataclasses import dataclass

log = logging.getLogger(__name__)
Sample = tuple[dict[str, str], float]  # labels, value


@dataclass(frozen=True)
class Finding:
    """One thing a check looked at. `hint` says what to do when it is not ok."""

    ok: bool
    detail: str
    hint: str = ""


@dataclass(frozen=True)
class Check:
    name: str  # "<room>.<what>", for instance "partitions.cover"
    look: Callable[[], Iterable[Finding]]
    gates_ready: bool = False  # /readyz says no while it is not ok


@dataclass(frozen=True)
class Metric:
    name: str  # Prometheus style with the unit at the end: "mistersmith_outbox_rows"
    help: str
    read: Callable[[], Iterable[Sample]]


_checks: dict[str, Check] = {}
_metrics: dict[str, Metric] = {}


def register_check(name: str, look: Callable[[], Iterable[Finding]], *, gates_ready: bool = False) -> None:
    """Add a check, or replace the one of that name (so that a reload does not double it)."""
    _checks[name] = Check(name, look, gates_ready)


def register_metric(name: str, help: str, read: Callable[[], Iterable[Sample]]) -> None:
    """Add a metric, or replace the one of that name."""
    _metrics[name] = Metric(name, help, read)


def checks() -> list[Check]:
    return [_checks[name] for name in sorted(_checks)]


def metrics() -> list[Metric]:
    return [_metrics[name] for name in sorted(_metrics)]


def run_check(check: Check) -> list[Finding]:
    """Return what the check found; an exception inside it is a finding too, so that doctor never stops half-way."""
    try:
        return list(check.look())
    except Exception as error:  # the check itself broke: that is what doctor must report
        return [Finding(False, f"{type(error).__name__}: {error}".strip(), "see docs/troubleshoot.md")]
