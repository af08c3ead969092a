"""Hold what was measured against `bench/bars.toml`. Pure: reads no file.

A bar is a table `[<room>.<metric>]` with `at_least` or `at_most`, `unit`, `rows` and `runs` (the fewest that count),
and where the bar is a ratio, `peer`: the figure is then sample / peer's sample. `goal` is printed and never fails.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Verdict:
    """What became of one bar. `problem` is empty when it holds."""

    room: str
    metric: str
    bar: str
    figure: float | None
    problem: str


def judge(bars: dict[str, Any], results: dict[str, Any]) -> Iterator[Verdict]:
    """Yield a verdict for each bar. `results` is what `bench/results/<room>.json` hold, by room."""
    for room, metrics in bars.items():
        for name, bar in metrics.items():
            yield judge_one(room, name, bar, results.get(room))


def judge_one(room: str, name: str, bar: dict[str, Any], result: dict[str, Any] | None) -> Verdict:
    metric = (result or {}).get("metrics", {}).get(name)
    if result is None or metric is None:
        return Verdict(room, name, say(bar), None, "not measured")
    figure = metric["ratio"] if bar.get("peer") else metric["value"]
    problems = list(filter(None, [disqualify(bar, result, metric), miss(bar, figure)]))
    return Verdict(room, name, say(bar), figure, "; ".join(problems))


def disqualify(bar: dict[str, Any], result: dict[str, Any], metric: dict[str, Any]) -> str:
    """Say why a figure does not count; empty when it does."""
    if result["quick"]:
        return "a quick run"
    if metric["unit"] != bar["unit"]:
        return f"measured in {metric['unit']}, the bar is in {bar['unit']}"
    if metric["rows"] < bar["rows"]:
        return f"{metric['rows']:,} rows, {bar['rows']:,} are needed"
    if len(metric["samples"]) < bar["runs"]:
        return f"{len(metric['samples'])} runs, {bar['runs']} are needed"
    return missing_peer(bar, metric)


def missing_peer(bar: dict[str, Any], metric: dict[str, Any]) -> str:
    wanted = bar.get("peer")
    if not wanted:
        return ""
    if metric["peer"] != wanted:
        return f"beside {metric['peer']}, the bar asks for {wanted}"
    if len(metric["peer_samples"]) != len(metric["samples"]):
        return f"{wanted} ran {len(metric['peer_samples'])} times of {len(metric['samples'])}"
    return ""


def miss(bar: dict[str, Any], figure: float | None) -> str:
    if figure is None:
        return "no figure"
    if "at_least" in bar and figure < bar["at_least"]:
        return "missed"
    if "at_most" in bar and figure > bar["at_most"]:
        return "missed"
    return ""


def say(bar: dict[str, Any]) -> str:
    limit = f">= {bar['at_least']}" if "at_least" in bar else f"<= {bar['at_most']}"
    what = f"x {bar['peer']}" if bar.get("peer") else bar["unit"]
    goal = f", goal {bar['goal']}" if "goal" in bar else ""
    return f"{limit} {what}{goal}"
