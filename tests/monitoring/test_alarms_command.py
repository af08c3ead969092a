import json
from io import StringIO

import pytest
from django.core.management import CommandError, call_command

from monitoring.models import AlarmChannel, AlarmEvent, AlarmRule

pytestmark = pytest.mark.django_db


@pytest.fixture(autouse=True)
def rule():
    AlarmRule.objects.all().delete()
    return AlarmRule.objects.create(name="r", metric="m", warning=10)


def run(*arguments, code=0):
    out = StringIO()
    if code:
        with pytest.raises(SystemExit, match=str(code)):
            call_command("alarms", *arguments, "--json", stdout=out)
    else:
        call_command("alarms", *arguments, "--json", stdout=out)
    return json.loads(out.getvalue())


def test_list_fails_while_something_rings_and_is_not_silenced(rule):
    assert run("list")["counts"] == {"alarms": 1, "ringing": 0}
    AlarmRule.objects.update(state="warning")
    assert [item["name"] for item in run("list", "--ringing", code=1)["items"]] == ["r"]
    run("silence", "r", "--minutes", "5", "--reason", "known")
    assert run("list")["counts"]["ringing"] == 0
    run("unsilence", "r")
    run("list", code=1)


def test_list_warns_of_alarms_that_would_not_ring():
    assert "would not ring" in run("list")["warnings"][0]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["silence", "nothing", "--reason", "x"], "no such alarm"),
        (["silence", "r", "--reason", " "], "reason is empty"),
        (["silence", "r", "--minutes", "0", "--reason", "x"], "must end within"),
        (["test", "nothing"], "no such channel"),
    ],
)
def test_mistakes_are_said(arguments, said):
    with pytest.raises(CommandError, match=said):
        run(*arguments)


def test_events_newest_first(rule):
    for states in (("ok", "warning"), ("warning", "ok")):
        AlarmEvent.objects.create(rule=rule, from_state=states[0], to_state=states[1])
    assert [item["to"] for item in run("events", "--name", "r")["items"]] == ["ok", "warning"]


def test_a_channel_is_tried_out(mailoutbox):
    AlarmChannel.objects.create(name="mail", kind="email", target="ops@example.org")
    assert run("test", "mail")["items"] == [{"channel": "mail", "error": None}]
    assert len(mailoutbox) == 1
