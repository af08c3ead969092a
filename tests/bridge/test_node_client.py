"""The official Node.js client reads what Python wrote, and what it writes the flusher keeps (`make test-deep` puts the
client into .deep/npm)."""

import json
import os
import subprocess
from pathlib import Path

import pytest

from agents.models import Agent
from bridge.flush_runner import Flusher
from bridge.runner import Relay
from bridge.state import AgentState
from tests.bridge.conftest import MODULES, rows, wait_until
from tests.bridge.test_flush_runner import running

pytestmark = pytest.mark.deep
PROGRAM = Path(__file__).with_name("node_client.mjs")


@pytest.fixture
def bridging(committed, jetstream):
    with running(Relay(), Flusher("AGENT_STATE")):
        yield


def test_python_postgresql_and_node_share_one_state(node, agent, bridging):
    state = AgentState(agent.pk)
    state.put("from python", {"text": "grüß", "list": [1, None]})
    state.put("count", 41)
    state.put("gone", True)
    process = subprocess.Popen(
        [node, str(PROGRAM), str(MODULES), os.environ["NATS_URL"], str(agent.pk)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    wait_until(lambda: {"fenced", "ready"} <= kept(agent).keys() or process.poll() is not None)
    Agent.objects.filter(pk=agent.pk).update(epoch=2)
    out, errors = process.communicate(timeout=60)
    assert process.returncode == 0, errors
    said = json.loads(out)
    assert said["read"] == {"text": "grüß", "list": [1, None]}
    assert said["stale"] == 10071
    assert said["fenced"] == 10071
    expected = {
        "from python": {"text": "grüß", "list": [1, None]},
        "from.node": {"text": "grüß", "list": [1, None]},
        "count": 42,
        "fenced": "node",
        "ready": True,
    }
    assert {key: found.value for key, found in state.read_many().items()} == expected
    wait_until(lambda: kept(agent) == expected)


def kept(agent):
    found = rows("SELECT state_key, state_value::text FROM agents.state WHERE agent_id = %s", agent.pk)
    return {key: json.loads(value) for key, value in found}
