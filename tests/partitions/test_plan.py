from datetime import UTC, datetime, timedelta
from itertools import pairwise

import pytest

from partitions.intervals import floor, following, slots, without
from partitions.plan import Clock, Range, Rules, Table, days_of_cover, plan_creation, plan_table

DAY = timedelta(days=1)
TODAY = datetime(2026, 3, 1, tzinfo=UTC)
NOON = TODAY + timedelta(hours=12)


def day(offset: int, days: float = 1, **kwargs) -> Range:
    lower = TODAY + offset * DAY
    return Range(f"s.t_{lower:%Y_%m_%d}", lower, lower + days * DAY, **kwargs)


def planned(rules: Rules, *ranges: Range, clock: Clock | None = None, **more) -> list[tuple[str, str]]:
    steps = plan_table(rules, Table(list(ranges), **more), clock or Clock.at(NOON))
    return [(step.action, step.partition) for step in steps]


def whys(rules: Rules, *ranges: Range, **more) -> list[str]:
    steps = plan_table(rules, Table(list(ranges), **more), Clock.at(NOON))
    return [f"{step.action} {step.partition}: {step.why}" for step in steps]


# -- creation -----------------------------------------------------------------------------------------------
def test_only_missing_days_are_created():
    rules = Rules("s.t", make_ahead_days=2, keep_days=None)
    assert planned(rules, day(1)) == [("create", "s.t_2026_03_01"), ("create", "s.t_2026_03_03")]


def test_a_longer_partition_covers_its_days():
    assert planned(Rules("s.t", make_ahead_days=2, keep_days=None), day(-1, days=4)) == []


def test_a_gap_in_the_past_is_closed_within_retention_only():
    rules = Rules("s.t", make_ahead_days=1, keep_days=10, on_expiry="keep")
    ranges = [day(-30), day(-11), day(-10), *map(day, range(-7, 2))]
    found = [line for line in whys(rules, *ranges) if line.startswith("create")]
    assert found == [f"create s.t_2026_02_{n}: a gap between partitions" for n in (20, 21)]


def test_a_table_without_partitions_begins_now():
    rules = Rules("s.t", make_ahead_days=1)
    assert whys(rules) == [
        "create s.t_2026_03_01: now has no partition",
        "create s.t_2026_03_02: 1 days are made ahead",
    ]


def test_what_went_to_an_archive_is_no_gap():
    rules = Rules("s.t", make_ahead_days=1, keep_days=10)
    ranges = [day(-3), day(-1), day(0), day(1)]
    assert planned(rules, *ranges, dropped=[day(-2).span]) == []
    assert planned(rules, *ranges) == [("create", "s.t_2026_02_27")]


def test_each_interval_is_made_aligned_and_as_far_as_asked():
    def starts(interval: str) -> list[datetime]:
        steps = plan_table(Rules("s.t", 2, None, interval=interval), Table(), Clock.at(NOON))
        return [step.lower for step in steps]

    assert starts("hour")[0] == NOON
    assert starts("hour")[-1] == TODAY + 3 * DAY - timedelta(hours=1)
    assert starts("day") == [TODAY + n * DAY for n in range(3)]
    assert starts("week") == [TODAY - 6 * DAY, TODAY + DAY]  # 2026-03-01 is a Sunday
    assert starts("month") == [TODAY]


def test_a_changed_interval_fills_what_is_left_between_the_old_partitions():
    rules = Rules("s.t", make_ahead_days=30, keep_days=None, interval="month")
    steps = plan_table(rules, Table([day(0), day(1)]), Clock.at(NOON))
    assert [(step.lower, step.upper) for step in steps] == [(TODAY + 2 * DAY, TODAY + 31 * DAY)]


def test_rows_in_default_get_their_partition_however_old():
    rules = Rules("s.t", make_ahead_days=1, keep_days=30, on_expiry="keep")
    lines = whys(rules, day(0), day(1), default="s.t_default", waiting={TODAY - 50 * DAY: 7})
    assert lines == ["create s.t_2026_01_10: 7 rows of it wait in DEFAULT and move along"]


# -- removal ------------------------------------------------------------------------------------------------
def test_both_sides_of_the_age_limit():
    rules = Rules("s.t", make_ahead_days=1, keep_days=30, on_expiry="drop")
    ranges = [*map(day, range(-31, 2))]
    assert planned(rules, *ranges) == [("detach", "s.t_2026_01_29"), ("drop", "s.t_2026_01_29")]


def test_cleaning_goes_on_past_a_gap():
    rules = Rules("s.t", make_ahead_days=1, keep_days=1, on_expiry="drop")
    drops = [name for action, name in planned(rules, day(0), day(1), day(-9), day(-3)) if action == "drop"]
    assert drops == ["s.t_2026_02_20", "s.t_2026_02_26"]


