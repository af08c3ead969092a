import json
from io import StringIO
from uuid import uuid4

import pytest
from django.core.management import CommandError, call_command

from agents.registry import register_agent
from sessions.lifecycle import authenticate
from sessions.models import Session
from tests.sessions.conftest import open_expired, open_one

pytestmark = pytest.mark.django_db


def run(*arguments: str) -> dict:
    out = StringIO()
    call_command("sessions", *arguments, "--json", stdout=out)
    return json.loads(out.getvalue())


@pytest.fixture
def agent():
    return register_agent("worker", "ann")


def test_a_session_from_opening_to_revocation(agent):
    opened = run("open", "--agent", "ann", "--permissions", '{"read": true}')["items"][0]
    assert authenticate(opened["token"]).agent == agent
    rotated = run("rotate", opened["session_id"], "--ttl-seconds", "60")["items"][0]
    assert authenticate(opened["token"]) is None
    assert authenticate(rotated["token"]).permissions == {"read": True}
    assert run("revoke", rotated["session_id"])["counts"] == {"revoked": 1}
    assert authenticate(rotated["token"]) is None


def test_the_token_is_printed_once_and_only_to_stdout(agent, capsys):
    out = StringIO()
    call_command("sessions", "open", "--user", "bob", stdout=out)
    token = Session.objects.get() and out.getvalue().split()[-1]
    assert authenticate(token).user_id == "bob"
    assert out.getvalue().count(token) == 1
    assert token not in "".join(capsys.readouterr())


def test_the_list_has_neither_tokens_nor_digests(agent):
    token, session_id = open_one(agent_id=agent.pk)
    digest = bytes(Session.objects.get().token_digest).hex()
    for arguments in ((), ("--agent", "ann"), ("--state", "all")):
        listed = run("list", *arguments)
        assert [item["session_id"] for item in listed["items"]] == [str(session_id)]
        assert token not in json.dumps(listed)
        assert digest not in json.dumps(listed)
        assert "digest" not in json.dumps(listed)


@pytest.mark.parametrize(("state", "number"), [("live", 1), ("expired", 2), ("all", 3)])
def test_the_list_is_filtered(state, number):
    open_one(user_id="ann")
    open_expired(user_id="ann")
    open_expired(user_id="ann")
    open_one(user_id="bob")
    assert run("list", "--user", "ann", "--state", state)["counts"] == {"shown": number}
    assert run("list", "--user", "ann", "--state", state, "--limit", "1")["counts"] == {"shown": 1}


def test_all_sessions_of_an_agent_are_revoked(agent):
    for _ in range(2):
        open_one(agent_id=agent.pk)
    open_one()
    assert run("revoke", "--agent", "ann")["counts"] == {"revoked": 2}
    assert Session.objects.count() == 1


def test_revoking_what_is_not_there_ends_with_1():
    with pytest.raises(SystemExit) as caught:
        run("revoke", str(uuid4()))
    assert caught.value.code == 1


def test_purge_says_first_and_does_then():
    open_one()
    open_expired()
    assert run("purge", "--dry-run")["steps"] == [
        {"action": "delete", "object": "1 sessions", "why": "they expired"}
    ]
    assert run("purge")["counts"] == {"purged": 1}
    assert run("purge", "--dry-run")["steps"] == []
    assert Session.objects.count() == 1


@pytest.mark.parametrize(
    "arguments",
    [
        ("open", "--agent", "nobody"),
        ("open", "--user", "ann", "--ttl-seconds", "0"),
        ("open", "--user", "ann", "--ttl-seconds", "nan"),
        ("open", "--user", "ann", "--ttl-seconds", "1e300"),
        ("rotate", str(uuid4())),
        ("revoke",),
        ("list", "--agent", "nobody"),
    ],
)
def test_errors_end_with_exit_code_2(arguments):
    with pytest.raises(CommandError) as caught:
        run(*arguments)
    assert caught.value.returncode == 2
    assert not Session.objects.exists()


def test_a_token_given_for_an_id_is_not_repeated(capsys):
    token, _ = open_one()
    with pytest.raises(SystemExit) as caught:
        run("revoke", token)
    assert caught.value.code == 2
    shown = capsys.readouterr()
    assert token not in shown.out + shown.err
