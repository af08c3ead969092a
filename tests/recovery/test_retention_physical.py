"""Retention of base and incremental backups over random catalogues: what is left restores, and the window is whole."""

from datetime import UTC, datetime, timedelta
from uuid import UUID

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recovery.retention_physical import Physical, Policy, plan_physical, plan_wal
from recovery.wal import Histories, Segment, needed_segments

NOW = datetime(2026, 11, 23, 3, tzinfo=UTC)
SIZE = 1 << 24
PAUSES = (6, 24, 30, 120, 480)


def backup(number, days_ago, **given):
    ended = NOW - timedelta(days=days_ago)
    values = {
        "parent_id": None,
        "status": "verified",
        "start_lsn": number * SIZE,
        "end_lsn": number * SIZE + 100,
    }
    values |= {
        name: UUID(int=value) if name == "parent_id" and value else value for name, value in given.items()
    }
    return Physical(UUID(int=number), started_at=ended - timedelta(hours=1), ended_at=ended, **values)


def actions(candidates, policy=None):
    steps = plan_physical(candidates, NOW, policy or Policy(7, 3, 0, 0, 1)).steps
    return {step.backup_id.int: step.action for step in steps}


def reasons(candidates, policy=None):
    steps = plan_physical(candidates, NOW, policy or Policy(7, 3, 0, 0, 1)).steps
    return {step.backup_id.int: step.why for step in steps}


