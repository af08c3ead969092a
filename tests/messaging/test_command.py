import json
from io import StringIO
from uuid import uuid4

import pytest
from django.core.management import CommandError, call_command

from agents.registry import register_agent
from messaging.delivery import reject, take
from messaging.management.commands import messages as command
from messaging.models import Channel, Message
from messaging.send import send
from tests.messaging.conftest import rows

pytestmark = pytest.mark.django_db


def run(*arguments: str) -> dict:
    out = StringIO()
    call_command("messages", *arguments, "--json", stdout=out)
    return json.loads(out.getvalue())


def payloads(answer):
    return [item["payload"] for item in answer["items"]]


def test_a_message_from_sending_to_the_inbox(ann, bob):
    sent = run(
        "send", '{"n": 1}', "--to", "bob", "--from", str(ann.pk), "--type", "command", "--priority", "2"
    )
    assert (sent["command"], sent["items"][0]["recipients"], sent["warnings"]) == ("messages send", 1, [])
    [waiting] = run("inbox", "bob")["items"]
    assert (waiting["payload"], waiting["from"], waiting["state"]) == ({"n": 1}, "ann", "pending")
    assert take(bob.pk)[0].expires_at


def test_channels_and_subscriptions(bob):
    run("channels", "--create", "news", "--kind", "topic", "--description", "what is new")
    run("subscribe", "bob", "news", "--pattern", "a.*", "--filters", '{"x": 1}')
    [channel] = run("channels")["items"]
    assert (channel["channel_name"], channel["subscribers"], channel["is_active"]) == ("news", 1, True)
    assert run("send", '{"x": 1}', "--channel", "news", "--subject", "a.b")["items"][0]["recipients"] == 1
    missed = run("send", '{"x": 2}', "--channel", "news", "--subject", "a.b")
    assert (missed["ok"], missed["warnings"]) == (
        True,
        ["nobody listens: the message is logged and goes to no one"],
    )
    assert run("unsubscribe", "bob", "news")["counts"] == {"ended": 1}
    assert run("channels", "--close", "news")["items"][0]["is_active"] is False
    with pytest.raises(CommandError, match="closed"):
        run("send", "--channel", "news", "--subject", "a")
    assert run("channels", "--open", "news")["items"][0]["is_active"] is True


def test_unsubscribing_who_was_not_subscribed_ends_with_1(bob):
    run("channels", "--create", "news")
    with pytest.raises(SystemExit) as caught:
        run("unsubscribe", "bob", "news")
    assert caught.value.code == 1


@pytest.mark.parametrize(
    "arguments",
    [
        ("send", "--to", "nobody"),
        ("send", "--to", str(uuid4())),
        ("send", "--to", "bob", "--priority", "11"),
        ("send", "--channel", "nowhere"),
        ("inbox", "nobody"),
        ("subscribe", "bob", "nowhere"),
        ("tail", "--agent", "nobody"),
        ("tail", "--channel", "nowhere"),
        ("channels", "--close", "nowhere"),
    ],
)
def test_errors_end_with_exit_code_2_and_write_nothing(bob, arguments):
    with pytest.raises(CommandError) as caught:
        run(*arguments)
    assert caught.value.returncode == 2
    assert not Message.objects.exists()
    assert not Channel.objects.exists()


@pytest.mark.parametrize("arguments", [("send",), ("send", "{", "--to", "bob"), ("tail", "--limit", "0")])
def test_bad_usage_ends_with_exit_code_2(bob, arguments):
    with pytest.raises(SystemExit) as caught:
        run(*arguments)
    assert caught.value.code == 2


def test_a_name_that_two_agents_have_is_refused(bob):
    register_agent("reader", "bob")
    with pytest.raises(CommandError, match="several agents"):
        run("send", "--to", "bob")


