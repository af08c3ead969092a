"""A whole bucket from PostgreSQL into an empty NATS. Nothing is deleted or replaced: what KV has stays, and
`bridge reconcile` tells whether that is right."""

from collections.abc import Collection
from dataclasses import dataclass

from django.db.backends.base.base import BaseDatabaseWrapper

from bridge import fences, setup
from bridge.fill import Filled, count_rows, fill_bucket
from bridge.mirrors import MIRRORS, Mirror
from pg.errors import Refused

BUCKETS = tuple(mirror.bucket for mirror in MIRRORS)


@dataclass(frozen=True)
class Plan:
    """What a rebuild of one bucket would do. `rows`: live ones in PostgreSQL; `present`: messages in KV."""

    mirror: Mirror
    rows: int
    present: int


def plan_rebuild(db: BaseDatabaseWrapper, buckets: Collection[str]) -> list[Plan]:
    """Return one plan per bucket; all mirrored ones for none. Raises Refused for a bucket that is not mirrored or not
    there, Unreachable."""
    unknown = sorted(set(buckets) - set(BUCKETS))
    if unknown:
        raise Refused(f"{', '.join(unknown)}: not made from PostgreSQL", f"choose of {', '.join(BUCKETS)}")
    states = setup.read_found().states
    mirrors = [mirror for mirror in MIRRORS if not buckets or mirror.bucket in buckets]
    for mirror in mirrors:
        if f"KV_{mirror.bucket}" not in states:
            raise Refused(f"bucket {mirror.bucket} does not exist", "run manage.py bridge setup")
    return [
        Plan(mirror, count_rows(db, mirror), states[f"KV_{mirror.bucket}"]["messages"]) for mirror in mirrors
    ]


def rebuild(db: BaseDatabaseWrapper, plan: Plan) -> Filled:
    """Create what the bucket lacks; of AGENT_STATE the epochs first, so that no zombie writes meanwhile. Safe
    to repeat and to stop anywhere. Raises Refused when a backup holds the fence, Unreachable."""
    if plan.mirror.bucket == fences.BUCKET:
        fences.repair(fences.find_wrong(db))
    return fill_bucket(db, plan.mirror)
