import json
from io import StringIO
from uuid import uuid4

import pytest
from django.core.management import CommandError, call_command

from agents.models import Agent

pytestmark = pytest.mark.django_db


def run(*arguments: str) -> dict:
    out = StringIO()
    call_command("agents", *arguments, "--json", stdout=out)
    return json.loads(out.getvalue())


def test_an_agent_from_registration_to_termination():
    made = run("register", "reader", "r1", "--configuration", '{"depth": 2}')
    agent_id = made["items"][0]["agent_id"]
    assert made["ok"]
    assert made["command"] == "agents register"
    assert run("list", "--type", "reader")["counts"] == {"shown": 1}
    assert run("suspend", agent_id, "--reason", "lunch")["items"][0]["status"] == "suspended"
    assert run("resume", agent_id)["items"][0]["status"] == "active"
    run("state", agent_id, "--set", '{"page": 1}')
    run("checkpoint", agent_id, "--name", "one")
    run("state", agent_id, "--set", '{"page": 2}')
    plan = run("rollback", agent_id, "--dry-run")
    assert plan["steps"] == [{"action": "set", "object": "page", "why": "2 becomes 1"}]
    assert run("state", agent_id)["items"] == [{"key": "page", "value": 2}]
    assert run("rollback", agent_id, "--checkpoint", "one")["counts"] == {"keys": 1}
    assert run("state", agent_id)["items"] == [{"key": "page", "value": 1}]
    assert run("rollback", agent_id, "--undo", "--reason", "no")["counts"] == {"keys": 1}
    assert run("state", agent_id)["items"] == [{"key": "page", "value": 2}]
    assert run("terminate", agent_id)["items"][0]["status"] == "terminated"


def test_agents_are_found_by_what_they_can_do():
    run("register", "reader", "r1", "--capabilities", '{"languages": ["de", "en"], "tool": "grep"}')
    run("register", "reader", "r2", "--capabilities", '{"languages": ["fr"]}')
    found = run("list", "--can", '{"languages": ["de"]}')["items"]
    assert [item["agent_name"] for item in found] == ["r1"]
    assert run("list", "--can", '{"tool": "sed"}')["items"] == []
    assert run("list", "--can", "{}")["counts"] == {"shown": 2}


@pytest.mark.parametrize(
    "arguments",
    [("suspend", str(uuid4())), ("register", "", "x"), ("rollback", str(uuid4()))],
)
def test_errors_end_with_exit_code_2(arguments):
    with pytest.raises(CommandError) as caught:
        run(*arguments)
    assert caught.value.returncode == 2
    assert not Agent.objects.exists()
