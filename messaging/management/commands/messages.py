"""manage.py messages: send, tail, channels, subscribe, unsubscribe, inbox, redrive."""

import json
import time
from argparse import ArgumentParser, ArgumentTypeError
from datetime import timedelta
from typing import Any

from django.core.serializers.json import DjangoJSONEncoder
from django.db.models import Count, Q
from django.utils import timezone

from agents.registry import find_agent
from messaging.channels import create_channel, get_channel, set_active, subscribe, unsubscribe
from messaging.delivery import list_dead, open_window, redrive
from messaging.models import Channel, Delivery, MessageType
from messaging.send import MAX_PRIORITY, send
from messaging.tail import QUERIES, Filters, Tail, read_newest
from operators.command import Answer, OperatorCommand, table

SHOWN_CHARACTERS = 60  # of a payload in a table; --json has all
POLL_SECONDS = 0.5


class Command(OperatorCommand):
    help = "Send messages, watch them go by, look after channels and deliveries."

    def add_verbs(self) -> None:
        add_send(self)
        parser = self.add_verb("tail", self.tail, "show the newest messages; -f goes on")
        parser.add_argument("--agent", help="sent by it or to it: id or name")
        parser.add_argument("--channel")
        parser.add_argument("--type", dest="message_type", choices=MessageType.values)
        parser.add_argument("--since-hours", type=positive_number, default=24.0)
        parser.add_argument("--limit", type=positive, default=20)
        parser.add_argument("-f", "--follow", action="store_true", help="go on until Ctrl-C, oldest first")
        add_channel_verbs(self)
        parser = self.add_verb("inbox", inbox, "show what waits for an agent, in the order in which it comes")
        parser.add_argument("agent", help="id or name")
        parser.add_argument("--limit", type=positive, default=50)
        parser = self.add_verb("redrive", redrive_dead, "send dead deliveries again, the oldest first")
        parser.add_argument("--agent", help="id or name; everybody's without it")
        parser.add_argument("--limit", type=positive, default=1000)
        parser.add_argument("--dry-run", action="store_true", help="print what would be done")

    def tail(self, since_hours: float, limit: int, follow: bool, **options: Any) -> Answer:
        filters = filters_of(**options)
        rows = read_newest(filters, timezone.now() - timedelta(hours=since_hours), limit)
        if not follow:
            return Answer(items=[shown(row, self.as_json) for row in rows], counts={"shown": len(rows)})
        watch = Tail(filters)
        watch.note(rows)
        for row in reversed(rows):
            self.print_row(row)
        try:
            while True:
                for row in watch.read_new():
                    self.print_row(row)
                time.sleep(POLL_SECONDS)
        except (KeyboardInterrupt, BrokenPipeError):
            return Answer()

    def handle(self, **options: Any) -> None:
        self.as_json = bool(options.get("json_after")) or bool(options["json"])
        super().handle(**options)

    def print_row(self, row: dict[str, Any]) -> None:
        """Print one message at once: JSON lines, or a line without heads."""
        line = json.dumps(shown(row, True), cls=DjangoJSONEncoder) if self.as_json else line_of(row)
        self.stdout.write(line)
        self.stdout.flush()


def add_send(command: OperatorCommand) -> None:
    parser: ArgumentParser = command.add_verb("send", send_message, "send a message")
    parser.add_argument("payload", nargs="?", type=json_value, default={}, help="JSON, {} without it")
    route = parser.add_mutually_exclusive_group(required=True)
    route.add_argument("--to", help="an agent: id or name")
    route.add_argument("--to-type", help="every agent of this type")
    route.add_argument("--channel")
    parser.add_argument("--from", dest="sender", help="an agent: id or name; the control plane without it")
    parser.add_argument(
        "--type", dest="message_type", choices=MessageType.values, default=MessageType.NOTIFICATION.value
    )
    parser.add_argument("--subject")
    parser.add_argument("--priority", type=int, default=0, help=f"0 to {MAX_PRIORITY}")
    parser.add_argument("--expires-in-seconds", type=positive_number)


def add_channel_verbs(command: OperatorCommand) -> None:
    parser: ArgumentParser = command.add_verb("channels", channels, "show channels; add, close or open one")
    parser.add_argument("--create", metavar="NAME")
    parser.add_argument("--kind", choices=Channel.Kind.values, default=Channel.Kind.TOPIC.value)
    parser.add_argument("--description", default="")
    parser.add_argument("--close", metavar="NAME", help="refuse messages from now on")
    parser.add_argument("--open", metavar="NAME", dest="reopen")
    parser.add_argument("--limit", type=positive, default=200)
    for name, run, words in (
        ("subscribe", subscribe_agent, "let an agent listen to a channel"),
        ("unsubscribe", unsubscribe_agent, "end an agent's subscriptions of a channel"),
    ):
        parser = command.add_verb(name, run, words)
        parser.add_argument("agent", help="id or name")
        parser.add_argument("channel")
        parser.add_argument("--pattern", help="subjects: `*` is one token, `>` at the end the rest")
        if name == "subscribe":
            parser.add_argument("--filters", type=json_object, help="JSON that the payload must contain")


