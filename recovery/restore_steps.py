"""A plan of restoring JetStream, in words."""

from recovery.bringing_streams import Plan
from recovery.keeping import How, Keeping, keepings
from recovery.replay import shared_buckets
from recovery.restore_source import Source


def steps_of_jetstream(plan: Plan) -> list[dict[str, str]]:
    """Return the plan's steps: action, object, why."""
    if plan.mode == "keep":
        steps = [("replay", f"FLUSH_{bucket}", "what PostgreSQL lacks of it") for bucket in shared_buckets()]
        steps.append(("reread", "messages and progress", "from the beginning; what is known changes nothing"))
        steps.append(("repair", "every bucket", "to what PostgreSQL says"))
    else:
        steps = [("delete", name, "it holds what came later") for name in plan.occupied]
        steps += [step_of(keeping, plan.source) for keeping in keepings()]
    steps.append(("prove", "every row with its key", "reconcile"))
    steps.append(("release", "the bridge", "the relay brings what waits in the outbox"))
    return [dict(zip(("action", "object", "why"), step, strict=True)) for step in steps]


def step_of(keeping: Keeping, source: Source) -> tuple[str, str, str]:
    stream, stored, later = keeping.stream, source.stored, source.later
    if keeping.how is How.SNAPSHOT and stored and (source.is_exact or not keeping.is_bucket):
        return "restore", stream, f"from backup {stored.backup.pk}, up to {stored.marks[stream]}"
    if keeping.how is How.REPLAY and later:
        return "replay", stream, f"what PostgreSQL lacks, from backup {later.backup.pk}; then it is made anew"
    if keeping.is_bucket and keeping.how is not How.NOT_KEPT:
        return "rebuild", stream, "from PostgreSQL"
    return "make", stream, "empty"
