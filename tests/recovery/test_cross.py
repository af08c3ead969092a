"""PostgreSQL and JetStream in one backup, at one moment, and back."""

import json

from recovery import catalogue, manifest
from recovery.cross import back_up_cross
from recovery.pitr import Target, plan_recovery
from recovery.recover import recover
from recovery.restore_jetstream import plan_jetstream, restore_jetstream, restoring_session
from tests.bridge.flushing import flush
from tests.recovery.world import shared_world, world

__all__ = ["shared_world", "world"]


def test_both_systems_come_back_at_one_moment(world, tmp_path):
    world.make_agents(5)
    world.relay()
    for agent in world.agents:
        world.put(agent, "flushed", 1)
    from bridge.session import open_session

    with open_session() as session:
        flush(session)
    for agent in world.agents:
        world.put(agent, "unflushed", 2)
    backup = back_up_cross()
    for agent in world.agents:
        world.put(agent, "too_late", 3)
    place = world.home / "place"
    place.mkdir(mode=0o711)
    proof = recover(plan_recovery(Target("name", f"xs_{backup.pk}"), str(backup.parent_id)), place / "data")
    print(proof)
    world.start_restored(place / "data")
    world.lose_nats()
    with restoring_session() as db:
        plan = plan_jetstream(db)
        done = restore_jetstream(db, plan, tmp_path)
    print(done)
    assert not done.problems
    world.relay()
    for agent in world.agents:
        assert world.stored(agent) == {"flushed": 1, "unflushed": 2}
