"""manage.py alarms: list, silence, unsilence, events, test."""

from datetime import timedelta
from typing import Any

from django.utils import timezone

from monitoring.alarms import LONGEST_SILENCE, deaf, silence, unsilence
from monitoring.models import AlarmChannel, AlarmEvent, AlarmRule, State
from monitoring.senders import send_to
from operators.audit import Actor, record, require_reason
from operators.command import Answer, OperatorCommand
from pg.errors import MisterSmithError, Refused

RULE = (
    "name",
    "state",
    "value",
    "warning",
    "critical",
    "direction",
    "state_since",
    "silenced_until",
    "problem",
)


class Command(OperatorCommand):
    help = "Alarms: what rings, silence, history, channels."

    def add_verbs(self) -> None:
        parser = self.add_verb(
            "list", list_rules, "show the alarms; exit 1 when one rings that is not silenced"
        )
        parser.add_argument("--ringing", action="store_true", help="only those that are not ok")
        parser = self.add_verb("silence", silence_some, "send nothing of these alarms for a while")
        parser.add_argument("names", nargs="+", metavar="name")
        parser.add_argument("--minutes", type=int, default=60, help=f"at most {LONGEST_SILENCE.days} days")
        parser.add_argument("--reason", required=True)
        parser = self.add_verb("unsilence", unsilence_some, "let them be heard again")
        parser.add_argument("names", nargs="+", metavar="name")
        parser.add_argument("--reason", default="")
        parser = self.add_verb("events", list_events, "show changes of state, newest first")
        parser.add_argument("--name")
        parser.add_argument("--limit", type=int, default=50)
        self.add_verb("test", try_channel, "send a test to a channel").add_argument("channel")


def list_rules(ringing: bool, **_: Any) -> Answer:
    now = timezone.now()
    rules = AlarmRule.objects.filter(is_enabled=True).order_by("name")
    loud = [
        rule
        for rule in rules
        if rule.state != State.OK and not (rule.silenced_until and rule.silenced_until > now)
    ]
    shown = [rule for rule in rules if rule.state != State.OK] if ringing else list(rules)
    return Answer(
        items=[{name: getattr(rule, name) for name in RULE} for rule in shown],
        counts={"alarms": len(rules), "ringing": len(loud)},
        warnings=[
            f"{rule.name} would not ring: {rule.problem or 'it was not judged lately'}" for rule in deaf(now)
        ],
        ok=not loud,
    )


def find_rules(names: list[str]) -> list[AlarmRule]:
    rules = list(AlarmRule.objects.filter(name__in=names))
    if missing := set(names) - {rule.name for rule in rules}:
        raise Refused(f"{', '.join(sorted(missing))}: no such alarm", "see `manage.py alarms list`")
    return rules


def silence_some(names: list[str], minutes: int, reason: str, **_: Any) -> Answer:
    now = timezone.now()
    until = now + timedelta(minutes=minutes)
    count = silence(find_rules(names), until, by=Actor.of_command(), reason=require_reason(reason), now=now)
    return Answer(
        items=[{"name": name, "silenced_until": until} for name in names], counts={"silenced": count}
    )


def unsilence_some(names: list[str], reason: str, **_: Any) -> Answer:
    return Answer(counts={"unsilenced": unsilence(find_rules(names), by=Actor.of_command(), reason=reason)})


def list_events(name: str | None, limit: int, **_: Any) -> Answer:
    events = AlarmEvent.objects.select_related("rule").order_by("-event_id")
    if name:
        events = events.filter(rule__in=find_rules([name]))
    items = [
        {"happened_at": one.happened_at, "name": one.rule.name, "from": one.from_state, "to": one.to_state,
         "value": one.value, "was_silenced": one.was_silenced}
        for one in events[: max(limit, 0)]
    ]  # fmt: skip
    return Answer(items=items, counts={"events": len(items)})


def try_channel(channel: str, **_: Any) -> Answer:
    found = AlarmChannel.objects.filter(name=channel).first()
    if found is None:
        known = ", ".join(AlarmChannel.objects.order_by("name").values_list("name", flat=True)) or "none yet"
        raise Refused(f"{channel}: no such channel", f"known: {known}; add one in the admin, Monitoring")
    record(Actor.of_command(), "monitoring.try_channel", [found.name])
    try:
        send_to(found, {"alarm": "test", "to": "ok", "description": "Sent by hand, to try the channel out."})
    except MisterSmithError:
        raise
    except Exception as error:  # whatever the channel says is what was asked for
        return Answer(items=[{"channel": channel, "error": f"{type(error).__name__}: {error}"}], ok=False)
    return Answer(items=[{"channel": channel, "error": None}])
