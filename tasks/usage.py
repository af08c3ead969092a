"""What an attempt uses, measured in its own process."""

import os
import resource
from contextlib import suppress
from dataclasses import dataclass


@dataclass(frozen=True)
class Usage:
    """What an attempt used; None: not measured.

    `cpu_time_ms`: user and system time of the process and of children that ended. `memory_peak_mb`: the whole process's
    peak while the attempt ran. `io_operations`: blocks read from and written to disks.
    """

    cpu_time_ms: int | None = None
    memory_peak_mb: int | None = None
    io_operations: int | None = None


class Meter:
    """What this process and its ended children use from now on.

    Linux starts a process's memory peak anew when it is told to. Where it does not let us, and in a process whose
    starter was larger before `exec`, the peak is not of the attempt alone.
    """

    def __init__(self) -> None:
        _reset_memory_peak()
        self.cpu_seconds, self.blocks, _ = _used()

    def read(self) -> Usage:
        cpu_seconds, blocks, peak_kb = _used()
        return Usage(
            cpu_time_ms=round(max(0.0, cpu_seconds - self.cpu_seconds) * 1000),
            memory_peak_mb=peak_kb // 1024,
            io_operations=max(0, blocks - self.blocks),
        )


def _used() -> tuple[float, int, int]:
    """Return seconds of processor time, blocks read and written, and the memory peak in kB. Two calls of the kernel:
    each task pays for them."""
    own, children = resource.getrusage(resource.RUSAGE_SELF), resource.getrusage(resource.RUSAGE_CHILDREN)
    seconds = own.ru_utime + own.ru_stime + children.ru_utime + children.ru_stime
    blocks = own.ru_inblock + own.ru_oublock + children.ru_inblock + children.ru_oublock
    return seconds, blocks, own.ru_maxrss


def _reset_memory_peak() -> None:
    with suppress(OSError):
        file = os.open("/proc/self/clear_refs", os.O_WRONLY)
        try:
            os.write(file, b"5")
        finally:
            os.close(file)
