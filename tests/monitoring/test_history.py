"""Snapshots, the series that come of them, and the sizes of pools that they ask for."""

import json
from datetime import UTC, datetime, timedelta
from io import StringIO

import pytest
from django.core.management import call_command
from django.urls import reverse
from django.utils import timezone

from monitoring import history
from monitoring.models import Snapshot
from monitoring.sizing import FEWEST, measure_load, pool_of, suggest
from monitoring.trends import draw
from pg.uuid7 import uuid7_at

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)


def keep(kind, at, **data):
    return Snapshot.objects.create(snapshot_id=uuid7_at(at, 0), kind=kind, data=data)


def looks(busy, pool="mistersmith web", transactions=100, busy_ms=500):
    """One look a minute: `busy` connections each."""
    return [
        (
            NOON + timedelta(minutes=minute),
            {
                "server": {"transactions": transactions * minute, "busy_ms": busy_ms * minute},
                "pools": [{"pool": pool, "connections": 9, "busy": number}],
            },
        )
        for minute, number in enumerate(busy)
    ]


# -- taking them -------------------------------------------------------------------------------------------------
@pytest.mark.django_db
def test_a_look_at_the_load_has_the_server_and_each_application():
    data = history.snap_load().data
    assert {"transactions", "busy_ms", "wal_bytes", "replica_lag_bytes"} <= set(data["server"])
    assert "(server)" in {row["pool"] for row in data["pools"]}
    assert json.loads(json.dumps(Snapshot.objects.get().data)) == json.loads(json.dumps(data))


@pytest.mark.django_db
def test_a_look_at_the_growth_has_tables_with_their_partitions_added_up():
    data = history.snap_growth().data
    size, rows = data["tables"]["messages.log"]
    assert size > 0
    assert rows == 0
    assert data["database_bytes"] > size


# -- series --------------------------------------------------------------------------------------------------------
@pytest.mark.django_db
def test_a_series_holds_what_lies_within_its_span_oldest_first():
    now = timezone.now()
    for hours in (1, 2, 25):
        keep("load", now - timedelta(hours=hours), server={"wal_bytes": hours}, pools=[])
    assert [value for _, value in history.figures(now, timedelta(days=1), "wal_bytes")] == [2, 1]


@pytest.mark.django_db
def test_only_applications_that_were_busy_are_drawn_and_only_tables_that_grew_most():
    now = timezone.now()
    for minutes, busy in ((2, 0), (1, 3)):
        pools = [{"pool": "idle", "busy": 0}, {"pool": "mistersmith web", "busy": busy}]
        keep("load", now - timedelta(minutes=minutes), server={}, pools=pools)
    keep("growth", now - timedelta(hours=2), tables={"a": [10, 1], "b": [10, 1]}, database_bytes=20)
    keep("growth", now - timedelta(hours=1), tables={"a": [11, 1], "b": [99, 9]}, database_bytes=110)
    assert list(history.connections_by_pool(now, timedelta(days=1))) == ["mistersmith web"]
    assert list(history.growth(now, timedelta(days=1), most=1)) == ["b"]
    assert [value for _, value in history.database_growth(now, timedelta(days=1))] == [20, 110]


def test_a_counter_becomes_a_rate_and_one_that_began_anew_a_gap():
    points = [(NOON + timedelta(seconds=10 * n), value) for n, value in enumerate((0, 50, 20, 40))]
    assert [value for _, value in history.rates(points)] == [5, 2]


def test_a_drawing_spans_its_box():
    chart = draw("x", {"a": [(NOON, 0), (NOON + timedelta(hours=1), 8)]})
    assert chart.lines[0].path == "0.0,120.0 600.0,0.0"
    assert (chart.top, chart.lines[0].newest) == ("8", "8")
    assert draw("x", {"a": []}).lines == []
    assert draw("x", {"a": [(NOON, 0)]}).lines[0].path == "0.0,120.0"


# -- sizes -----------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("application", "pool"),
    [
        ("mistersmith web", "primary"),
        ("mistersmith worker", "primary"),
        ("mistersmith worker background", "background"),
        ("mistersmith web replica_2", "replica"),
        ("mistersmith web analytics", "analytics"),
        ("mistersmith relay", ""),
        ("mistersmith upkeep", "background"),
        ("psql", ""),
        ("(server)", ""),
        ("", ""),
    ],
)
def test_sessions_are_told_apart_by_their_name(application, pool):
    assert pool_of(application) == pool


def test_little_s_law_from_two_looks():
    load = measure_load(looks([1] * 3, transactions=600, busy_ms=3_000))
    assert load.transactions_per_second == 10
    assert load.seconds_per_transaction == 0.005
    assert load.busy == pytest.approx(0.05)


def test_without_two_looks_or_after_a_reset_there_is_no_law():
    assert measure_load([]) is None
    assert measure_load(looks([1])) is None
    assert measure_load(list(reversed(looks([1, 1])))) is None


@pytest.mark.parametrize(
    ("peak", "maximum", "verdict"),
    [
        (2, 8, "more than was needed"),
        (8, 12, "large enough"),
        (14, 24, "too small: requests wait at the peak"),
    ],
)
def test_a_pool_is_sized_by_its_peak_shared_out_evenly(peak, maximum, verdict):
    (found,) = suggest(looks([1] * FEWEST + [peak]), {"primary": (20, 4)})
    assert (found.peak, found.maximum, found.verdict) == (peak, maximum, verdict)
    assert found.maximum % 4 == 0


@pytest.mark.parametrize(("number", "is_enough"), [(FEWEST - 1, False), (FEWEST, True)])
def test_too_few_looks_are_said(number, is_enough):
    (found,) = suggest(looks([1] * number), {"primary": (20, 4)})
    assert found.verdict.startswith("too few looks") is not is_enough


@pytest.mark.django_db
def test_the_command_shows_the_inputs():
    now = timezone.now()
    for minutes in (40, 20, 1):
        server = {"transactions": (41 - minutes) * 600, "busy_ms": (41 - minutes) * 3_000}
        keep(
            "load",
            now - timedelta(minutes=minutes),
            server=server,
            pools=[{"pool": "mistersmith web", "busy": 4}],
        )
    out = StringIO()
    call_command("pools", "suggest", "--hours", "1", "--json", stdout=out)
    answer = json.loads(out.getvalue())
    primary = next(item for item in answer["items"] if item["pool"] == "primary")
    assert (primary["busy_peak"], primary["looks"], primary["suggested"]) == (4, 3, 8)
    assert "10.0 transactions/s x 5.00 ms = 0.05 connections" in answer["warnings"][0]


@pytest.mark.django_db
def test_the_page_draws_what_was_and_lists_the_pools(admin_client):
    now = timezone.now()
    for minutes in (2, 1):
        server = {"transactions": 10, "busy_ms": 1, "wal_bytes": 5, "replica_lag_bytes": 0}
        keep(
            "load",
            now - timedelta(minutes=minutes),
            server=server,
            pools=[{"pool": "mistersmith web", "busy": 2}],
        )
    page = admin_client.get(reverse("admin:monitoring_snapshot_changelist")).content.decode()
    assert "<polyline" in page
    assert "mistersmith web" in page
    assert "shared with primary" in page
    assert "usable" in page
