"""What an attempt uses, measured in its own process."""

import resource
import time
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
    """What this process and its ended children use from now on."""

    def __init__(self) -> None:
        self.cpu, self.blocks = _cpu_seconds(), _io_operations()
        self.has_own_peak = _reset_memory_peak()

    def read(self) -> Usage:
        return Usage(
            cpu_time_ms=round(max(0.0, _cpu_seconds() - self.cpu) * 1000),
            memory_peak_mb=_memory_peak_mb(self.has_own_peak),
            io_operations=max(0, _io_operations() - self.blocks),
        )


def _cpu_seconds() -> float:
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time() + children.ru_utime + children.ru_stime


def _io_operations() -> int:
    used = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(each.ru_inblock + each.ru_oublock for each in used)


def _reset_memory_peak() -> bool:
    """Start VmHWM anew; return False where the kernel does not let us: then the peak is of the process's whole life."""
    try:
        with open("/proc/self/clear_refs", "wb", buffering=0) as file:
            file.write(b"5")
    except OSError:
        return False
    return True


def _memory_peak_mb(has_own_peak: bool) -> int:
    if has_own_peak:
        with open("/proc/self/status", "rb", buffering=0) as file:  # one read: each task pays for it
            _, found, rest = file.read().partition(b"VmHWM:")
        if found:
            return int(rest.split(None, 1)[0]) // 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
