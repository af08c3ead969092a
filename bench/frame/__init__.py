"""What every benchmark needs: servers as they run in earnest, a report, and bars to hold it against.

A benchmark is a module `bench/<room>.py` with a function `main`:

    from bench.frame import Report
    from bench.frame.servers import installation

    def main() -> None:
        with Report("tasks") as report, installation(report):
            from tasks.enqueue import enqueue          # Django is ready only now

            for _ in range(report.runs(3)):
                report.add("enqueue_bulk", measure_ours(), "tasks/s", rows=100_000)
                report.add_peer("enqueue_bulk", "COPY", measure_copy())

Run it with `make bench ONLY=tasks`; `QUICK=1` makes few and short runs that never count.
`bench/bars.toml` holds the bars, `make bench-check` compares.
"""

from bench.frame.machine import percentile
from bench.frame.report import Report

__all__ = ["Report", "percentile"]
