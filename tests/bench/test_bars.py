"""A bar that cannot fail is none: each way to miss one is seen."""

import json
import tomllib

import pytest

from bench.frame import Report, percentile
from bench.frame.bars import judge
from bench.frame.check import BARS, main

BAR = {"at_least": 0.9, "unit": "rows/s", "rows": 100, "runs": 2, "peer": "COPY"}


def measured(**changes):
    metric = {
        "unit": "rows/s",
        "rows": 100,
        "samples": [90.0, 95.0],
        "peer": "COPY",
        "peer_samples": [100.0, 100.0],
        "value": 92.5,
        "ratio": 0.925,
    }
    return {"tasks": {"quick": False, "metrics": {"insert": metric | changes}}}


def problem_of(bar, results):
    (verdict,) = judge({"tasks": {"insert": bar}}, results)
    return verdict.problem


def test_bar_holds():
    assert problem_of(BAR, measured()) == ""
    assert problem_of(BAR, measured(ratio=0.9)) == ""
    assert problem_of({"at_most": 0.9, "unit": "rows/s", "rows": 100, "runs": 2}, measured(value=0.9)) == ""


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"ratio": 0.8999}, "missed"),
        ({"ratio": None}, "no figure"),
        ({"rows": 99}, "99 rows, 100 are needed"),
        ({"samples": [90.0], "peer_samples": [100.0]}, "1 runs, 2 are needed"),
        ({"peer": None, "peer_samples": []}, "beside None, the bar asks for COPY"),
        ({"peer_samples": [100.0]}, "COPY ran 1 times of 2"),
        ({"unit": "ms"}, "measured in ms, the bar is in rows/s"),
    ],
)
def test_bar_does_not_hold(changes, problem):
    assert problem in problem_of(BAR, measured(**changes))


def test_upper_bar_is_missed_above_it():
    assert (
        problem_of({"at_most": 5, "unit": "ms", "rows": 1, "runs": 1}, measured(unit="ms", value=5.1))
        == "missed"
    )


def test_what_was_not_measured_fails():
    assert problem_of(BAR, {}) == "not measured"
    assert problem_of(BAR, {"tasks": {"quick": False, "metrics": {}}}) == "not measured"


def test_quick_run_never_counts():
    results = measured()
    results["tasks"]["quick"] = True
    assert problem_of(BAR, results) == "a quick run"


def test_report_is_what_the_check_reads(tmp_path, capsys, monkeypatch):
    monkeypatch.delenv("QUICK", raising=False)
    bars = tmp_path / "bars.toml"
    bars.write_text('[tasks.insert]\nat_least = 0.9\nunit = "rows/s"\nrows = 100\nruns = 2\npeer = "COPY"\n')
    with Report("tasks", tmp_path) as report:
        for ours in (95.0, 91.0):
            report.add("insert", ours, "rows/s", rows=100)
            report.add_peer("insert", "COPY", 100.0)
    assert main(bars, tmp_path) == 0
    assert "1 of 1 bars hold" in capsys.readouterr().out
    written = json.loads((tmp_path / "tasks.json").read_text())
    assert written["metrics"]["insert"]["samples"] == [95.0, 91.0]
    assert written["metrics"]["insert"]["ratio"] == pytest.approx(0.93)
    assert written["machine"]["cores"] >= 1
    assert written["commit"]
    bars.write_text(bars.read_text().replace("0.9", "0.94"))
    assert main(bars, tmp_path) == 1


def test_no_bar_at_all_is_no_pass(tmp_path):
    (tmp_path / "bars.toml").write_text("")
    assert main(tmp_path / "bars.toml", tmp_path) == 1


def test_report_of_a_failed_benchmark_is_not_written(tmp_path):
    with pytest.raises(ZeroDivisionError), Report("tasks", tmp_path) as report:
        report.add("insert", 1 / 0, "rows/s", rows=1)
    assert not list(tmp_path.iterdir())


def test_percentile_is_the_nearest_rank():
    assert percentile([3.0, 1.0, 2.0, 4.0], 50) == 2.0
    assert percentile([3.0, 1.0, 2.0, 4.0], 99) == 4.0
    assert percentile([7.0], 1) == 7.0


def test_the_committed_bars_can_be_read():
    for room, metrics in tomllib.loads(BARS.read_text()).items():
        for name, bar in metrics.items():
            assert {"unit", "rows", "runs"} <= set(bar), f"{room}.{name}"
            assert {"at_least", "at_most"} & set(bar), (
                f"{room}.{name}: a bar without a limit cannot be missed"
            )
