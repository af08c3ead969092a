"""Partitioned tables: inserts, WAL a row, planning, upkeep. PARTS=wal,planning runs some of them (never counts)."""

import os

from bench.frame import Report
from bench.frame.servers import installation
from bench.storage.sql import connect

PARTS = [name for name in os.environ.get("PARTS", "").split(",") if name]


def main() -> None:
    with Report("partitions") as report, installation(report) as found, connect(found.dsn) as session:
        from bench.storage import inserts, planning, upkeep, wal

        parts = {
            "inserts": lambda: inserts.measure(report, session, report.runs(5), report.rows(30_000, 3_000)),
            "wal": lambda: wal.measure(report, session, report.runs(3), report.rows(20_000, 4_000)),
            "planning": lambda: planning.measure(report, session, report.runs(5), report.rows(2_000, 400)),
            "upkeep": lambda: upkeep.measure(report, session, found, report.runs(3)),
        }
        for name, run in parts.items():
            if not PARTS or name in PARTS:
                print(f"-- {name}", flush=True)
                run()
        report.is_quick = report.is_quick or bool(PARTS)


if __name__ == "__main__":
    main()
