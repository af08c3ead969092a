"""What one benchmark measured, printed as a table and kept as JSON in `bench/results/<room>.json`."""

import json
import os
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from types import TracebackType
from typing import Any, Self

from bench.frame.machine import describe_machine, read_commit

RESULTS = Path(__file__).parents[1] / "results"


@dataclass
class Metric:
    """The samples of one figure, one a run, and those of its peer, measured beside it in the same run."""

    name: str
    unit: str
    rows: int  # how many rows, keys or events one sample is made of
    samples: list[float] = field(default_factory=list)
    peer: str | None = None  # what `peer_samples` are of
    peer_samples: list[float] = field(default_factory=list)
    note: str = ""

    @property
    def value(self) -> float:
        return median(self.samples)

    @property
    def ratio(self) -> float | None:
        """The median over the runs of sample / peer's sample of the same run; None without a peer."""
        pairs = list(zip(self.samples, self.peer_samples, strict=False))
        return median(ours / theirs for ours, theirs in pairs) if pairs else None


class Report:
    """Collects metrics; at the end of the `with` block it prints them and writes the file, if nothing was raised."""

    def __init__(self, room: str, results: Path = RESULTS) -> None:
        self.room, self.results = room, results
        self.is_quick = is_quick()
        self.metrics: dict[str, Metric] = {}
        self.settings: dict[str, Any] = {}  # of the servers: whatever the figures depend on
        self.started_at = datetime.now(UTC)

    def runs(self, wanted: int) -> int:
        """Return how often to measure: as often as wanted, or once when the run is a quick one."""
        return 1 if self.is_quick else wanted

    def rows(self, wanted: int, quick: int) -> int:
        """Return how many rows to measure with."""
        return quick if self.is_quick else wanted

    def add(self, name: str, sample: float, unit: str, rows: int, note: str = "") -> None:
        """Add one run's figure. `rows` is the least that any run had."""
        metric = self.metrics.setdefault(name, Metric(name, unit, rows))
        metric.samples.append(sample)
        metric.rows = min(metric.rows, rows)
        metric.note = note or metric.note

    def add_peer(self, name: str, peer: str, sample: float) -> None:
        """Add the peer's figure of the same run, in the same unit. `add` came first."""
        metric = self.metrics[name]
        metric.peer = peer
        metric.peer_samples.append(sample)

    def as_dict(self) -> dict[str, Any]:
        return {
            "room": self.room,
            "commit": read_commit(),
            "quick": self.is_quick,
            "started_at": self.started_at.isoformat(),
            "seconds": (datetime.now(UTC) - self.started_at).total_seconds(),
            "machine": describe_machine(),
            "settings": self.settings,
            "metrics": {
                name: {**asdict(metric), "value": metric.value, "ratio": metric.ratio}
                for name, metric in self.metrics.items()
            },
        }

    def write(self) -> Path:
        self.results.mkdir(exist_ok=True)
        path = self.results / f"{self.room}.json"
        path.write_text(json.dumps(self.as_dict(), indent=1, default=str) + "\n")
        return path

    def print(self) -> None:
        print(f"\n{self.room}{' (quick: never counts)' if self.is_quick else ''}")
        print(f"{'metric':40} {'median':>12} {'unit':10} {'peer':>12} {'ratio':>7}  {'rows':>9} runs")
        for metric in self.metrics.values():
            print(line(metric))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            self.print()
            print(f"written to {self.write()}")


def line(metric: Metric) -> str:
    peer = f"{median(metric.peer_samples):12,.3f}" if metric.peer_samples else f"{'':12}"
    ratio = f"{metric.ratio:7.2f}" if metric.ratio is not None else f"{'':7}"
    named = " ".join(filter(None, (f"beside {metric.peer}" if metric.peer else "", metric.note)))
    return (
        f"{metric.name:40} {metric.value:12,.3f} {metric.unit:10} {peer} {ratio}"
        f"  {metric.rows:9,} {len(metric.samples):4}  {named}"
    ).rstrip()


def is_quick() -> bool:
    return os.environ.get("QUICK", "") not in ("", "0")
