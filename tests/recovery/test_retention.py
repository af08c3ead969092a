"""What retention decides, without any disk."""

import random
from datetime import UTC, datetime, timedelta

import pytest

from pg.uuid7 import uuid7
from recovery.retention import Candidate, plan_retention

NOW = datetime(2026, 11, 23, 3, tzinfo=UTC)
DAY = timedelta(days=1)


def backup(age_days, status="verified", **more):
    return Candidate(uuid7(), status, NOW - age_days * DAY, **more)


def actions(*candidates, keep_days=30):
    plan = {step.backup_id: step for step in plan_retention(candidates, NOW, keep_days)}
    return [plan[found.backup_id].action for found in candidates]


def test_the_boundary_is_the_age_to_the_moment():
    just = Candidate(uuid7(), "verified", NOW - 30 * DAY)
    past = Candidate(uuid7(), "verified", NOW - 30 * DAY - timedelta(microseconds=1))
    assert actions(backup(0), just, past) == ["keep", "keep", "remove"]


def test_the_last_verified_one_stays_however_old():
    assert actions(backup(400), backup(401), backup(500, "complete")) == ["keep", "remove", "remove"]


def test_nothing_goes_while_nothing_is_verified():
    assert actions(backup(100, "complete"), backup(200, "damaged")) == ["keep", "keep"]


def test_what_is_newer_than_the_last_verified_one_stays():
    assert actions(backup(40, "complete"), backup(60)) == ["keep", "keep"]


def test_a_verified_one_whose_folder_is_gone_protects_nothing():
    assert actions(backup(1, is_stored=False), backup(50, "complete")) == ["keep", "keep"]


def test_pinned_ones_stay():
    assert (
        actions(backup(0), backup(100, is_pinned=True), backup(100, "failed", is_pinned=True)) == ["keep"] * 3
    )


def test_failed_ones_are_forgotten_after_the_same_time():
    assert actions(backup(31, "failed"), backup(29, "failed"), backup(31, "running")) == [
        "forget",
        "keep",
        "keep",
    ]


def test_every_step_says_why():
    plan = plan_retention([backup(0), backup(31), backup(40, "failed")], NOW, 30)
    assert [step.why.split(",")[0] for step in plan] == [
        "younger than 30 days",
        "older than 30 days",
        "failed more than 30 days ago",
    ]


@pytest.mark.parametrize("seed", range(200))
def test_random_catalogues_keep_what_matters_and_a_second_plan_removes_nothing(seed):
    dice = random.Random(seed)
    statuses = ["complete", "verified", "damaged", "failed", "running"]
    found = [
        backup(
            dice.uniform(0, 200),
            dice.choices(statuses, [3, 5, 1, 1, 1])[0],
            is_pinned=dice.random() < 0.05,
            is_stored=dice.random() < 0.95,
        )
        for _ in range(dice.randint(0, 60))
    ]
    keep_days = dice.choice([1, 7, 30, 90])
    plan = {step.backup_id: step.action for step in plan_retention(found, NOW, keep_days)}
    kept = [candidate for candidate in found if plan[candidate.backup_id] == "keep"]
    removed = [candidate for candidate in found if plan[candidate.backup_id] == "remove"]
    proven = [candidate for candidate in found if candidate.is_proven]
    assert len(plan) == len(found)
    if proven:
        newest = max(proven, key=lambda candidate: candidate.started_at)
        assert newest in kept
        assert all(candidate.started_at < newest.started_at for candidate in removed)
    else:
        assert not removed
    assert not any(candidate.is_pinned for candidate in removed)
    assert all(candidate.started_at < NOW - keep_days * DAY for candidate in removed)
    assert {step.action for step in plan_retention(kept, NOW, keep_days)} <= {"keep"}
