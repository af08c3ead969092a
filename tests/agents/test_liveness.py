from datetime import timedelta
from uuid import uuid4

import pytest
from django.db import connection
from django.utils import timezone

from agents.liveness import judge_liveness, record_heartbeats
from agents.models import Agent, Heartbeat, TypeSettings
from agents.registry import register_agent, terminate_agent

pytestmark = pytest.mark.django_db


def liveness_of(agent: Agent) -> str:
    agent.refresh_from_db()
    return agent.liveness


def test_heartbeats_come_in_batches_and_strangers_are_left_out():
    agents = [register_agent("reader", f"r{n}") for n in range(3)]
    terminate_agent(agents[2].pk)
    assert record_heartbeats([*(agent.pk for agent in agents), uuid4()]) == 2
    assert Heartbeat.objects.count() == 2


def test_a_heartbeat_does_not_touch_the_registry():
    agent = register_agent("reader", "r")

    def registry_version() -> tuple[str, str]:
        with connection.cursor() as cursor:
            cursor.execute(
                "SELECT ctid::text, xmin::text FROM agents.registry WHERE agent_id = %s", [agent.pk]
            )
            return cursor.fetchone()

    before = registry_version()
    record_heartbeats([agent.pk])
    record_heartbeats([agent.pk])
    assert registry_version() == before


def test_silence_becomes_suspect_then_lost_and_a_heartbeat_brings_back():
    agent = register_agent("reader", "r")
    record_heartbeats([agent.pk])
    beat = Heartbeat.objects.get(agent=agent).last_heartbeat
    assert judge_liveness(beat) == [(agent.pk, "unknown", "alive")]
    assert judge_liveness(beat + timedelta(seconds=59.9)) == []
    assert judge_liveness(beat + timedelta(seconds=60)) == [(agent.pk, "alive", "suspect")]
    assert judge_liveness(beat + timedelta(seconds=180)) == [(agent.pk, "suspect", "lost")]
    assert liveness_of(agent) == "lost"
    record_heartbeats([agent.pk])
    judge_liveness(timezone.now())
    assert liveness_of(agent) == "alive"


def test_limits_are_those_of_the_type():
    TypeSettings.objects.create(agent_type="slow", suspect_after_seconds=600, lost_after_seconds=900)
    agent = register_agent("slow", "s")
    record_heartbeats([agent.pk])
    beat = Heartbeat.objects.get(agent=agent).last_heartbeat
    judge_liveness(beat + timedelta(seconds=599))
    assert liveness_of(agent) == "alive"
    judge_liveness(beat + timedelta(seconds=900))
    assert liveness_of(agent) == "lost"


def test_an_agent_without_heartbeats_stays_unknown():
    agent = register_agent("reader", "r")
    judge_liveness(timezone.now() + timedelta(days=1))
    assert liveness_of(agent) == "unknown"
