"""What is judged of a table, from numbers alone; and the shape of its picture."""

from datetime import UTC, datetime, timedelta

from django.db import connection
from django.test.utils import CaptureQueriesContext

from monitoring.registry import metrics
from partitions.catalog import read_rules
from partitions.health import Sized, judge, read_health
from partitions.metrics import health_at
from partitions.plan import Clock, Range, Rules, Table
from partitions.timeline import BASE, HEIGHT, WIDTH, draw, readable
from tests.partitions.conftest import TABLE, make_partition, sql

DAY = timedelta(days=1)
TODAY = datetime(2026, 3, 1, tzinfo=UTC)
NOON = TODAY + DAY / 2
RULES = Rules("s.t", make_ahead_days=2, keep_days=10)


def day(offset: int, **kwargs) -> Range:
    lower = TODAY + offset * DAY
    return Range(f"s.t_{lower:%Y_%m_%d}", lower, lower + DAY, **kwargs)


def health(ranges: list[Range], sizes: int = 100, rules: Rules = RULES, **more):
    table = Table(ranges, **more)
    return judge(rules, table, [Sized(one, sizes, 1) for one in table.attached], [], Clock.at(NOON))


def test_a_table_in_order_has_no_problems():
    found = health([day(n) for n in range(-10, 3)])
    assert (found.cover_days, found.is_cover_low, found.problems) == (2, False, [])
    assert (found.oldest, found.newest) == (TODAY - 10 * DAY, TODAY + 3 * DAY)


def test_every_kind_of_problem_is_named():
    ranges = [day(-3), day(-1), day(0), day(-9, is_attached=False, mark="kept"), day(-8, detach_pending=True)]
    found = health([*ranges, day(1)], default="s.d", waiting={TODAY: 3})
    assert found.problems == [
        "a gap from 2026-02-27 00:00 to 2026-02-28 00:00",
        "3 rows in DEFAULT",
        "s.t_2026_02_21 is an interrupted detach",
        "s.t_2026_02_20 was detached and not dropped",
    ]


def test_a_detached_table_whose_range_was_made_again_overlaps():
    found = health([day(-1), day(0), day(1), day(-1, is_attached=False, mark="kept")])
    assert len(found.overlaps) == 1


def test_cover_is_low_below_three_days_or_below_what_the_policy_makes():
    def is_low(ahead: int, days: int) -> bool:
        rules = Rules("s.t", make_ahead_days=ahead)
        return health([day(n) for n in range(days + 1)], rules=rules).is_cover_low

    assert is_low(14, 2)
    assert not is_low(14, 3)
    assert is_low(1, 0)
    assert not is_low(1, 1)


def test_growth_is_of_the_last_seven_whole_days_and_the_forecast_applies_retention():
    found = health([day(n) for n in range(-20, 3)], sizes=100)
    assert found.growth_bytes == 100
    assert found.forecast_bytes == 100 * 11, "ten days are kept, and today"
    kept = health([day(n) for n in range(-20, 1)], rules=Rules("s.t", keep_days=None))
    assert kept.forecast_bytes == 100 * 21 + 100 * 30
    assert health([day(0)]).growth_bytes is None


def test_the_picture_has_a_bar_for_each_partition_within_its_frame():
    ranges = [day(n) for n in range(-10, 3)] + [day(-12, is_attached=False, mark="kept")]
    found = health(ranges)
    sized = [Sized(one, 10 ** (n % 5), n) for n, one in enumerate(Table(ranges).attached)]
    picture = draw(found, sized, [ranges[-1]], [day(-15).span], NOON)
    assert [bar.kind for bar in picture.bars] == ["past"] * 10 + [
        "current",
        "ahead",
        "ahead",
        "loose",
        "dropped",
    ]
    assert all(bar.x >= 0 and bar.x + bar.width <= WIDTH + 2 for bar in picture.bars)
    assert all(bar.y >= 0 and bar.y + bar.height <= HEIGHT for bar in picture.bars)
    assert all(bar.y + bar.height == BASE for bar in picture.bars if bar.kind == "past")
    assert "2026-02-19 00:00 to 2026-02-20 00:00 UTC, 1 B" in picture.bars[0].told
    assert 0 < picture.now_x < WIDTH


def test_a_table_without_partitions_has_no_picture():
    assert draw(health([]), [], [], [], NOON) is None


def test_sizes_are_told_in_units():
    assert [readable(n) for n in (0, 1023, 1024, 1536 * 1024, 1 << 50)] == [
        "0 B",
        "1023 B",
        "1.0 kB",
        "1.5 MB",
        "1024.0 TB",
    ]


def test_the_health_of_all_tables_costs_as_many_queries_as_that_of_one(events):
    def count(table):
        with CaptureQueriesContext(connection) as asked:
            assert read_health(table)
        return len([one for one in asked if "FROM ONLY" not in one["sql"]])  # rows in DEFAULT, table by table

    assert len(read_rules()) > 1
    assert count(None) == count(TABLE)


def test_figures_of_a_real_table(events):
    make_partition(-2, 50)
    sql("CREATE TABLE app.events_default PARTITION OF app.events DEFAULT")
    health_at.cache_clear()
    read = {
        metric.name: {tuple(labels.values()): value for labels, value in metric.read()}
        for metric in metrics()
        if metric.name.startswith("mistersmith_partition")
    }
    health_at.cache_clear()
    assert read["mistersmith_partition_cover_days"][TABLE,] == 2
    assert read["mistersmith_partitions"][TABLE,] == 4
    assert read["mistersmith_partition_bytes"][TABLE,] > 0
    assert read["mistersmith_partition_growth_bytes_per_day"][TABLE,] > 0
    assert read["mistersmith_partition_problems"][TABLE, "gap"] == 1
    assert read["mistersmith_partition_problems"][TABLE, "default_row"] == 0
    assert read["mistersmith_partition_run_age_seconds"][()] >= 0
