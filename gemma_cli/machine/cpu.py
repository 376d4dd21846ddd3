"""The cores that this process may compute on, and how busy others keep them."""

from __future__ import annotations

import ctypes
import os
import struct
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from gemma_cli.machine.cgroup import cpu_quota, read

_CPUS = "sys/devices/system/cpu"
# Work is dealt out evenly, so that a slow core holds the others up: those with
# less than half of the best one's capacity are left out.
_WORTHWHILE = 0.5
_SHORTEST_S = 0.1  # /proc/stat counts in hundredths of a second


def usable_threads(root: Path = Path("/"), cpus: set[int] | None = None) -> int:
    """Cores worth computing on: physical (SMT siblings count once), the fast ones of a
    hybrid CPU, within the affinity (`cpus`; None: this process's) and the cgroup's quota.
    """
    if sys.platform == "darwin":
        cores = _sysctl("hw.perflevel0.physicalcpu") or _sysctl("hw.physicalcpu")
        return max(1, cores or os.cpu_count() or 1)
    if sys.platform == "win32":
        return max(1, _windows_cores() or os.cpu_count() or 1)
    mine = cpus or affinity()
    fast = _fast(root, mine)
    cores = len(
        {read(root / _CPUS / f"cpu{cpu}/topology/thread_siblings_list") or str(cpu) for cpu in fast}
    )
    quota = cpu_quota(root)
    return max(1, cores if quota is None else min(cores, int(quota)))


def affinity() -> set[int]:
    """The logical CPUs that this process may run on."""
    if sys.platform == "linux":
        return os.sched_getaffinity(0)
    return set(range(os.cpu_count() or 1))


def _fast(root: Path, cpus: set[int]) -> set[int]:
    """Without the efficiency cores: by Intel's list, else by the capacities that ARM states."""
    performance = cpus & set(parse_cpu_list(read(root / "sys/devices/cpu_core/cpus")))
    if performance:
        return performance
    stated = {cpu: read(root / _CPUS / f"cpu{cpu}/cpu_capacity") for cpu in cpus}
    capacity = {cpu: int(text) for cpu, text in stated.items() if text.isdigit()}
    if len(capacity) < len(cpus):
        return cpus
    enough = _WORTHWHILE * max(capacity.values())
    return {cpu for cpu in cpus if capacity[cpu] >= enough}


def parse_cpu_list(text: str) -> Iterator[int]:
    """The kernel's lists of CPUs: "0-3,8" is 0, 1, 2, 3, 8."""
    for part in text.split(","):
        first, _, last = part.strip().partition("-")
        if first.isdigit():
            yield from range(int(first), int(last or first) + 1)


def _sysctl(name: str) -> int:
    """A whole number that macOS's kernel tells; 0 if it does not."""
    value, size = ctypes.c_int64(0), ctypes.c_size_t(8)
    found = ctypes.CDLL(None).sysctlbyname(
        name.encode(), ctypes.byref(value), ctypes.byref(size), None, ctypes.c_size_t(0)
    )
    return value.value if found == 0 else 0


def is_translated() -> bool:
    """Whether this is an Intel build of Python, run by an Apple Silicon Mac."""
    return sys.platform == "darwin" and _sysctl("sysctl.proc_translated") == 1


def _windows_cores() -> int:
    kernel, length = ctypes.CDLL("kernel32"), ctypes.c_ulong(0)
    relation_core = 0  # RelationProcessorCore
    kernel.GetLogicalProcessorInformationEx(relation_core, None, ctypes.byref(length))
    buffer = ctypes.create_string_buffer(length.value)
    if not kernel.GetLogicalProcessorInformationEx(relation_core, buffer, ctypes.byref(length)):
        return 0
    return count_fast_cores(buffer.raw[: length.value])


def count_fast_cores(records: bytes) -> int:
    """Cores of the highest efficiency class in SYSTEM_LOGICAL_PROCESSOR_INFORMATION_EX records.

    Each begins with its relationship and its size (32 bits each), then flags and
    the class (a byte each); a higher class is a faster core. Source: winnt.h.
    """
    classes, offset = [], 0
    while offset + 10 <= len(records):
        relationship, size, _, efficiency = struct.unpack_from("<IIBB", records, offset)
        if relationship == 0:
            classes.append(efficiency)
        offset += max(size, 10)
    return classes.count(max(classes, default=0))


class OtherLoad:
    """How many CPUs other processes kept busy since the last look. Linux; None elsewhere.

    Threads of llama.cpp wait for each other many hundred times a token, spinning.
    Where another process takes one's core, the others spin for a whole time
    slice: a thread less is then far faster than a thread too many.
    """

    def __init__(self, root: Path = Path("/")) -> None:
        self._stat = root / "proc/stat"
        self._cpus = affinity()
        self._last = self._now()

    def advise(self, threads: int) -> int | None:
        """So many of `threads` that each has a CPU; None where too short a time has passed."""
        now = self._now()
        if now is None or self._last is None or now[0] - self._last[0] < _SHORTEST_S:
            return None
        elapsed, busy, own = (after - before for after, before in zip(now, self._last, strict=True))
        self._last = now
        free = len(self._cpus) - max(0.0, busy - own) / elapsed
        return max(1, min(threads, round(free)))

    def _now(self) -> tuple[float, float, float] | None:
        """(time, seconds that our CPUs were busy, seconds that we ourselves computed)."""
        if sys.platform != "linux":
            return None
        ticks = []
        for line in read(self._stat).splitlines():
            name, *counts = line.split()
            if name.startswith("cpu") and name[3:].isdigit() and int(name[3:]) in self._cpus:
                # user nice system idle iowait irq softirq steal; guest time is in user's.
                ticks.append(sum(map(int, counts[:8])) - sum(map(int, counts[3:5])))
        times = os.times()
        own = time.process_time() + times.children_user + times.children_system
        busy = sum(ticks) / os.sysconf("SC_CLK_TCK")
        return (time.monotonic(), busy, own) if ticks else None
