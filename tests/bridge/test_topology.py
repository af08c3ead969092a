import asyncio
import json

import pytest
from nats.js.api import StorageType

from bridge import connection, setup, topology
from bridge.topology import Existing, plan
from tests.bridge.conftest import history, put, wait_until

ALL = {item.stream: item.config(1) for item in topology.declared()}
ALL |= {item.stream: item.config(1, 7) for item in topology.FLUSHES}
CREATED = {item.source: 7 for item in topology.FLUSHES}
CONSUMERS = {label: item.config() for label, item in topology.consumers().items()}


def server(streams=ALL, consumers=CONSUMERS, created=CREATED):
    return Existing(streams, consumers, created)


def test_a_bare_server_gets_everything():
    steps = plan(server({}, {}, {}), replicas=1)
    assert [step.object for step in steps] == [*ALL, *CONSUMERS]
    assert {step.action for step in steps} == {"create"}


def test_a_server_that_is_right_needs_nothing():
    assert plan(server(), replicas=1) == []


def test_a_drifted_setting_is_named_with_both_values():
    existing = {**ALL, "KV_TASK_STATE": ALL["KV_TASK_STATE"].evolve(max_age=60, max_msgs_per_subject=1)}
    (step,) = plan(server(existing), replicas=1)
    assert (step.action, step.object) == ("update", "KV_TASK_STATE")
    assert step.why == "max_age is 60, declared 7200; max_msgs_per_subject is 1, declared 5"


def test_what_a_server_cannot_change_is_refused():
    existing = {**ALL, "AGENT_STATE": ALL["AGENT_STATE"].evolve(storage=StorageType.MEMORY)}
    (step,) = plan(server(existing), replicas=1)
    assert (step.action, step.object) == ("refuse", "AGENT_STATE")
    assert "storage is memory, declared file" in step.why


def test_a_drifted_consumer_is_updated_or_refused():
    label = "TASK_EXECUTION/task-processor"
    (step,) = plan(server(consumers={**CONSUMERS, label: CONSUMERS[label].evolve(max_deliver=9)}), replicas=1)
    assert (step.action, step.object, step.why) == ("update", label, "max_deliver is 9, declared 3")
    (step,) = plan(server(consumers={**CONSUMERS, label: CONSUMERS[label].evolve(ack_policy="none")}), 1)
    assert (step.action, step.why) == ("refuse", "ack_policy is none, declared explicit")


def test_a_stream_of_a_former_bucket_is_replaced():
    (step,) = plan(server(created={**CREATED, "KV_AGENT_STATE": 8}), replicas=1)
    assert (step.action, step.object) == ("replace", "FLUSH_AGENT_STATE")
    assert "KV_AGENT_STATE was made anew" in step.why


@pytest.mark.parametrize(("servers", "expected"), [(1, 1), (3, 3), (5, 3)])
def test_replicas_follow_the_cluster_up_to_what_is_declared(servers, expected):
    assert topology.buckets()["AGENT_STATE"].config(servers).num_replicas == expected
    assert topology.buckets()["QUERY_CACHE"].config(servers).num_replicas == 1


def test_figures_can_be_replaced_in_settings(settings):
    settings.BRIDGE_OVERRIDES = {
        "AGENT_STATE": {"ttl_seconds": 60},
        "stream:AGENT_STATE": {"max_messages": 5},
    }
    assert topology.buckets()["AGENT_STATE"].config(1).max_age == 60
    assert topology.buckets()["AGENT_STATE"].config(1).duplicate_window == 60
    assert topology.streams()["AGENT_STATE"].config(1).max_msgs == 5


# the companion text's figures: ttl seconds, history, value bytes, total bytes, compression
FIGURES = {
    "SESSION_DATA": (3600, 1, 1 << 20, 1 << 30, "s2"),
    "AGENT_STATE": (1800, 3, 2 << 20, 5 << 30, "s2"),
    "AGENT_CONFIG": (0, 10, 512 << 10, 1 << 30, "s2"),
    "QUERY_CACHE": (300, 1, 1 << 20, 256 << 20, "none"),
    "TASK_STATE": (7200, 5, 1 << 20, 2 << 30, "s2"),
}


