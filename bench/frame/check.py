"""`make bench-check`: exit 1 unless every bar of `bench/bars.toml` holds in the last measurements."""

import json
import sys
import tomllib
from pathlib import Path
from typing import Any

from bench.frame.bars import Verdict, judge
from bench.frame.report import RESULTS

BARS = RESULTS.parent / "bars.toml"


def main(bars_path: Path = BARS, results_path: Path = RESULTS) -> int:
    verdicts = list(judge(tomllib.loads(bars_path.read_text()), read_results(results_path)))
    for verdict in verdicts:
        print(line(verdict))
    failed = sum(bool(verdict.problem) for verdict in verdicts)
    print(f"{len(verdicts) - failed} of {len(verdicts)} bars hold")
    return 1 if failed or not verdicts else 0


def read_results(folder: Path) -> dict[str, Any]:
    found = [json.loads(path.read_text()) for path in sorted(folder.glob("*.json"))]
    return {result["room"]: result for result in found if "room" in result}


def line(verdict: Verdict) -> str:
    figure = "-" if verdict.figure is None else f"{verdict.figure:,.3f}"
    return f"{verdict.room + '.' + verdict.metric:45} {figure:>12}  {verdict.bar:40} {verdict.problem or 'holds'}"


if __name__ == "__main__":
    sys.exit(main())
