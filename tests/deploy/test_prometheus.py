"""The rules for Prometheus: proved by its own tool, and about metrics that exist."""

import re
import shutil
import subprocess

import pytest
import yaml

from monitoring.registry import metrics
from tests.schema.catalog import ROOT

FOLDER = ROOT / "deploy" / "prometheus"
OURS = {"mistersmith_metric_errors", "mistersmith_metric_read_seconds"}


def rules():
    return [
        rule
        for group in yaml.safe_load((FOLDER / "alerts.yml").read_text())["groups"]
        for rule in group["rules"]
    ]


@pytest.mark.parametrize(
    "arguments", [["check", "config", "prometheus.yml"], ["test", "rules", "alerts_test.yml"]]
)
def test_promtool_is_content(arguments):
    if shutil.which("promtool") is None:
        pytest.skip("promtool is missing: make system-deps")
    if arguments[1] == "config":
        arguments.insert(2, "--syntax-only")
    done = subprocess.run(["promtool", *arguments], cwd=FOLDER, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("rule", rules(), ids=lambda rule: rule["alert"])
def test_rules_are_about_metrics_that_exist(rule):
    known = {metric.name for metric in metrics()} | OURS
    assert set(re.findall(r"mistersmith_\w+", rule["expr"])) - {"mistersmith"} <= known


def test_every_rule_is_proved_on_both_sides():
    tests = yaml.safe_load((FOLDER / "alerts_test.yml").read_text())["tests"]
    for rule in rules():
        cases = [
            case for test in tests for case in test["alert_rule_test"] if case["alertname"] == rule["alert"]
        ]
        assert {bool(case["exp_alerts"]) for case in cases} == {True, False}, rule["alert"]
