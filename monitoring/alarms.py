"""Judges the alarm rules. `judge` is pure; `evaluate_rules` reads the metrics and writes what changed."""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from django.db import connection, transaction
from django.db.models import Q

from monitoring.models import SEVERITY, AlarmChannel, AlarmEvent, AlarmRule, Notification, State
from monitoring.registry import Metric, Sample, metrics, one_reading, read_metric
from operators.audit import Actor, record
from pg.errors import Refused

LONGEST_SILENCE = timedelta(days=30)
DEAF_AFTER = timedelta(minutes=5)  # rules are judged every 15 seconds


@dataclass(frozen=True)
class Judgement:
    """What a rule's row becomes. `pending_since` is None when nothing is about to change."""

    state: State
    pending_state: State | None
    pending_since: datetime | None


def judge(rule: AlarmRule, value: float, now: datetime) -> Judgement:
    """Return the rule's next state: a state other than the present one must last `hold_seconds`, and a state is left
    for a milder one only when the value is back beyond the threshold by `clear_margin`."""
    present = State(rule.state)
    wanted = state_of(rule, value, 0)
    if SEVERITY[wanted] < SEVERITY[present]:
        wanted = min(present, state_of(rule, value, rule.clear_margin), key=SEVERITY.__getitem__)
    if wanted == present:
        return Judgement(present, None, None)
    since = rule.pending_since if rule.pending_state == wanted and rule.pending_since else now
    if now - since >= timedelta(seconds=rule.hold_seconds):
        return Judgement(wanted, None, None)
    return Judgement(present, wanted, since)


def state_of(rule: AlarmRule, value: float, margin: float) -> State:
    """Return the state that a value means, with thresholds moved by `margin` towards the harmless side."""
    sign = 1 if rule.direction == AlarmRule.Direction.ABOVE else -1
    for state, threshold in ((State.CRITICAL, rule.critical), (State.WARNING, rule.warning)):
        if threshold is not None and sign * value > sign * threshold - margin:
            return state
    return State.OK


def evaluate_rules(now: datetime) -> int:
    """Judge every enabled rule; return how many changed their state.

    Each metric is read once, all rules are locked by one query and written by one. Safe twice, late or beside itself: a
    rule that another runner holds is passed over, and new states, events and notifications are one transaction. A rule
    without a value keeps its state and says why.
    """
    enabled = AlarmRule.objects.filter(is_enabled=True)
    wanted = set(enabled.values_list("metric", flat=True))
    with one_reading():
        values = {metric.name: read(metric) for metric in metrics() if metric.name in wanted}
    with transaction.atomic():
        rules = list(enabled.select_for_update(skip_locked=True).order_by("pk"))
        before = {rule.pk: rule.state for rule in rules}
        for rule in rules:
            evaluate_rule(rule, values.get(rule.metric, "no such metric"), now)
        keep(rules)
        changed = [rule for rule in rules if rule.state != before[rule.pk]]
        for rule in changed:
            announce(rule, before[rule.pk], now)
    return len(changed)


Read = list[Sample] | str


def read(metric: Metric) -> Read:
    """Return the samples, or the error as text: one metric that cannot be read must not hide the others."""
    try:
        return read_metric(metric)
    except Exception as error:  # whatever it is belongs into the rule's row
        return f"{type(error).__name__}: {error}".strip()


def evaluate_rule(rule: AlarmRule, found: Read, now: datetime) -> None:
    """Set the rule's figures and its state; nothing is written."""
    rule.value, rule.problem = worst(rule, found)
    rule.evaluated_at = now
    if rule.value is None:
        return
    judged = judge(rule, rule.value, now)
    if judged.state != rule.state:
        rule.state_since = now
    rule.state, rule.pending_state, rule.pending_since = (
        judged.state,
        judged.pending_state,
        judged.pending_since,
    )


