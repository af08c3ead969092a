"""PostgreSQL and an agent wrote the same key without having seen each other."""

import json
from datetime import UTC, datetime, timedelta

import pytest
from django.db import transaction

from agents.models import AgentState
from bridge import setup
from bridge.conflicts import Rule, choose, decide
from bridge.fastpath import push
from bridge.models import Conflict, ConflictRule
from bridge.newest import Last
from bridge.outbox import Row
from bridge.relay import Memory, relay_batch
from bridge.sources import note_epochs
from tests.bridge.conftest import empty_outbox, outbox, rows, value
from tests.bridge.flushing import flush, state, write

committed = pytest.mark.usefixtures("committed", "jetstream", "relay_alone")


@pytest.fixture
def relay_alone(monkeypatch):
    monkeypatch.setattr("bridge.fastpath.push", lambda *_: 0)


def relay(session):
    batches, memory = [], Memory()
    while (batch := relay_batch(session, memory)).read:
        batches.append(batch)
    return batches


@pytest.fixture(autouse=True)
def known(request):
    """As the relay does before its first batch."""
    if "session" in request.fixturenames:
        note_epochs(request.getfixturevalue("session"), setup.read_found().created)


def both_write(agent, session, agent_first=True):
    """A key that both had, then an agent's write and an operator's, unseen by each other."""
    AgentState.objects.create(agent=agent, state_key="mind", state_value="before")
    relay(session)
    empty_outbox()
    steps = [
        lambda: write("AGENT_STATE", f"{agent.pk}.mind", "agent"),
        lambda: AgentState.objects.update(state_value="operator"),
    ]
    for step in steps if agent_first else reversed(steps):
        step()


# -- the three strategies --------------------------------------------------------------------------------------
@committed
@pytest.mark.parametrize(
    ("strategy", "agent_first", "winner"),
    [
        ("last_write_wins", True, "operator"),
        ("last_write_wins", False, "operator"),
        ("timestamp", True, "operator"),
        ("timestamp", False, "agent"),
        ("reject", True, "agent"),
        ("reject", False, "agent"),
    ],
)
def test_a_strategy_decides_and_both_stores_end_at_the_winner(agent, session, strategy, agent_first, winner):
    ConflictRule.objects.create(bucket="AGENT_STATE", strategy=strategy)
    both_write(agent, session, agent_first)
    assert len(flush(session).waiting) == 1
    assert relay(session)[0].conflicts == 1
    flush_again(session)
    assert state(agent) == {"mind": winner}
    assert value("AGENT_STATE", f"{agent.pk}.mind") == winner
    kept = Conflict.objects.get()
    assert (kept.strategy, kept.winner) == (strategy, {"operator": "postgresql", "agent": "agent"}[winner])
    assert (json.loads(kept.kv_value), kept.pg_value) == ("agent", "operator")
    assert outbox() == []


def flush_again(session):
    """As the server does when a message was put back: deliver it once more."""
    from bridge import connection, topology

    item = topology.consumers()["FLUSH_AGENT_STATE/flusher"]
    connection.call(lambda c: c.jetstream.delete_consumer(item.stream, item.name))
    connection.call(lambda c: c.jetstream.add_consumer(item.stream, item.config()))
    return flush(session)


@committed
def test_an_agent_s_delete_stays_where_it_wins(agent, session):
    ConflictRule.objects.create(bucket="AGENT_STATE", strategy="reject")
    AgentState.objects.create(agent=agent, state_key="mind", state_value="before")
    relay(session)
    write("AGENT_STATE", f"{agent.pk}.mind", operation="DEL")
    AgentState.objects.update(state_value="operator")
    relay(session)
    flush(session)
    assert (state(agent), value("AGENT_STATE", f"{agent.pk}.mind")) == ({}, None)


@committed
def test_a_transaction_may_ask_for_its_own_strategy(agent, session):
    AgentState.objects.create(agent=agent, state_key="mind", state_value="before")
    relay(session)
    write("AGENT_STATE", f"{agent.pk}.mind", "agent")
    with transaction.atomic():
        rows("SET LOCAL bridge.strategy = 'reject'")
        AgentState.objects.update(state_value="operator")
    relay(session)
    flush(session)
    assert state(agent) == {"mind": "agent"}
    AgentState.objects.update(state_value="operator")
    assert rows("SELECT strategy FROM bridge.outbox") == [(None,)]


@committed
def test_a_lost_write_is_never_applied_even_after_its_row_is_deleted(agent, session):
    both_write(agent, session)
    relay(session)
    AgentState.objects.all().delete()
    relay(session)
    flush(session)
    assert (state(agent), value("AGENT_STATE", f"{agent.pk}.mind")) == ({}, None)


# -- what only looks like a conflict ---------------------------------------------------------------------------
@committed
def test_an_agent_s_write_over_what_the_fast_path_sent_is_no_conflict(agent, session, monkeypatch):
    """The row is still in the outbox, and its mark in KV is gone with the agent's write."""
    monkeypatch.undo()
    empty_outbox()
    AgentState.objects.create(agent=agent, state_key="mind", state_value="operator")
    assert value("AGENT_STATE", f"{agent.pk}.mind") == "operator"
    for number in range(5):  # more than the bucket's history
        write("AGENT_STATE", f"{agent.pk}.mind", number)
    assert len(flush(session).waiting) == 1
    (batch,) = relay(session)[:1]
    assert (batch.conflicts, batch.published) == (0, 0)
    flush_again(session)
    assert (state(agent), value("AGENT_STATE", f"{agent.pk}.mind")) == ({"mind": 4}, 4)
    assert not Conflict.objects.exists()


@committed
def test_the_fast_path_leaves_conflicts_to_the_relay(agent, session):
    both_write(agent, session)
    assert push("default", [("AGENT_STATE", f"{agent.pk}.mind")]) == 0
    assert value("AGENT_STATE", f"{agent.pk}.mind") == "agent"


# -- rules -----------------------------------------------------------------------------------------------------
RULES = [
    Rule("AGENT_STATE", "", "timestamp"),
    Rule("AGENT_STATE", "memory.", "reject"),
    Rule("AGENT_STATE", "memory.short", "last_write_wins"),
    Rule("AGENT_STATE", "0a", "reject"),
    Rule("SESSION_DATA", "", "reject"),
]


@pytest.mark.parametrize(
    ("bucket", "key", "strategy"),
    [
        ("AGENT_STATE", "0b.mood", "timestamp"),
        ("AGENT_STATE", "0b.memory.long", "reject"),
        ("AGENT_STATE", "0b.memory.short", "last_write_wins"),
        ("AGENT_STATE", "0a.mood", "reject"),
        ("SESSION_DATA", "0b", "reject"),
        ("TASK_STATE", "0b", "last_write_wins"),
    ],
)
def test_the_longest_prefix_that_fits_counts(bucket, key, strategy):
    assert choose(RULES, bucket, key) == strategy


NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)


@pytest.mark.parametrize(("later_seconds", "winner"), [(1, "agent"), (0, "postgresql"), (-1, "postgresql")])
def test_by_time_the_later_write_wins_and_a_tie_is_postgresql_s(later_seconds, winner):
    row = Row(1, "AGENT_STATE", "a.b", "U", 1, "1", "timestamp")
    last = Last(2, is_foreign=True, stored_at=NOON + timedelta(seconds=later_seconds))
    assert decide(row, last, [], NOON).winner == winner
