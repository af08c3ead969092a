"""The dashboard asks only for figures that there are, and Prometheus understands what it asks."""

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from monitoring.registry import metrics
from tests.deploy.test_prometheus import OURS
from tests.schema.catalog import ROOT

DASHBOARD = json.loads((ROOT / "deploy" / "grafana" / "mistersmith.json").read_text())
PANELS = [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]


def expressions(panel):
    return [target["expr"] for target in panel["targets"]]


@pytest.mark.parametrize("panel", PANELS, ids=lambda panel: panel["title"])
def test_a_panel_asks_for_metrics_that_exist_of_the_chosen_installation(panel):
    known = {metric.name for metric in metrics()} | OURS
    for expression in expressions(panel):
        asked = re.findall(r"mistersmith_\w+", expression)
        assert asked
        assert set(asked) <= known
        assert expression.count('{job="$job"') == len(asked)


def test_panels_have_their_own_ids_and_places():
    assert len({panel["id"] for panel in DASHBOARD["panels"]}) == len(DASHBOARD["panels"])
    places = [(panel["gridPos"]["x"], panel["gridPos"]["y"]) for panel in DASHBOARD["panels"]]
    assert len(set(places)) == len(places)
    assert all(panel["gridPos"]["x"] + panel["gridPos"]["w"] <= 24 for panel in DASHBOARD["panels"])


def test_every_figure_that_an_alert_judges_is_on_the_dashboard():
    rules = (ROOT / "deploy" / "prometheus" / "alerts.yml").read_text()
    shown = " ".join(expression for panel in PANELS for expression in expressions(panel))
    judged = set(re.findall(r"mistersmith_\w+", rules)) - {"mistersmith"}
    assert {name for name in judged if name not in shown} == set()


def test_prometheus_can_read_every_expression(tmp_path: Path):
    if shutil.which("promtool") is None:
        pytest.skip("promtool is missing: make system-deps")
    rules = [
        {"record": f"panel:{panel['id']}:{number}", "expr": expression.replace("$job", "mistersmith")}
        for panel in PANELS
        for number, expression in enumerate(expressions(panel))
    ]
    path = tmp_path / "panels.yml"
    path.write_text(json.dumps({"groups": [{"name": "panels", "rules": rules}]}))
    done = subprocess.run(
        ["promtool", "check", "rules", str(path)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
