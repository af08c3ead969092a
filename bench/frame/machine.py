"""What a figure depends on and nobody remembers later: processor, memory, kernel, disk, commit."""

import os
import platform
import subprocess
import tempfile
import time
from math import ceil
from pathlib import Path
from typing import Any

import psutil

ROOT = Path(__file__).parents[2]
PROBE_BYTES = 8192


def describe_machine() -> dict[str, Any]:
    return {
        "processor": read_processor(),
        "cores": os.cpu_count(),
        "memory_bytes": psutil.virtual_memory().total,
        "kernel": platform.release(),
        "python": platform.python_version(),
        "load_average": os.getloadavg(),
    }


def read_processor() -> str:
    for text in Path("/proc/cpuinfo").read_text().splitlines():
        if text.startswith("model name"):
            return text.partition(":")[2].strip()
    return platform.processor()


def read_commit() -> str:
    """Return the commit that is measured, with `+changes` when files differ from it; empty outside a checkout."""

    def ask(*argv: str) -> str:
        done = subprocess.run(["git", "-C", str(ROOT), *argv], capture_output=True, text=True, check=False)
        return done.stdout.strip()

    changed = "+changes" if ask("status", "--porcelain", "--untracked-files=no") else ""
    return ask("rev-parse", "--short=12", "HEAD") + changed


def probe_fsync(folder: Path | None = None, count: int = 200) -> dict[str, float]:
    """Append 8 kB and fdatasync, `count` times; return p50 and p99 in milliseconds. Every commit pays it."""
    times = []
    with tempfile.TemporaryFile(dir=folder) as file:
        for _ in range(count):
            os.write(file.fileno(), b"\0" * PROBE_BYTES)
            began = time.perf_counter()
            os.fdatasync(file.fileno())
            times.append((time.perf_counter() - began) * 1000)
    return {f"p{percent}_ms": percentile(times, percent) for percent in (50, 99)}


def percentile(samples: list[float], percent: float) -> float:
    """Return the smallest sample that at least `percent` of the samples do not exceed (nearest rank)."""
    return sorted(samples)[max(ceil(len(samples) * percent / 100), 1) - 1]
