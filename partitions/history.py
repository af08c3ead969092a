"""Every run of upkeep as a row: who asked, when, what was planned, what became of it, how long it stood in line."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from django.db import DatabaseError
from django.utils import timezone

from partitions.catalog import QUERIES
from partitions.locks import Effort, session_lock
from partitions.models import Run
from partitions.plan import Step
from pg.errors import MisterSmithError
from pg.uuid7 import uuid7

KEEP_DAYS = 400
SAVE_SECONDS = 1.0  # a run of thousands of steps must not write thousands of long rows


@dataclass(frozen=True)
class Asked:
    """Who asked for a run and why. `run_id`: of the row that the admin has made for it."""

    origin: str = Run.Origin.COMMAND
    actor: str = ""
    reason: str = ""
    run_id: UUID | None = None


class Recorder:
    """Writes a run down as it goes, at most once in SAVE_SECONDS and at its end."""

    def __init__(self, run: Run) -> None:
        self.run, self.saved_at = run, 0.0
        self.entries: dict[tuple[str, str], dict[str, Any]] = {}

    def plan(self, steps: list[Step]) -> None:
        for step in steps:
            self.entries.setdefault((step.action, step.partition), entry_of(step))
        self.save(at_once=True)

    def record(self, step: Step, effort: Effort | None, error: str | None, seconds: float) -> None:
        entry = self.entries.setdefault((step.action, step.partition), entry_of(step))
        entry |= {"status": "failed" if error else "done", "seconds": round(seconds, 3)}
        if error:
            entry["error"] = error
        if effort:
            entry |= {"lock_wait_ms": effort.lock_wait_ms, "tries": effort.tries}
            self.run.lock_wait_ms += effort.lock_wait_ms
        self.save()

    def save(self, at_once: bool = False) -> None:
        now = time.monotonic()
        if at_once or now - self.saved_at > SAVE_SECONDS:
            self.run.steps, self.saved_at = list(self.entries.values()), now
            self.run.save(update_fields=["steps", "lock_wait_ms"])

    def finish(self, problems: list[str]) -> None:
        self.run.status = Run.Status.FAILED if problems else Run.Status.DONE
        self.run.error = "\n".join(problems) or None
        self.run.finished_at = timezone.now()
        self.run.steps = list(self.entries.values())
        self.run.save()


def entry_of(step: Step) -> dict[str, Any]:
    return {"action": step.action, "object": step.partition, "why": step.why}


@contextmanager
def recorded(asked: Asked) -> Iterator[Recorder]:
    """Open a run, or the one that was requested; mark those whose process is gone. The caller finishes it.

    One that ends by an exception stays `running`, as one whose process dies, and is found interrupted by the next.
    """
    run_id = asked.run_id or uuid7()
    QUERIES.run("interrupt_runs", {"run_id": run_id})
    QUERIES.run("forget_runs", {"keep_days": KEEP_DAYS})
    with session_lock("partitions.run", str(run_id)):
        run, _ = Run.objects.update_or_create(
            run_id=run_id,
            defaults={
                "status": Run.Status.RUNNING,
                "origin": asked.origin,
                "actor": asked.actor,
                "reason": asked.reason,
                "started_at": timezone.now(),
            },
        )
        yield Recorder(run)


@contextmanager
def recorded_alone(asked: Asked, action: str, partition: str) -> Iterator[None]:
    """Write down a single thing that is in no plan. An error is written down and raised again."""
    with recorded(asked) as recorder:
        entry: dict[str, Any] = {"action": action, "object": partition, "why": asked.reason or "asked for"}
        recorder.entries[action, partition] = entry
        started = time.monotonic()
        try:
            yield
        except (DatabaseError, MisterSmithError, OSError) as error:
            entry |= {"status": "failed", "error": str(error)}
            recorder.finish([f"{action} {partition}: {error}"])
            raise
        entry |= {"status": "done", "seconds": round(time.monotonic() - started, 3)}
        recorder.finish([])