def test_what_is_archived_first_and_what_is_archived_already():
    rules = Rules("s.t", 1, 1, "archive")
    lines = whys(rules, day(-1), day(0), day(1), day(-40), day(-41, is_archived=True))
    assert lines == [
        "detach s.t_2026_01_19: older than 1 days",
        "drop s.t_2026_01_19: older than 1 days, archived and verified",
        "archive s.t_2026_01_20: older than 1 days",
        "detach s.t_2026_01_20: older than 1 days",
        "drop s.t_2026_01_20: older than 1 days, archived and verified",
    ]


def test_what_the_policy_keeps_is_named():
    assert whys(Rules("s.t", 1, 1, "keep"), day(-1), day(0), day(1), day(-40)) == [
        "keep s.t_2026_01_20: older than 1 days, but the policy says keep"
    ]


def test_an_interrupted_detach_is_finalized_first_and_dropped_when_it_is_out_of_retention():
    rules = Rules("s.t", make_ahead_days=1, keep_days=5, on_expiry="drop")
    expired, young = day(-9, detach_pending=True), day(-2, detach_pending=True)
    steps = plan_table(rules, Table([day(-1), day(0), day(1), expired]), Clock.at(NOON))
    assert [(step.action, step.partition, step.is_expired) for step in steps] == [
        ("finalize", "s.t_2026_02_20", True),
        ("drop", "s.t_2026_02_20", False),
    ]
    assert planned(rules, day(-3), day(-1), day(0), day(1), young) == [
        ("finalize", "s.t_2026_02_27"),
        ("create", "s.t_2026_02_27"),
    ]


def test_a_leftover_of_upkeep_is_dropped_and_a_persons_is_not():
    rules = Rules("s.t", make_ahead_days=1, keep_days=5, on_expiry="archive")
    current = [day(0), day(1)]
    ours = day(-9, is_attached=False, mark="expiring", is_archived=True)
    theirs = day(-8, is_attached=False, mark="kept")
    young = day(-4, is_attached=False, mark="expiring", is_archived=True)
    assert planned(rules, *current, ours, theirs, young) == [
        ("drop", "s.t_2026_02_20"),
        ("keep", "s.t_2026_02_21"),
        ("keep", "s.t_2026_02_25"),
    ]


def test_what_was_brought_back_stays_until_it_is_let_go():
    rules = Rules("s.t", make_ahead_days=1, keep_days=5, on_expiry="drop")
    current = [day(0), day(1)]
    assert planned(rules, *current, day(-300, mark="brought back")) == []
    assert planned(rules, *current, day(-300, mark="releasing")) == [
        ("detach", day(-300).name),
        ("drop", day(-300).name),
    ]
    assert planned(rules, *current, day(-300, mark="loading", is_attached=False)) == [
        ("drop", day(-300).name)
    ]


# -- clocks -------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("wrong_by", [DAY, -DAY])
def test_a_clock_that_is_a_day_wrong_neither_drops_too_much_nor_leaves_writers_without(wrong_by):
    rules = Rules("s.t", make_ahead_days=2, keep_days=5, on_expiry="drop")
    ranges = [*map(day, range(-6, 4))]
    right = planned(rules, *ranges[1:], clock=Clock.at(NOON))
    assert right == []
    one_wrong = Clock.at(NOON, NOON + wrong_by)
    steps = plan_table(rules, Table(ranges), one_wrong)
    dropped = {step.lower for step in steps if step.action == "drop"}
    assert dropped <= {TODAY - 6 * DAY}, "what the right clock keeps is kept"
    covered = {one.lower for one in ranges} | {step.lower for step in steps if step.action == "create"}
    assert {TODAY + n * DAY for n in range(3)} <= covered


# -- the parts ----------------------------------------------------------------------------------------------
def test_creation_alone_removes_nothing():
    rules = Rules("s.t", make_ahead_days=1, keep_days=1, on_expiry="drop")
    table = Table([day(0), day(-9), day(-7, detach_pending=True)])
    assert [step.action for step in plan_creation(rules, table, Clock.at(NOON))] == ["finalize", "create"]


def test_intervals_follow_each_other_without_a_hole_over_a_year_and_a_leap_day():
    for interval in ("hour", "day", "week", "month"):
        found = list(
            slots(datetime(2027, 12, 30, 5, 6, tzinfo=UTC), datetime(2028, 3, 2, tzinfo=UTC), interval)
        )
        assert all(one[1] == other[0] for one, other in pairwise(found))
        assert all(
            floor(lower, interval) == lower and following(lower, interval) == upper for lower, upper in found
        )


def test_what_is_left_of_a_span():
    span = (TODAY, TODAY + 4 * DAY)
    taken = [day(1).span, day(-2, days=2.5).span]
    assert without(span, taken) == [(NOON, TODAY + DAY), (TODAY + 2 * DAY, TODAY + 4 * DAY)]
    assert without(span, [day(0, days=9).span]) == []
    assert without(span, []) == [span]


def test_cover_counts_days_in_a_row():
    assert days_of_cover([], NOON) == -1
    assert days_of_cover([day(1)], NOON) == -1
    assert days_of_cover([day(0), day(1), day(3)], NOON) == 1
    assert days_of_cover([day(-5, days=9)], NOON) == 3