KEEP = """
UPDATE monitoring.alarm_rules r SET
  value = x.value, problem = x.problem, evaluated_at = x.evaluated_at, state = x.state, state_since = x.state_since,
  pending_state = x.pending_state, pending_since = x.pending_since
FROM unnest(
  %s::bigint[], %s::float8[], %s::text[], %s::timestamptz[],
  %s::text[], %s::timestamptz[], %s::text[], %s::timestamptz[]
) AS x (rule_id, value, problem, evaluated_at, state, state_since, pending_state, pending_since)
WHERE r.rule_id = x.rule_id
"""
KEPT = ("pk", "value", "problem", "evaluated_at", "state", "state_since", "pending_state", "pending_since")


def keep(rules: Iterable[AlarmRule]) -> None:
    """Write what was found of these rules, by one statement: one for each was most of a round's processor time."""
    rows = list(rules)
    with connection.cursor() as cursor:
        cursor.execute(KEEP, [[text_or(getattr(rule, name)) for rule in rows] for name in KEPT])


def text_or(value: Any) -> Any:
    """A state of TextChoices is sent as the text that it is."""
    return str(value) if isinstance(value, State) else value


def worst(rule: AlarmRule, found: Read) -> tuple[float | None, str]:
    """Return the worst value of the series that the rule means, or None and why."""
    if isinstance(found, str):
        return None, found
    matching = [value for labels, value in found if rule.labels.items() <= labels.items()]
    if not matching:
        return None, "no series with these labels"
    return float((max if rule.direction == AlarmRule.Direction.ABOVE else min)(matching)), ""


def announce(rule: AlarmRule, before: str, now: datetime) -> None:
    """Write the event, and a notification for each channel that wants it. Silenced rules keep their history."""
    is_silenced = rule.silenced_until is not None and rule.silenced_until > now
    event = AlarmEvent.objects.create(
        rule=rule,
        from_state=before,
        to_state=rule.state,
        value=rule.value,
        was_silenced=is_silenced,
        happened_at=now,
    )
    if is_silenced:
        return
    severity = max(SEVERITY[State(before)], SEVERITY[State(rule.state)])
    heard = [state for state, number in SEVERITY.items() if 0 < number <= severity]
    channels = AlarmChannel.objects.filter(is_enabled=True, minimum_state__in=heard)
    Notification.objects.bulk_create(
        Notification(event=event, channel=channel, next_at=now) for channel in channels
    )


# -- what operators do --------------------------------------------------------------------------------------
def silence(rules: Iterable[AlarmRule], until: datetime, *, by: Actor, reason: str, now: datetime) -> int:
    """Send nothing of these rules before `until`; they are judged, and keep their history. Raises Refused."""
    if not now < until <= now + LONGEST_SILENCE:
        raise Refused(
            f"silence until {until:%Y-%m-%d %H:%M}: must end within {LONGEST_SILENCE.days} days from now"
        )
    return set_silence(rules, until, reason, "monitoring.silence", by)


def unsilence(rules: Iterable[AlarmRule], *, by: Actor, reason: str) -> int:
    return set_silence(rules, None, "", "monitoring.unsilence", by, reason)


def set_silence(
    rules: Iterable[AlarmRule],
    until: datetime | None,
    text: str,
    action: str,
    by: Actor,
    reason: str | None = None,
) -> int:
    names = {rule.pk: rule.name for rule in rules}
    with transaction.atomic():
        changed = AlarmRule.objects.filter(pk__in=names).update(silenced_until=until, silence_reason=text)
        details = {"until": until.isoformat()} if until else {}
        record(by, action, names.values(), reason=text if reason is None else reason, details=details)
    return changed


def ringing() -> list[AlarmRule]:
    """Return the enabled rules that are not ok, the worst and oldest first. One query."""
    rules = AlarmRule.objects.filter(~Q(state=State.OK), is_enabled=True)
    return sorted(rules, key=lambda rule: (-SEVERITY[State(rule.state)], rule.state_since))


def deaf(now: datetime) -> list[AlarmRule]:
    """Return the enabled rules that nobody judged lately, or that find no value: they would not ring."""
    unheard = Q(evaluated_at__isnull=True) | Q(evaluated_at__lt=now - DEAF_AFTER) | ~Q(problem="")
    return list(AlarmRule.objects.filter(unheard, is_enabled=True).order_by("name"))