@st.composite
def histories(draw):
    """A catalogue as time writes it: bases and incrementals, of which some fail or rot, over promotions."""
    found, switches, lsn, timeline = [], [], 10 * SIZE, 1
    moment = NOW - timedelta(days=draw(st.integers(1, 90)))
    while len(found) < 12 and (moment := moment + timedelta(hours=draw(st.sampled_from(PAUSES)))) < NOW:
        if draw(st.integers(0, 9)) == 0:
            switches.append((timeline, lsn))
            timeline += 1
        start = lsn + draw(st.integers(0, 3 * SIZE))
        lsn = start + draw(st.integers(1, SIZE))
        parents = [other for other in found[-3:] if other.ended_at]
        parent = draw(st.sampled_from(parents)).backup_id if parents and draw(st.booleans()) else None
        status = draw(st.sampled_from(["verified"] * 3 + ["complete"] * 3 + ["damaged", "failed", "running"]))
        is_done = status not in ("failed", "running")
        found.append(
            Physical(
                UUID(int=len(found) + 1),
                parent,
                status,
                moment - timedelta(hours=1),
                moment if is_done else None,
                timeline,
                start,
                lsn,
                draw(st.integers(0, 19)) == 0,
                draw(st.integers(0, 19)) != 0,
                draw(st.integers(0, 9)) == 0,
            )
        )
    ancestors = {number + 1: switches[:number] for number in range(1, timeline)}
    return (
        found,
        Histories(ancestors),
        {Segment(t, n) for t in range(1, timeline + 1) for n in range(lsn // SIZE + 2)},
    )


policies = st.builds(
    Policy, st.integers(1, 30), st.integers(0, 30), st.integers(0, 12), st.integers(0, 12), st.integers(1, 3)
)


@settings(max_examples=60, deadline=None)
@given(histories(), policies)
def test_what_is_kept_restores(history, policy):
    found, lines, there = history
    plan = plan_physical(found, NOW, policy)
    removed = set(plan_wal(plan, found, there, SIZE))
    by_id = {other.backup_id: other for other in found}
    for key in plan.kept:
        kept = by_id[key]
        assert kept.parent_id is None or kept.parent_id in plan.kept, "a chain is never broken"
        if kept.is_whole:
            assert not kept.own_segments(SIZE) & removed, "no kept backup loses the WAL that it needs itself"
    for key in plan.windowed:
        kept = by_id[key]
        spans = lines.path(kept.timeline, kept.start_lsn, lines.newest(kept.timeline, kept.end_lsn))
        assert not set(needed_segments(spans, SIZE, there)) & removed, "the window has no hole"


@settings(max_examples=60, deadline=None)
@given(histories(), policies)
def test_the_window_is_anchored_by_a_verified_backup(history, policy):
    found, _, there = history
    plan = plan_physical(found, NOW, policy)
    opens = NOW - timedelta(days=policy.pitr_days)
    if plan.anchor is None:
        assert not [step for step in plan.steps if step.action == "remove"]
        assert plan_wal(plan, found, there, SIZE) == []
        return
    assert plan.anchor.status == "verified"
    assert plan.anchor.backup_id in plan.kept
    between = [
        other
        for other in found
        if other.status == "verified"
        and other.is_stored
        and other.parent_id is None
        and plan.anchor.ended_at < other.ended_at <= opens
    ]
    assert not between, "an older anchor than needed keeps WAL for nothing"


@settings(max_examples=60, deadline=None)
@given(histories(), policies)
def test_a_second_run_removes_nothing_more(history, policy):
    found, _, there = history
    first = plan_physical(found, NOW, policy)
    left = [other for other in found if other.backup_id in first.kept]
    second = plan_physical(left, NOW, policy)
    assert second.kept == first.kept
    rest = there - set(plan_wal(first, found, there, SIZE))
    assert plan_wal(second, left, rest, SIZE) == []


@settings(max_examples=60, deadline=None)
@given(histories(), policies)
def test_what_is_pinned_running_or_newer_than_the_last_proof_stays(history, policy):
    found, _, _ = history
    plan = plan_physical(found, NOW, policy)
    for other in found:
        if other.is_pinned or other.status == "running":
            assert other.backup_id in plan.kept


# -- the rules, one by one ----------------------------------------------------------------------------------
def test_one_a_day_a_week_and_a_month_are_kept():
    found = [backup(600 - days, days) for days in range(400)]
    why = reasons(found, Policy(7, 30, 12, 12, 2))
    kept = {number for number, action in actions(found, Policy(7, 30, 12, 12, 2)).items() if action == "keep"}
    assert why[600] == "one of the newest 2"
    assert why[595] == "daily 2026-11-18"
    assert sum(reason.startswith("weekly") for reason in why.values()) == 7
    assert sum(reason.startswith("monthly") for reason in why.values()) == 11
    assert len(kept) == 31 + 7 + 11


@pytest.mark.parametrize(("days_ago", "anchor"), [(7, 2), (6.99, 1)])
def test_the_anchor_ended_before_the_window_opens(days_ago, anchor):
    plan = plan_physical([backup(1, 9), backup(2, days_ago), backup(3, 1)], NOW, Policy(7, 0, 0, 0, 1))
    assert plan.anchor.backup_id.int == anchor
    assert (
        "anchor of the 7 days"
        in reasons([backup(1, 9), backup(2, days_ago), backup(3, 1)], Policy(7, 0, 0, 0, 1))[anchor]
    )


def test_while_nothing_is_verified_everything_stays():
    assert actions([backup(1, 99, status="complete"), backup(2, 50, status="damaged")]) == {
        1: "keep",
        2: "keep",
    }


def test_a_verified_one_whose_base_is_gone_proves_nothing():
    assert actions([backup(1, 99, status="complete"), backup(2, 9, parent_id=7)]) == {1: "keep", 2: "keep"}


def test_a_verified_one_of_a_day_is_preferred_to_a_newer_one_that_is_not():
    found = [backup(1, 2.06), backup(2, 2.02, status="complete"), backup(3, 0.1)]
    assert actions(found) == {1: "keep", 2: "remove", 3: "keep"}


def test_a_kept_one_before_the_window_has_its_own_wal_only():
    found = [backup(10, 20, is_pinned=True, end_lsn=12 * SIZE), backup(20, 8), backup(30, 1)]
    plan = plan_physical(found, NOW, Policy(7, 0, 0, 0, 1))
    there = {Segment(1, number) for number in range(5, 35)}
    left = there - set(plan_wal(plan, found, there, SIZE))
    assert sorted(segment.number for segment in left) == [10, 11, *range(20, 35)]


def test_failed_ones_are_forgotten_after_a_while():
    found = [backup(3, 1), backup(1, 2.9, status="failed"), backup(2, 3.1, status="failed")]
    assert actions(found) == {3: "keep", 1: "keep", 2: "forget"}
