"""The verbs `bridge hydrate` and `bridge rebuild`."""

from typing import Any
from uuid import UUID

from bridge.hydration import find_working, hydrate_agent, plan_hydration
from bridge.rebuild import BUCKETS, plan_rebuild, rebuild
from bridge.session import open_session
from operators.audit import Actor, record
from operators.command import Answer, OperatorCommand
from pg.errors import Refused

MOST_AGENTS = 100_000


def add_hydration_verbs(command: OperatorCommand) -> None:
    parser = command.add_verb(
        "hydrate", run_hydrate, "load agents' state from PostgreSQL into KV, where it is missing"
    )
    parser.add_argument("agent_ids", nargs="*", type=UUID, metavar="agent_id")
    parser.add_argument("--all", action="store_true", help="all agents that work")
    parser.add_argument("--dry-run", action="store_true", help="only print what would be loaded")
    parser = command.add_verb(
        "rebuild", run_rebuild, "fill whole buckets from PostgreSQL, into an emptied NATS"
    )
    parser.add_argument(
        "buckets", nargs="*", metavar="bucket", help=f"of {', '.join(BUCKETS)}; all without one"
    )
    parser.add_argument("--dry-run", action="store_true", help="only print the steps")


def run_hydrate(agent_ids: list[UUID], dry_run: bool, **options: Any) -> Answer:
    """Hydrate each agent; one that cannot be does not stop the others, and exits 1."""
    if bool(agent_ids) == options["all"]:
        raise Refused("name agents, or --all", "bridge hydrate <agent_id> ...")
    wanted = agent_ids or find_working(MOST_AGENTS)
    with open_session() as db:
        if dry_run:
            steps = [
                {"action": "hydrate", "object": str(agent_id), "why": f"{rows} live keys in PostgreSQL"}
                for agent_id, rows in plan_hydration(db, wanted).items()
            ]
            return Answer(steps=steps)
        items, warnings = [], []
        for agent_id in wanted:
            try:
                filled = hydrate_agent(db, agent_id).filled
                items.append({"agent_id": agent_id, **vars(filled)})
            except Refused as error:
                warnings.append(f"{error}: {error.hint}")
    counts = {name: sum(item[name] for item in items) for name in ("rows", "stored", "kept", "pending")}
    return Answer(items=items, counts={"agents": len(items), **counts}, warnings=warnings, ok=not warnings)


def run_rebuild(buckets: list[str], dry_run: bool, **options: Any) -> Answer:
    """Plan, print, fill."""
    with open_session() as db:
        plans = plan_rebuild(db, buckets)
        steps = [
            {
                "action": "fill",
                "object": plan.mirror.bucket,
                "why": f"{plan.rows} rows, KV has {plan.present} messages",
            }
            for plan in plans
        ]
        if dry_run:
            return Answer(steps=steps)
        record(Actor.of_command(), "bridge.rebuild", [plan.mirror.bucket for plan in plans])
        items = [{"bucket": plan.mirror.bucket, **vars(rebuild(db, plan))} for plan in plans]
    counts = {name: sum(item[name] for item in items) for name in ("rows", "stored", "kept", "pending")}
    return Answer(steps=steps, items=items, counts=counts)
