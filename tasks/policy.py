"""What a type's handler declares about its tasks: how they are tried again, limited, timed, kept."""

import random
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from types import MappingProxyType
from typing import Any

from pg.errors import MisterSmithError, Refused
from tasks.models import TaskPriority
from tasks.payloads import check_schema

QUEUE_NAME = r"[a-z0-9][a-z0-9_-]{0,99}"  # it is part of a Celery queue's name
NOTHING: Mapping[Any, Any] = MappingProxyType({})


class PermanentFailure(MisterSmithError):
    """Raised by a handler: this task can never succeed, so it is not tried again."""


class RetryLater(MisterSmithError):
    """Raised by a handler: try again after `delay_seconds`, whatever the type's policy says about delays.

    It counts as a retry.
    """

    retry = True

    def __init__(self, message: str, delay_seconds: float) -> None:
        if delay_seconds < 0:
            raise Refused(f"delay_seconds={delay_seconds}: must be 0 or more")
        super().__init__(message)
        self.delay_seconds = delay_seconds


class TaskTimedOut(MisterSmithError):
    """Raised inside a handler that has run for its `timeout_seconds`; it has some seconds to clean up."""

    retry = True


@dataclass(frozen=True)
class Retry:
    """How long to wait before retry n (from 0): `delay_seconds * factor**n`, at most `max_delay_seconds`.

    With `jitter` the delay is random between 0 and that, so that what failed together does not come back together.
    A `delay_seconds` of 0 retries at once. `max_retries` None: the task's own number.
    """

    delay_seconds: float = 2
    max_delay_seconds: float = 3600
    factor: float = 2
    jitter: bool = True
    max_retries: int | None = None

    def __post_init__(self) -> None:
        for name in ("delay_seconds", "max_delay_seconds"):
            _require(name, getattr(self, name), getattr(self, name) >= 0, "must be 0 or more")
        _require("factor", self.factor, self.factor >= 1, "must be 1 or more")
        _require("max_retries", self.max_retries, (self.max_retries or 0) >= 0, "must be 0 or more")

    def seconds(self, retry_count: int) -> float:
        """Return how long to wait after a failure that `retry_count` retries went before."""
        longest = self.max_delay_seconds
        if self.delay_seconds < longest:
            growth = min(float(self.factor) ** min(retry_count, 60), 1e12)
            longest = min(self.delay_seconds * growth, longest)
        return random.uniform(0, longest) if self.jitter else longest  # noqa: S311  (no secret)


@dataclass(frozen=True)
class Policy:
    """What new tasks take over from their handler; `priority`, `max_retries`, `timeout_seconds` can be set per task.

    `retry_rules`: exception classes to a `Retry`, or to None for those that never get better; the nearest class in an
    exception's ancestry counts, and what has no rule is retried by the type's own delays.

    `queue`: types of one queue share workers. `max_running`: so many at once, over all workers; `max_running_per_key`:
    of each `concurrency_key`. At most `rate_limit` starts in any `rate_seconds`. `fair_keys`: keys take turns.
    `weight`: the type's share of busy workers. Operators may set other limits (tasks.limits).

    `payload_schema`: a JSON Schema; what does not match is refused when it is enqueued, and fails for good where a row
    came by other ways. `keep_..._days`: how long finished tasks stay.
    """

    max_retries: int = 3
    retry_delay_seconds: float = 2
    max_retry_delay_seconds: float = 3600
    retry_factor: float = 2
    retry_jitter: bool = True
    retry_rules: Mapping[type[BaseException], Retry | None] = field(default_factory=lambda: NOTHING)
    timeout_seconds: float = 3600
    priority: str = TaskPriority.NORMAL.value
    queue: str = "default"
    max_running: int | None = None
    max_running_per_key: int | None = None
    rate_limit: int | None = None
    rate_seconds: float | None = None
    fair_keys: bool = False
    weight: float = 1
    payload_schema: Mapping[str, Any] | None = None
    keep_completed_days: float = 7
    keep_failed_days: float = 30
    keep_cancelled_days: float = 7

    def __post_init__(self) -> None:
        _require("max_retries", self.max_retries, self.max_retries >= 0, "must be 0 or more")
        for name in ("retry_delay_seconds", "max_retry_delay_seconds"):
            _require(name, getattr(self, name), getattr(self, name) >= 0, "must be 0 or more")
        _require("retry_factor", self.retry_factor, self.retry_factor >= 1, "must be 1 or more")
        _require("timeout_seconds", self.timeout_seconds, self.timeout_seconds > 0, "must be more than 0")
        _require(
            "queue", self.queue, re.fullmatch(QUEUE_NAME, self.queue) is not None, f"must match {QUEUE_NAME}"
        )
        for name in ("max_running", "max_running_per_key", "rate_limit", "rate_seconds"):
            _require(name, getattr(self, name), (getattr(self, name) or 1) > 0, "must be more than 0")
        has_rate = (self.rate_limit is None) == (self.rate_seconds is None)
        _require("rate_seconds", self.rate_seconds, has_rate, "goes together with rate_limit")
        for name in ("keep_completed_days", "keep_failed_days", "keep_cancelled_days"):
            _require(name, getattr(self, name), getattr(self, name) >= 0, "must be 0 or more")
        _require("weight", self.weight, self.weight > 0, "must be more than 0")
        names = ", ".join(TaskPriority.values)
        _require("priority", self.priority, self.priority in TaskPriority.values, f"must be one of {names}")
        if self.payload_schema is not None:
            check_schema(self.payload_schema)
        for rule, retry in self.retry_rules.items():
            is_rule = isinstance(rule, type) and issubclass(rule, BaseException)
            _require("retry_rules", rule, is_rule, "must name exception classes")
            _require(
                "retry_rules", retry, retry is None or isinstance(retry, Retry), "must be a Retry or None"
            )

    @property
    def retry(self) -> Retry:
        return Retry(
            self.retry_delay_seconds, self.max_retry_delay_seconds, self.retry_factor, self.retry_jitter
        )

    def delay_seconds(self, retry_count: int) -> float:
        """Return how long to wait after a failure without a rule that `retry_count` retries went before."""
        return self.retry.seconds(retry_count)

    def rule_for(self, error: BaseException) -> Retry | None:
        """Return how this exception is tried again; None: not at all."""
        if isinstance(error, PermanentFailure):
            return None
        for kind in type(error).__mro__:
            if kind in self.retry_rules:
                return self.retry_rules[kind]
        return self.retry

    def options(self) -> dict[str, Any]:
        """Return what is kept in tasks.types, for people and other processes: what JSON can hold."""
        plain = {item.name: getattr(self, item.name) for item in fields(self)}
        rules = {rule.__qualname__: retry and vars(retry) for rule, retry in self.retry_rules.items()}
        return {**plain, "retry_rules": rules}


def _require(name: str, value: object, is_right: bool, rule: str) -> None:
    if not is_right:
        raise Refused(f"{name}={value!r}: {rule}")
