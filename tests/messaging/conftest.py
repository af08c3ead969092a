"""A few agents, and messages whose times tests may move."""

from datetime import timedelta

import pytest
from django.db import connection

from agents.models import Agent
from agents.registry import register_agent
from messaging.models import Delivery


@pytest.fixture
def ann(db) -> Agent:
    return register_agent("planner", "ann")


@pytest.fixture
def bob(db) -> Agent:
    return register_agent("reader", "bob")


@pytest.fixture
def cat(db) -> Agent:
    return register_agent("reader", "cat")


def rows(query, *params):
    with connection.cursor() as cursor:
        cursor.execute(query, params)
        return cursor.fetchall() if cursor.description else []


def end_leases():
    """Let every lease have run out a moment ago."""
    rows("UPDATE messages.deliveries SET next_at = now() - interval '1 s' WHERE state = 'delivered'")


def pass_time(**time):
    """Let what is open be due, and expire, that much earlier."""
    rows(
        "UPDATE messages.deliveries SET next_at = next_at - %s, expires_at = expires_at - %s"
        " WHERE next_at IS NOT NULL",
        timedelta(**time),
        timedelta(**time),
    )


def states():
    return sorted(Delivery.objects.values_list("state", flat=True))
