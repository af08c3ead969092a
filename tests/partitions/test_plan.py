from datetime import UTC, date, datetime, timedelta

from partitions.plan import Range, Rules, days_of_cover, plan_table

TODAY = date(2026, 3, 1)


def day(offset: int, days: int = 1, **kwargs) -> Range:
    lower = datetime(2026, 3, 1, tzinfo=UTC) + timedelta(days=offset)
    return Range(f"s.t_{lower:%Y_%m_%d}", lower, lower + timedelta(days=days), **kwargs)


def planned(rules: Rules, *ranges: Range) -> list[tuple[str, str]]:
    return [(step.action, step.partition) for step in plan_table(rules, list(ranges), TODAY)]


def test_only_missing_days_are_created():
    rules = Rules("s.t", make_ahead_days=2, keep_days=None)
    assert planned(rules, day(1)) == [("create", "s.t_2026_03_01"), ("create", "s.t_2026_03_03")]


def test_a_longer_partition_covers_its_days():
    assert planned(Rules("s.t", make_ahead_days=2, keep_days=None), day(-1, days=4)) == []


def test_both_sides_of_the_age_limit():
    rules = Rules("s.t", make_ahead_days=1, keep_days=30, on_expiry="drop")
    ranges = [day(0), day(1), day(-30), day(-31)]
    assert planned(rules, *ranges) == [("drop", "s.t_2026_01_29")]


def test_cleaning_goes_on_past_a_gap():
    rules = Rules("s.t", make_ahead_days=1, keep_days=1, on_expiry="drop")
    assert planned(rules, day(0), day(1), day(-9), day(-3)) == [
        ("drop", "s.t_2026_02_20"),
        ("drop", "s.t_2026_02_26"),
    ]


def test_what_is_not_archived_is_kept_and_named():
    steps = plan_table(Rules("s.t", 1, 30, "archive"), [day(0), day(1), day(-40)], TODAY)
    assert [(step.action, step.why) for step in steps] == [("keep", "older than 30 days, but not archived")]


def test_an_interrupted_detach_is_finalized_first():
    rules = Rules("s.t", make_ahead_days=1, keep_days=30, on_expiry="drop")
    assert planned(rules, day(0), day(1), day(-9, detach_pending=True)) == [("finalize", "s.t_2026_02_20")]


def test_cover_counts_days_in_a_row():
    assert days_of_cover([], TODAY) == -1
    assert days_of_cover([day(1)], TODAY) == -1
    assert days_of_cover([day(0), day(1), day(3)], TODAY) == 1
