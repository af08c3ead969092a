"""manage.py pools."""

import json
from io import StringIO

import pytest
from django.core.management import call_command


def run(*arguments):
    out = StringIO()
    code = 0
    try:
        call_command("pools", *arguments, "--json", stdout=out)
    except SystemExit as ended:
        code = ended.code
    return code, json.loads(out.getvalue())


def rows(answer, kind):
    return {item["name"]: item for item in answer["items"] if item["kind"] == kind}


@pytest.mark.django_db
def test_status_shows_pools_server_sessions_and_the_sum(settings):
    code, answer = run("status")
    assert code == 0
    pools = rows(answer, "pool")
    assert pools["default"]["connections"] == "20/5"
    assert {pools[alias]["server"] for alias in ("replica", "analytics", "background")} == {
        "shared with primary"
    }
    assert rows(answer, "server")["default"]["detail"].startswith("primary on timeline 1")
    assert (
        "primary 20 + background 5 + replica (shared with primary) 15"
        in rows(answer, "sum")["(server)"]["detail"]
    )


@pytest.mark.django_db
def test_pools_that_do_not_fit_are_named_with_the_sum(settings):
    from dataclasses import replace

    settings.POOLS = {**settings.POOLS, "primary": replace(settings.POOLS["primary"], maximum=500)}
    code, answer = run("status")
    assert code == 1
    assert "primary 500 + " in answer["warnings"][0]
    assert "usable" in answer["warnings"][0]


@pytest.mark.django_db(databases=["default", "replica"])
def test_a_server_that_is_away_is_named(monkeypatch):
    from django.db import connections

    away = {**connections.settings["replica"], "IS_SHARED": False, "HOST": "127.0.0.1", "PORT": "1"}
    monkeypatch.setitem(connections.settings, "replica", away)
    monkeypatch.delattr(connections._connections, "replica", raising=False)
    code, answer = run("status")
    assert code == 1
    assert "replica (127.0.0.1:1): " in answer["warnings"][0]
