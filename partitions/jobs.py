"""Celery entry points of the partitions room."""

from typing import Any
from uuid import UUID

from celery import shared_task

from partitions.attach import attach_archive, release_archive
from partitions.catalog import read_clock, read_each, read_rules
from partitions.health import is_cover_low
from partitions.history import Asked, recorded_alone
from partitions.maintenance import Outcome, apply_all
from partitions.models import Archive, Run
from partitions.plan import plan_creation


@shared_task(name="partitions.apply")
def apply_partitions() -> dict[str, int]:
    """Make partitions ahead, archive and remove what is out of retention.

    Safe twice, late or beside itself: see `partitions.maintenance`.
    """
    return summary(apply_all(asked=Asked(Run.Origin.BEAT, "beat", "daily upkeep")))


@shared_task(name="partitions.watch")
def watch_cover() -> dict[str, int]:
    """Make partitions at once where fewer than 3 days are covered, whatever became of the daily run. Removes nothing.

    A look costs five queries, and one for each DEFAULT partition. Safe twice, late or beside itself:
    see `partitions.maintenance`.
    """
    clock = read_clock()
    rules = read_rules()
    looked = zip(rules, read_each(rules), strict=True)
    low = [one.table for one, table in looked if is_cover_low(one, table, clock)]
    if not low:
        return {"steps": 0, "failed": 0}
    asked = Asked(Run.Origin.BEAT, "beat", f"cover is low: {', '.join(low)}")
    return summary(apply_all(clock, low, asked, plan_creation))


@shared_task(name="partitions.apply_run")
def apply_run(run_id: str) -> dict[str, int]:
    """Do what an operator approved in the admin: the steps of that run, as far as they are still due.

    Safe twice: a run that is not `requested` any more is left as it is.
    """
    run = Run.objects.filter(pk=UUID(run_id), status=Run.Status.REQUESTED).first()
    if run is None:
        return {"steps": 0, "failed": 0}
    approved = {(step["action"], step["object"]) for step in run.steps}
    asked = Asked(run.origin, run.actor, run.reason, run.pk)
    return summary(apply_all(asked=asked, approved=approved))


@shared_task(name="partitions.attach")
def attach_job(archive_id: str, actor: str, reason: str) -> None:
    """Bring an archive back. Safe twice: the second call finds it attached."""
    archive = Archive.objects.get(pk=UUID(archive_id))
    with recorded_alone(Asked(Run.Origin.ADMIN, actor, reason), "attach", archive.partition_name):
        attach_archive(archive)


@shared_task(name="partitions.release")
def release_job(archive_id: str, actor: str, reason: str) -> None:
    """Let an archive go again. A second call fails, saying that it is not attached."""
    archive = Archive.objects.get(pk=UUID(archive_id))
    with recorded_alone(Asked(Run.Origin.ADMIN, actor, reason), "release", archive.partition_name):
        release_archive(archive)


def summary(outcomes: list[Outcome]) -> dict[str, Any]:
    return {
        "steps": sum(outcome.step.action != "keep" for outcome in outcomes),
        "failed": sum(outcome.error is not None for outcome in outcomes),
    }
