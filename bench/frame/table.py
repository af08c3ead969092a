"""Print rooms' last measurements as docs/performance.md holds them: `python -m bench.frame.table partitions`."""

import sys
import tomllib
from typing import Any

from bench.frame.bars import judge_one
from bench.frame.check import BARS, read_results
from bench.frame.report import RESULTS

HEAD = "| figure | median | runs | peer in the same run | ratio | bar |\n|---|---|---|---|---|---|"


def main(rooms: list[str]) -> int:
    results, bars = read_results(RESULTS), tomllib.loads(BARS.read_text())
    for room in rooms or sorted(results):
        print("\n".join(section(room, results[room], bars.get(room, {}))))
    return 0


def section(room: str, result: dict[str, Any], bars: dict[str, Any]) -> list[str]:
    machine = result["machine"]
    where = f"{machine['cores']} cores of {machine['processor']}, {machine['memory_bytes'] / 2**30:.0f} GiB"
    settings = ", ".join(
        f"{name.removeprefix('postgres_')} {value}"
        for name, value in result["settings"].items()
        if name.startswith("postgres_")
    )
    return [
        f"## {room}",
        f"{result['started_at'][:10]}, commit {result['commit']}, {result['seconds']:.0f} s; {where}, {settings}; an"
        f" fdatasync of 8 kB takes {result['settings']['fsync_probe']['p50_ms']:.2f} ms (p99"
        f" {result['settings']['fsync_probe']['p99_ms']:.2f}).",
        HEAD,
        *(row(room, name, metric, result, bars) for name, metric in result["metrics"].items()),
        "",
    ]


def row(room: str, name: str, metric: dict[str, Any], result: dict[str, Any], bars: dict[str, Any]) -> str:
    peer = ""
    if metric["peer_samples"]:
        middle = sorted(metric["peer_samples"])[len(metric["peer_samples"]) // 2]
        peer = f"{metric['peer']}: {figure(middle)}"
    ratio = f"{metric['ratio']:.2f}" if metric["ratio"] is not None else ""
    verdict = judge_one(room, name, bars[name], result) if name in bars else None
    bar = f"{verdict.bar}: {verdict.problem or 'holds'}" if verdict else ""
    note = f" ({metric['note']})" if metric["note"] else ""
    cells = [
        f"{name}{note}",
        f"{figure(metric['value'])} {metric['unit']}",
        len(metric["samples"]),
        peer,
        ratio,
        bar,
    ]
    return "| " + " | ".join(str(cell) for cell in cells) + " |"


def figure(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
