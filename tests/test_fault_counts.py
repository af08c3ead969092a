"""The frame of the fault tests can fail: what it accepts, and what it prints."""

import json
import subprocess
import sys

import psutil
import pytest

from tests.faults.ledger import PROPERTY, Faults, add_up, make_table
from tests.faults.table import add, write

SLEEP = [sys.executable, "-c", "import time; time.sleep(60)"]


def counted(work=1, lost=0):
    faults = Faults()
    faults.happened("network cut", 2)
    faults.did(tasks=work)
    faults.wrong(lost=lost)
    return faults


def test_a_test_that_broke_something_and_lost_nothing_passes():
    counted().check()


@pytest.mark.parametrize(
    ("faults", "said"),
    [
        (Faults(), "no fault happened"),
        (counted(work=0), "none of tasks"),
        (counted(lost=1), "wrong after network cut 2: lost 1"),
        (counted(lost=-1), "lost -1"),
    ],
)
def test_a_test_that_proves_nothing_or_lost_something_fails(faults, said):
    with pytest.raises(AssertionError, match=said):
        faults.check()


def test_work_and_wrong_must_have_been_counted():
    faults = Faults()
    faults.happened("disk full")
    with pytest.raises(AssertionError, match="nothing was done meanwhile"):
        faults.check()
    faults.did(rows=1)
    with pytest.raises(AssertionError, match="nothing was looked at"):
        faults.check()


def test_kill_counts_what_it_killed():
    faults = Faults()
    with subprocess.Popen(SLEEP) as one, subprocess.Popen(SLEEP) as other:
        faults.kill("relay", one)
        faults.kill("relay", other.pid)
    assert faults.faults == {"relay killed": 2}


def test_what_had_ended_by_itself_is_not_counted_as_killed():
    faults = Faults()
    with subprocess.Popen([sys.executable, "-c", "pass"]) as process:
        process.wait()
        with pytest.raises((AssertionError, psutil.NoSuchProcess)):
            faults.kill("relay", process)
    assert not faults.faults


def test_the_table_adds_up():
    told = {"outcome": "passed", "seconds": 1.0}
    records = [
        told
        | {
            "test": "test_relay.py::test_it_goes_on[3]",
            "faults": {"relay killed": 3},
            "work": {"tasks": 2},
            "wrong": {"lost": 0},
        },
        told
        | {"test": "b", "faults": {"disk full": 1}, "work": {}, "wrong": {"lost": 2}, "outcome": "failed"},
    ]
    assert add_up(records) == {"tests": 2, "failed": 1, "faults": 4, "kills": 3, "wrong": {"lost": 2}}
    lines = make_table(records)
    assert lines[-1] == "4 faults (3 kills) in 2 tests; lost 2"
    assert lines[1].split("  ")[0] == "relay: it goes on 3"


def report(when="call", outcome="passed", counts=None, seconds=1.0):
    """What xdist hands to the process that prints: the counts come with it."""
    properties = [] if counts is None else [(PROPERTY, counts)]
    nodeid = "tests/faults/test_relay.py::test_it_goes_on[3]"
    return pytest.TestReport(
        nodeid, ("", 0, ""), {}, outcome, None, when, duration=seconds, user_properties=properties
    )


def test_the_record_of_a_test_is_what_its_report_carries(tmp_path):
    records = {}
    add(records, report(counts=counted().record(), seconds=2.25))
    write(tmp_path / "faults.json", list(records.values()))
    told = json.loads((tmp_path / "faults.json").read_text())
    assert told["totals"] == {"tests": 1, "failed": 0, "faults": 2, "kills": 0, "wrong": {"lost": 0}}
    assert told["tests"] == [
        {
            "test": "test_relay.py::test_it_goes_on[3]",
            "outcome": "passed",
            "seconds": 2.25,
            "faults": {"network cut": 2},
            "work": {"tasks": 1},
            "wrong": {"lost": 0},
        }
    ]


@pytest.mark.parametrize("when", ["setup", "teardown", "???"])  # ???: xdist's, of a process that died
def test_a_test_that_failed_outside_its_own_lines_is_in_the_table(when):
    records = {}
    if when == "teardown":
        add(records, report(counts=counted().record()))
    add(records, report(when, "failed"))
    assert [record["outcome"] for record in records.values()] == ["error"]
    assert add_up(list(records.values()))["failed"] == 1
