"""Limits and shares of the work: what handlers declare, what operators set instead, and what the sweep puts away.

A limit is a row of tasks.limits; the claim reads it (tasks.pick_limited). What an operator set stays when the handler
registers again; removing it brings the handler's back.
"""

from dataclasses import dataclass, fields

from django.db import transaction
from django.utils import timezone

from operators.audit import Actor, record
from pg.errors import Refused
from pg.queries import Queries
from tasks import tickets
from tasks.models import Limit, TaskType
from tasks.policy import Policy
from tasks.registry import policy_of

QUERIES = Queries("tasks")


@dataclass(frozen=True, kw_only=True)
class Bounds:
    """What a limit says; None: not limited. `rate_limit` starts in any `rate_seconds`."""

    max_running: int | None = None
    max_running_per_key: int | None = None
    rate_limit: int | None = None
    rate_seconds: float | None = None
    fair_keys: bool = False
    weight: float = 1


BOUNDS = tuple(item.name for item in fields(Bounds))


def declare_limit(task_type: str, policy: Policy) -> None:
    """Store what the type's handler declares, unless an operator has set something else. Safe to repeat."""
    bounds = Bounds(**{name: getattr(policy, name) for name in BOUNDS})
    row = {"task_type": task_type, **vars(bounds), "is_plain": bounds == Bounds()}
    QUERIES.run("declare_limit", row)


def set_limit(scope: str, name: str, bounds: Bounds, by: Actor, reason: str = "") -> Limit:
    """Set, or replace, the limit of a scope (`all`, `queue`, `type`, `key`); return its row.

    It holds from the next claim on; what runs goes on. Raises Refused, nothing changed, for what breaks a rule.
    """
    check_limit(scope, name, bounds)
    told = {**vars(bounds), "declared_by": by.name, "updated_at": timezone.now()}
    with transaction.atomic():
        row, _ = Limit.objects.update_or_create(scope=scope, name=name, defaults=told)
        record(by, "tasks.set_limit", [row], reason=reason, details=vars(bounds))
        wake(scope, name)
    return row


def remove_limit(scope: str, name: str, by: Actor, reason: str = "") -> bool:
    """Remove a limit; return False where there was none. A type's handler gets its own back."""
    with transaction.atomic():
        count, _ = Limit.objects.filter(scope=scope, name=name).delete()
        if scope == Limit.Scope.TYPE:
            declare_limit(name, policy_of(name))
        if count:
            record(by, "tasks.remove_limit", [f"{scope} {name}".strip()], reason=reason)
        wake(scope, name)
    return bool(count)


def wake(scope: str, name: str) -> None:
    """Send tickets for the types that may start more now; the sweep does it for limits over all."""
    if scope == Limit.Scope.TYPE:
        tickets.send_on_commit([name])
    elif scope == Limit.Scope.QUEUE:
        tickets.send_on_commit(TaskType.objects.filter(queue=name).values_list("pk", flat=True))


def check_limit(scope: str, name: str, bounds: Bounds) -> None:
    """Raise Refused with the name, the value and the rule; the table has the same rules as constraints."""
    _require("scope", scope, scope in Limit.Scope.values, f"must be one of {', '.join(Limit.Scope.values)}")
    _require("name", name, (scope == Limit.Scope.ALL) == (name == ""), "every scope but `all` has a name")
    for what in ("max_running", "max_running_per_key", "rate_limit", "rate_seconds"):
        value = getattr(bounds, what)
        _require(what, value, value is None or value > 0, "must be more than 0; to stop a type, pause it")
    has_rate = (bounds.rate_limit is None) == (bounds.rate_seconds is None)
    _require("rate_seconds", bounds.rate_seconds, has_rate, "a rate needs a number and its seconds")
    _require("weight", bounds.weight, bounds.weight > 0, "must be more than 0")
    has_keys = bounds.fair_keys or bounds.max_running_per_key is not None
    _require("scope", scope, scope == Limit.Scope.TYPE or not has_keys, "keys are looked at per type")
    no_rate = scope != Limit.Scope.KEY or bounds.rate_limit is None
    _require("rate_limit", bounds.rate_limit, no_rate, "a key has no rate")


def _require(name: str, value: object, is_right: bool, rule: str) -> None:
    if not is_right:
        raise Refused(f"{name}={value!r}: {rule}")
