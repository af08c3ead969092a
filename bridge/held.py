"""What nats-server holds of what is declared, for the command and the admin."""

from typing import Any

from nats.js.api import ConsumerInfo

from bridge import setup, topology
from bridge.setup import Found
from bridge.topology import Step


def rows_of_server(found: Found, steps: list[Step]) -> list[dict[str, Any]]:
    """Return one row per declared bucket, stream and consumer; `drift` says what setup would do with it, "" nothing. A
    consumer's messages are those that wait for its reader or for his answer; they have no size of their own."""
    drift = {step.object: f"{step.action}: {step.why}" for step in steps}
    kept = [
        {
            "name": item.name,
            "kind": "bucket" if isinstance(item, topology.Bucket) else "stream",
            **found.states.get(item.stream, {"messages": 0, "bytes": 0}),
            "drift": drift.get(item.stream, ""),
        }
        for item in topology.declared()
    ]
    read = [
        {
            "name": label,
            "kind": "consumer",
            "messages": count_waiting(found.consumers.get(label)),
            "bytes": "",
            "drift": drift.get(label, ""),
        }
        for label in topology.consumers()
    ]
    return kept + read


def count_waiting(info: ConsumerInfo | None) -> int:
    return (info.num_pending or 0) + (info.num_ack_pending or 0) if info else 0


def apply_as_declared(found: Found) -> list[Step]:
    """Make and update what can be; return the steps, those that a server refuses too. Raises TopologyError,
    Unreachable."""
    steps = setup.make_plan(found)
    setup.apply_plan(steps)
    # a bucket that was just made may be another one than its FLUSH stream knows
    setup.apply_plan(again := setup.make_plan(setup.read_found()))
    return steps + [step for step in again if step.action != "refuse"]