def test_tail_shows_the_newest_first_filtered(ann, bob):
    run("channels", "--create", "news")
    for number in range(3):
        send(number, to_agent=bob.pk, from_agent=ann.pk, message_type="command")
    send("c", channel="news", subject="a")
    assert payloads(run("tail", "--limit", "3")) == ["c", 2, 1]
    assert (
        payloads(run("tail", "--agent", "ann")) == payloads(run("tail", "--agent", str(bob.pk))) == [2, 1, 0]
    )
    assert payloads(run("tail", "--channel", "news")) == ["c"]
    assert payloads(run("tail", "--type", "notification")) == ["c"]


def test_tail_looks_only_so_far_back(bob):
    send(1, to_agent=bob.pk)
    rows(
        "UPDATE messages.log SET message_id = partitions.uuid7_at(now() - interval '2 hours'),"
        " sent_at = now() - interval '2 hours'"
    )
    assert payloads(run("tail", "--since-hours", "1")) == []
    assert payloads(run("tail")) == [1]


def test_tail_reads_no_partition_before_its_bound(bob):
    from django.db import connection

    from messaging.tail import Filters, timedelta, timezone, uuid7_floor

    now = timezone.now()
    values = vars(Filters()) | {"since": uuid7_floor(now), "until": uuid7_floor(now + timedelta(hours=1))}
    with connection.cursor() as cursor:
        cursor.execute("EXPLAIN " + command.QUERIES.text("tail", limit=1), values)
        plan = "\n".join(row[0] for row in cursor.fetchall())
    assert f"log_{now - timedelta(days=1):%Y_%m_%d}" not in plan
    assert f"log_{now + timedelta(days=2):%Y_%m_%d}" not in plan


class Lines(StringIO):
    """Output that raises Ctrl-C in its reader as soon as `wanted` lines are there, and tells of the first."""

    def __init__(self, wanted: int) -> None:
        super().__init__()
        self.wanted = wanted

    def flush(self) -> None:
        if self.getvalue().count("\n") >= self.wanted:
            raise KeyboardInterrupt


def test_tail_follows_new_messages_each_once(bob, monkeypatch):
    """A message is sent whenever the tail pauses: what it prints is all of them, in their order."""
    numbers = iter(range(10, 20))
    monkeypatch.setattr(command.time, "sleep", lambda _: send(next(numbers), to_agent=bob.pk))
    send(1, to_agent=bob.pk)
    out = Lines(4)
    call_command("messages", "tail", "-f", "--json", stdout=out)
    lines = [json.loads(line) for line in out.getvalue().splitlines()[:4]]
    assert [line["payload"] for line in lines] == [1, 10, 11, 12]


def test_tail_sees_what_committed_late(own_database, bob):
    """A message whose id is older than one that was shown already is shown too."""
    from messaging.tail import Filters, Tail

    watch = Tail(Filters())
    send("second", to_agent=bob.pk)
    assert [row["payload"] for row in watch.read_new()] == ['"second"']
    send("first", to_agent=bob.pk)
    rows(
        "UPDATE messages.log SET message_id = partitions.uuid7_at(now() - interval '5 s'),"
        " sent_at = now() - interval '5 s' WHERE payload = '\"first\"'"
    )
    assert [row["payload"] for row in watch.read_new()] == ['"first"']
    assert list(watch.read_new()) == []


def test_dead_deliveries_are_listed_and_redriven(bob):
    send(1, to_agent=bob.pk)
    reject(take(bob.pk)[0], "broken", may_retry=False)
    planned = run("redrive", "--dry-run")
    assert ([step["why"] for step in planned["steps"]], planned["counts"]) == (["broken"], {"redriven": 0})
    assert run("redrive", "--agent", "bob")["counts"] == {"redriven": 1}
    assert run("redrive")["steps"] == []
    assert take(bob.pk)


def test_the_table_is_for_people(bob):
    send({"long": "x" * 500}, to_agent=bob.pk, subject="hello")
    out = StringIO()
    call_command("messages", "tail", stdout=out)
    assert "hello" in out.getvalue()
    assert max(map(len, out.getvalue().splitlines())) < 200
