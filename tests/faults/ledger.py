"""What a fault test did, and what came of it: see docs/testing.md.

A record is plain data, for it travels from xdist's workers to the process that prints, and into a JSON file:
`{"test", "outcome", "seconds", "faults": {what: times}, "work": {what: number}, "wrong": {what: number}}`.
"""

import os
import signal
import subprocess
from collections import Counter
from typing import Any

import psutil

from cockpit.servers import Running

PROPERTY = "faults"  # the name under which a report carries a record
GONE_SECONDS = 30
HEADINGS = ("test", "faults", "work", "wrong", "seconds", "outcome")


class Faults:
    """The counts of one test; `check` fails one in which nothing was broken, nothing worked, or anything is wrong."""

    def __init__(self) -> None:
        self.faults: Counter[str] = Counter()
        self.work: Counter[str] = Counter()
        self.wrong_ones: Counter[str] = Counter()

    def kill(self, name: str, victim: Running | subprocess.Popen[Any] | int) -> None:
        """Kill -9 a server, a process or a pid, wait until it is gone, and note `<name> killed`.

        Raises psutil.NoSuchProcess or AssertionError when it was gone before: that would be no fault.
        """
        if isinstance(victim, Running):
            assert victim.is_alive(), f"{name} had ended before it was killed"
            victim.kill()
        else:
            kill_process(name, victim)
        self.happened(f"{name} killed")

    def happened(self, what: str, times: int = 1) -> None:
        """Note a fault that the test made by other means: "disk full", "network cut", "session terminated"."""
        self.faults[what] += times

    def did(self, **numbers: int) -> None:
        """Add to what was done meanwhile, each more than 0 at the end: `did(tasks=200)`."""
        self.work.update(numbers)

    def wrong(self, **numbers: int) -> None:
        """Add to what must not be, each 0 at the end: `wrong(lost=0, stale=0, duplicated=0)`."""
        self.wrong_ones.update(numbers)

    def check(self) -> None:
        """Raise AssertionError unless faults happened, work was done, and what may be wrong was counted and is not."""
        assert self.faults.total() > 0, "no fault happened: call faults.kill() or faults.happened()"
        assert self.work, "nothing was done meanwhile: count it by faults.did(tasks=...)"
        assert self.wrong_ones, "nothing was looked at: count it by faults.wrong(lost=..., ...), 0 included"
        idle = [name for name, number in self.work.items() if number <= 0]
        assert not idle, f"none of {', '.join(idle)}: the faults met nobody at work"
        wrong = {name: number for name, number in self.wrong_ones.items() if number}
        assert not wrong, f"wrong after {show(self.faults)}: {show(wrong)}"

    def record(self) -> dict[str, dict[str, int]]:
        return {"faults": dict(self.faults), "work": dict(self.work), "wrong": dict(self.wrong_ones)}


def kill_process(name: str, victim: subprocess.Popen[Any] | int) -> None:
    pid = victim if isinstance(victim, int) else victim.pid
    process = psutil.Process(pid)
    os.kill(pid, signal.SIGKILL)
    if isinstance(victim, int):
        gone, _ = psutil.wait_procs([process], timeout=GONE_SECONDS)
        assert gone or process.status() == psutil.STATUS_ZOMBIE, f"{name} outlived kill -9"
    else:
        code = victim.wait(GONE_SECONDS)
        assert code == -signal.SIGKILL, f"{name} had ended by itself with {code} before it was killed"


# -- the table ----------------------------------------------------------------------------------------------
def show(numbers: dict[str, int]) -> str:
    """`{"relay killed": 3}` as "relay killed 3"."""
    return ", ".join(f"{name} {number}" for name, number in numbers.items())


def add_up(records: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the totals: tests, failed, faults, kills, and the sum of each thing that must not be."""
    faults, wrong = Counter[str](), Counter[str]()
    for record in records:
        faults.update(record["faults"])
        wrong.update(record["wrong"])
    return {
        "tests": len(records),
        "failed": sum(record["outcome"] != "passed" for record in records),
        "faults": faults.total(),
        "kills": sum(number for what, number in faults.items() if what.endswith(" killed")),
        "wrong": dict(wrong),
    }


def make_table(records: list[dict[str, Any]]) -> list[str]:
    """Return the lines of a table of the records, and a last one with the totals."""
    rows = [HEADINGS, *map(make_row, records)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(HEADINGS))]
    lines = [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    ]
    total = add_up(records)
    wrong = show(total["wrong"]) or "nothing counted"
    return [*lines, f"{total['faults']} faults ({total['kills']} kills) in {total['tests']} tests; {wrong}"]


def make_row(record: dict[str, Any]) -> tuple[str, ...]:
    """Zeros of what must not be are named in the last line only."""
    wrong = show({name: number for name, number in record["wrong"].items() if number}) or "0"
    name = record["test"].removesuffix("]").replace(".py::test_", ": ").replace("[", " ").replace("_", " ")
    told = (
        show(record["faults"]),
        show(record["work"]),
        wrong,
        f"{record['seconds']:.1f}",
        record["outcome"],
    )
    return (name.removeprefix("test "), *told)