# -- arguments ----------------------------------------------------------------------------------------------
def json_value(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError as error:
        raise ArgumentTypeError(f"not JSON: {error}") from error


def json_object(text: str) -> dict[str, Any]:
    value = json_value(text)
    if not isinstance(value, dict):
        raise ArgumentTypeError('must be a JSON object, for instance {"region": "eu"}')
    return value


def positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise ArgumentTypeError("must be 1 or more")
    return number


def positive_number(text: str) -> float:
    number = float(text)
    if not 0 < number < 1e6:
        raise ArgumentTypeError("must be more than 0 and less than a million")
    return number


def filters_of(agent: str | None, channel: str | None, message_type: str | None, **_: Any) -> Filters:
    return Filters(
        find_agent(agent).pk if agent else None, get_channel(channel).pk if channel else None, message_type
    )


# -- verbs --------------------------------------------------------------------------------------------------
def shown(row: dict[str, Any], whole: bool) -> dict[str, Any]:
    """Return a row for a program (whole, the payload as JSON), or for a table of a terminal's width."""
    if whole:
        return row | {"payload": json.loads(row["payload"])}
    sender, target = row["from"] or "-", row["to"] or row["channel"] or "-"
    return {
        "sent_at": f"{row['sent_at']:%Y-%m-%d %H:%M:%S}",
        "type": row["message_type"],
        "from": sender,
        "to": target,
        "subject": row["subject"] or "",
        "state": "processed" if row["processed_at"] else "delivered" if row["delivered_at"] else "sent",
        "payload": row["payload"][:SHOWN_CHARACTERS],
    }


def line_of(row: dict[str, Any]) -> str:
    """Return a message as one line of the table, without the heads."""
    return table([shown(row, False)])[1]


def send_message(
    payload: Any,
    to: str | None,
    to_type: str | None,
    channel: str | None,
    sender: str | None,
    expires_in_seconds: float | None,
    **options: Any,
) -> Answer:
    sent = send(
        payload,
        to_agent=find_agent(to).pk if to else None,
        broadcast_to_type=to_type,
        channel=channel,
        from_agent=find_agent(sender).pk if sender else None,
        expires_at=timezone.now() + timedelta(seconds=expires_in_seconds) if expires_in_seconds else None,
        **{name: options[name] for name in ("message_type", "subject", "priority")},
    )
    warnings = [] if sent.recipients else ["nobody listens: the message is logged and goes to no one"]
    return Answer(items=[vars(sent)], warnings=warnings)


def channels(
    create: str | None,
    kind: str,
    description: str,
    close: str | None,
    reopen: str | None,
    limit: int,
    **_: Any,
) -> Answer:
    if create:
        create_channel(create, kind, description=description)
    for name, is_active in ((close, False), (reopen, True)):
        if name:
            set_active(name, is_active)
    listening = Count("subscriptions", filter=Q(subscriptions__is_active=True))
    rows = Channel.objects.annotate(subscribers=listening)
    names = [name for name in (create, close, reopen) if name]
    if names:
        rows = rows.filter(channel_name__in=names)
    columns = ("channel_name", "channel_type", "is_active", "subscribers", "description", "channel_id")
    items = list(rows.order_by("channel_name").values(*columns)[:limit])
    return Answer(items=items, counts={"shown": len(items)})


def subscribe_agent(
    agent: str, channel: str, pattern: str | None, filters: dict[str, Any] | None, **_: Any
) -> Answer:
    made = subscribe(find_agent(agent).pk, channel, pattern=pattern, filters=filters)
    return Answer(
        items=[
            {
                "agent": agent,
                "channel": channel,
                "pattern": made.message_pattern,
                "filters": made.filters,
                "subscription_id": made.pk,
            }
        ]
    )


def unsubscribe_agent(agent: str, channel: str, pattern: str | None, **_: Any) -> Answer:
    ended = unsubscribe(find_agent(agent).pk, channel, pattern=pattern)
    return Answer(counts={"ended": ended}, ok=ended > 0)


def inbox(agent: str, limit: int, **_: Any) -> Answer:
    rows = QUERIES.run("inbox", {"agent_id": find_agent(agent).pk, **open_window()}, limit=limit)
    items = [row | {"payload": json.loads(row["payload"])} for row in rows]
    return Answer(items=items, counts={"shown": len(items)})


def redrive_dead(agent: str | None, limit: int, dry_run: bool, **_: Any) -> Answer:
    chosen = list_dead(find_agent(agent).pk if agent else None, limit)
    errors = dict(Delivery.objects.filter(pk__in=chosen).values_list("pk", "error"))
    steps = [
        {"action": "redrive", "object": f"delivery {found}", "why": str(errors.get(found))}
        for found in chosen
    ]
    return Answer(steps=steps, counts={"redriven": 0 if dry_run else redrive(chosen)})
