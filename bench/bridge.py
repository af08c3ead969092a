"""PostgreSQL and JetStream in step: lag, rates, what triggers cost. PARTS=lag,lead runs some of them (never counts).

nats-server syncs every write (`sync_interval: always`), as `make up` has it: so each run has an fsync probe of its own,
and what the setting costs is measured first (docs/decisions/0012).
"""

import os

from bench.frame import Report
from bench.frame.machine import probe_fsync
from bench.frame.servers import POSTGRES, installation

PARTS = [name for name in os.environ.get("PARTS", "").split(",") if name]
RUNS = 3


def main() -> None:
    # commit timestamps tell when a row was committed, whoever looks
    postgres = {**POSTGRES, "track_commit_timestamp": "on"}
    with Report("bridge") as report, installation(report, postgres) as found:
        from bench.sync import inbound, lag, lead, outbound, sync_interval, triggers
        from bridge import setup

        setup.apply_plan(setup.make_plan(setup.read_found()))
        parts = {
            "sync_interval": sync_interval.measure,
            "triggers": triggers.measure,
            "outbound": outbound.measure,
            "inbound": inbound.measure,
            "lag": lag.measure,
            "lead": lead.measure,
        }
        for run in range(report.runs(RUNS)):
            for name, measure in parts.items():
                if not PARTS or name in PARTS:
                    print(f"-- run {run + 1}: {name}", flush=True)
                    add_probe(report, found.home)
                    measure(report, found)
        report.is_quick = report.is_quick or bool(PARTS)


def add_probe(report: Report, home: os.PathLike[str]) -> None:
    """What an fsync costs this minute: one before each part."""
    for name, value in probe_fsync(home).items():  # type: ignore[arg-type]
        report.add(
            f"fsync_{name.removesuffix('_ms')}", value, "ms", 200, "8 kB and fdatasync, before each part"
        )


if __name__ == "__main__":
    main()
