"""The choice of a replica, its lag, its circuit breaker: with a clock that the test moves."""

from collections import Counter

import pytest

from pg.breaker import FIRST_SECONDS, LONGEST_SECONDS, Breaker
from pg.replicas import STALE_SECONDS, Replica, Replicas


class Clock:
    now = 1000.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def two(clock):
    return Replicas([Replica("replica"), Replica("replica_2")], 10, 1_000, clock)


def why(replicas, alias="replica", needed_lsn=0):
    return replicas.unfitness(replicas.find(alias), replicas.clock(), needed_lsn)


def test_before_anything_is_measured_reads_go_to_the_primary(two):
    assert two.choose() is None
    assert why(two) == "not measured yet"


def test_reads_are_shared_out_by_weight(clock):
    three = Replicas(
        [Replica("replica", 1), Replica("replica_2", 3), Replica("replica_3", 0)], 10, 1_000, clock
    )
    for one in three.members:
        three.saw(one.alias, 500, 1, True)
    chosen = Counter(three.choose() for _ in range(2_000))
    assert set(chosen) == {"replica", "replica_2"}
    assert 1_300 < chosen["replica_2"] < 1_700


def test_a_replica_that_is_silent_gets_no_reads(two, clock):
    two.saw("replica", 500, 1, True)
    clock.now += STALE_SECONDS
    assert two.choose() == "replica"
    clock.now += 0.1
    assert two.choose() is None
    assert why(two) == "not measured for 3 s"


def test_lag_is_measured_in_bytes_and_in_seconds_since_the_primary_was_there(two, clock):
    two.saw_primary(100, 1)
    clock.now += 5
    two.saw_primary(900, 1)
    clock.now += 4
    two.saw("replica", 100, 1, True)
    assert (two.members[0].lag_bytes, two.members[0].lag_seconds) == (800, 4)
    assert two.choose() == "replica"


def test_a_primary_that_writes_nothing_makes_no_lag(two, clock):
    two.saw_primary(900, 1)
    clock.now += 3_600
    two.saw_primary(900, 1)
    two.saw("replica", 900, 1, True)
    assert two.members[0].lag_seconds == 0


@pytest.mark.parametrize(("seconds", "is_chosen"), [(10, True), (10.5, False)])
def test_a_replica_that_lags_too_long_gets_no_reads(two, clock, seconds, is_chosen):
    two.saw_primary(200, 1)
    clock.now += seconds
    two.saw("replica", 100, 1, True)
    assert (two.choose() == "replica") is is_chosen


@pytest.mark.parametrize(("lsn", "is_chosen"), [(1_000, True), (1_001, False)])
def test_a_replica_that_lags_too_many_bytes_gets_no_reads(two, lsn, is_chosen):
    two.saw_primary(lsn, 1)
    two.saw("replica", 0, 1, True)
    assert (two.choose() == "replica") is is_chosen


@pytest.mark.parametrize(("needed", "chosen"), [(500, "replica"), (501, None)])
def test_a_reader_sees_what_he_wrote(two, needed, chosen):
    two.saw("replica", 500, 1, True)
    assert two.choose(needed) == chosen


def test_a_replica_of_the_old_primary_gets_no_reads(two):
    two.saw_primary(500, 2)
    two.saw("replica", 9_000, 1, True)
    two.saw("replica_2", 500, 2, True)
    assert two.choose() == "replica_2"
    assert why(two) == "on timeline 1, the primary is on 2"


def test_a_replica_that_was_promoted_is_read_as_before(two):
    two.saw_primary(500, 2)
    two.saw("replica", 500, 2, False)
    assert two.choose() == "replica"


def test_a_replica_that_failed_comes_back_after_two_good_probes(two, clock):
    two.saw("replica", 500, 1, True)
    two.failed("replica", "connection refused")
    assert two.choose() is None
    assert why(two) == "circuit breaker open: connection refused"
    clock.now += FIRST_SECONDS
    two.saw("replica", 500, 1, True)
    assert two.choose() is None
    two.saw("replica", 500, 1, True)
    assert two.choose() == "replica"


# -- the breaker alone ----------------------------------------------------------------------------------------
def test_good_probes_within_the_pause_do_not_count():
    breaker = Breaker()
    breaker.fail(100)
    for now in (100.1, 101, 101.9):
        breaker.succeed(now)
    assert breaker.state == "open"


def test_half_open_a_bad_probe_opens_it_for_twice_as_long():
    breaker = Breaker()
    breaker.fail(100)
    breaker.succeed(102)
    assert breaker.state == "half-open"
    breaker.fail(102.5)
    assert breaker.state == "open"
    assert breaker.open_until == 102.5 + 2 * FIRST_SECONDS


def test_the_pause_ends_growing_and_begins_anew_after_a_recovery():
    breaker, now = Breaker(), 0.0
    for _ in range(12):
        breaker.fail(now)
        now = breaker.open_until
    assert breaker.pause_seconds == LONGEST_SECONDS
    breaker.succeed(now)
    breaker.succeed(now)
    assert breaker.is_closed
    breaker.fail(now)
    assert breaker.open_until == now + FIRST_SECONDS


def test_more_failures_within_the_pause_do_not_prolong_it():
    breaker = Breaker()
    breaker.fail(100)
    breaker.fail(101)
    assert breaker.open_until == 100 + FIRST_SECONDS