def test_a_real_server_has_the_declared_figures(jetstream):
    found = setup.read_found()
    assert setup.make_plan(found) == []
    assert setup.payload_warning(found) == ""
    for name, figures in FIGURES.items():
        config = found.configs[f"KV_{name}"]
        assert figures == (
            config.max_age, config.max_msgs_per_subject, config.max_msg_size, config.max_bytes, config.compression
        )  # fmt: skip
        assert (config.allow_direct, config.allow_rollup_hdrs, config.deny_delete, config.allow_msg_ttl) == (
            True,
        ) * 4


def test_drift_on_a_real_server_is_found_and_repaired(own_jetstream):
    drifted = topology.buckets()["AGENT_CONFIG"].config(1).evolve(max_msgs_per_subject=2)
    connection.call(lambda c: c.jetstream.update_stream(drifted))
    steps = setup.make_plan(setup.read_found())
    assert [(step.action, step.object) for step in steps] == [("update", "KV_AGENT_CONFIG")]
    setup.apply_plan(steps)
    assert setup.make_plan(setup.read_found()) == []


def test_a_drifted_consumer_on_a_real_server_is_repaired(own_jetstream):
    item = topology.consumers()["AGENT_MESSAGES/message-batch-processor"]
    connection.call(lambda c: c.jetstream.add_consumer(item.stream, item.config().evolve(ack_wait=7)))
    steps = setup.make_plan(setup.read_found())
    assert [(step.action, step.object) for step in steps] == [("update", item.label)]
    setup.apply_plan(steps)
    assert setup.make_plan(setup.read_found()) == []


def test_a_bucket_that_was_made_anew_gets_its_flush_stream_anew_when_that_is_empty(own_jetstream):
    put("AGENT_STATE", "a.b", 1)
    flushed = lambda: connection.call(lambda c: c.jetstream.stream_info("FLUSH_AGENT_STATE")).state.messages  # noqa: E731
    wait_until(flushed)
    connection.call(lambda c: c.jetstream.delete_stream("KV_AGENT_STATE"))
    setup.apply_plan(setup.make_plan(setup.read_found()))
    steps = setup.make_plan(setup.read_found())
    assert [(step.action, step.object) for step in steps] == [("replace", "FLUSH_AGENT_STATE")]
    with pytest.raises(setup.TopologyError, match="1 writes to the former KV_AGENT_STATE"):
        setup.apply_plan(steps)
    connection.call(lambda c: c.jetstream.purge_stream("FLUSH_AGENT_STATE"))
    setup.apply_plan(steps)
    assert setup.make_plan(setup.read_found()) == []
    put("AGENT_STATE", "a.b", 2)
    wait_until(flushed)


def test_what_a_server_refuses_comes_with_a_hint(own_jetstream, settings):
    settings.BRIDGE_OVERRIDES = {"QUERY_CACHE": {"max_bytes": 1 << 60}}
    with pytest.raises(setup.TopologyError, match="KV_QUERY_CACHE") as caught:
        setup.apply_plan(setup.make_plan(setup.read_found()))
    assert "max_memory_store" in caught.value.hint


def test_changes_of_state_are_republished_and_stored_once(jetstream):
    heard = asyncio.run_coroutine_threadsafe(_queue(), connection.link()._loop).result(60)

    async def listen(client):
        await client.nc.subscribe("state.changed.>", cb=heard.put)
        await client.nc.flush()

    connection.call(listen)
    put("AGENT_STATE", "someone.mood", {"x": 1})
    wait_until(lambda: heard.qsize())
    message = heard.get_nowait()
    assert (message.subject, json.loads(message.data)) == ("state.changed.someone.mood", {"x": 1})
    assert len(history("KV_AGENT_STATE")) == 1
    assert history("AGENT_STATE") == []


async def _queue():
    return asyncio.Queue()
