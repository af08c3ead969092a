import pytest

from monitoring import checks
from monitoring.checks import look_at_connections, look_at_statements, pools, read_connections

pytestmark = pytest.mark.django_db


def pool(name, health, recommendations=()):
    return {
        "pool_name": name,
        "total_connections": 5,
        "active_connections": 2,
        "idle_connections": 2,
        "idle_in_transaction": 1,
        "max_connections": 200,
        "health_status": health,
        "recommendations": list(recommendations),
    }


def test_a_healthy_server_is_told_in_one_line(monkeypatch):
    assert pools()[0]["pool_name"] == "(server)"
    monkeypatch.setattr(checks, "pools", lambda: [pool("(server)", "healthy"), pool("web", "healthy")])
    [finding] = look_at_connections()
    assert finding.ok
    assert finding.detail == "5 of 200 connections in use"


def test_each_pool_that_is_not_healthy_is_named_with_what_to_do(monkeypatch):
    rows = [
        pool("(server)", "healthy"),
        pool("web", "healthy"),
        pool("celery", "warning", ["7 sessions idle"]),
    ]
    monkeypatch.setattr(checks, "pools", lambda: rows)
    findings = list(look_at_connections())
    assert [finding.ok for finding in findings] == [True, False]
    assert findings[1].detail == "celery: 7 sessions idle"
    assert "connection_stats" in findings[1].hint


def test_the_statement_statistics_are_installed():
    [finding] = look_at_statements()
    assert finding.ok
    assert finding.detail.startswith("pg_stat_statements 1.")


def test_connections_are_a_metric_by_pool_and_state(monkeypatch):
    monkeypatch.setattr(checks, "pools", lambda: [pool("web", "healthy")])
    assert [(labels["state"], value) for labels, value in read_connections()] == [
        ("active", 2),
        ("idle", 2),
        ("idle in transaction", 1),
    ]
