"""The programs under examples/ do what they say, with a relay and a flusher at work."""

import subprocess
import sys

import pytest

from agents.models import Agent, Checkpoint
from bridge.flush_runner import Flusher
from bridge.runner import Relay
from tests.bridge.conftest import rows, wait_until
from tests.bridge.flushing import state
from tests.bridge.test_flush_runner import running
from tests.schema.catalog import ROOT

pytestmark = [pytest.mark.deep, pytest.mark.usefixtures("committed", "jetstream")]


def run(example, agent):
    command = [sys.executable, f"examples/{example}.py", str(agent.pk)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_an_agent_goes_on_where_it_was(agent):
    with running(Relay(), Flusher("AGENT_STATE")):
        assert "page 1" in run("agent_sync", agent)
        assert "page 2" in run("agent_sync", agent)
        wait_until(lambda: state(agent).get("pages") == ["page 1", "page 2"])
    assert Checkpoint.objects.count() == 2
    rows("DELETE FROM agents.checkpoints")


def test_an_asynchronous_agent_ends_when_its_successor_starts(agent):
    command = [sys.executable, "examples/agent_async.py", str(agent.pk)]

    def start():
        return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)

    with running(Relay(), Flusher("AGENT_STATE")), start() as first:
        assert first.stdout.readline() == "turn 1\n"
        with start() as second:
            assert second.stdout.readline().startswith("turn ")
            *_, last = first.stdout.read().splitlines()
            second.kill()
        assert last.endswith("a successor took over: the end")
        assert first.wait(30) == 0
        wait_until(lambda: state(agent).get("turns", 0) >= 2)
    assert Agent.objects.get(pk=agent.pk).epoch == 3
