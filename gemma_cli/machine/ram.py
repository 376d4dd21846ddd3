"""The memory of this computer, as far as this process may have it without swapping."""

from __future__ import annotations

import ctypes
import sys
from pathlib import Path

from gemma_cli.machine.cgroup import memory_room, read


def total_and_free(root: Path = Path("/")) -> tuple[int, int]:
    """Bytes of RAM, and of those that a model may take: MemAvailable, bounded by the cgroup."""
    if sys.platform == "win32":
        return _windows_memory()
    if sys.platform == "darwin":
        return _mac_memory()
    total, free = _linux_memory(root)
    room = memory_room(root)
    return (min(total, room[0]), min(free, room[1])) if room else (total, free)


def address_space_left(root: Path = Path("/")) -> int | None:
    """Bytes that this process may still map (`ulimit -v`), weights included; None: no limit.

    Linux only: other systems have no such limit, or do not keep to it. No plan
    counts with it: what else will be mapped, nobody knows beforehand.
    """
    if sys.platform != "linux":
        return None
    import resource

    limit = resource.getrlimit(resource.RLIMIT_AS)[0]
    if limit == resource.RLIM_INFINITY:
        return None
    return max(0, limit - _status(root, "VmSize"))


def _status(root: Path, key: str) -> int:
    """Bytes that the kernel counts for this process under a name; 0 if it does not."""
    for line in read(root / "proc/self/status").splitlines():
        if line.startswith(f"{key}:"):
            return int(line.split()[1]) * 1024
    return 0


def _linux_memory(root: Path) -> tuple[int, int]:
    lines = read(root / "proc/meminfo").splitlines()
    kib = {line.split(":")[0]: int(line.split()[1]) for line in lines if ":" in line}
    # Kernels before 3.14 (some containers' too) do not say what is available.
    available = kib.get("MemAvailable", kib.get("MemFree", 0) + kib.get("Cached", 0))
    return kib.get("MemTotal", 0) * 1024, available * 1024


def _windows_memory() -> tuple[int, int]:
    class Status(ctypes.Structure):  # MEMORYSTATUSEX, sysinfoapi.h
        _fields_ = (
            ("length", ctypes.c_ulong),
            ("load", ctypes.c_ulong),
            ("total", ctypes.c_ulonglong),
            ("available", ctypes.c_ulonglong),
            ("rest", ctypes.c_ulonglong * 5),
        )

    status = Status(length=ctypes.sizeof(Status))
    kernel = ctypes.CDLL("kernel32")
    kernel.GlobalMemoryStatusEx(ctypes.byref(status))
    return status.total, status.available


def _mac_memory() -> tuple[int, int]:
    """hw.memsize, and free plus inactive pages by vm_stat."""
    import re
    import subprocess

    def ask(*command: str) -> str:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout

    total = int(ask("/usr/sbin/sysctl", "-n", "hw.memsize"))
    report = ask("/usr/bin/vm_stat")
    page = int(re.search(r"page size of (\d+)", report)[1])  # type: ignore[index] # it always says so
    pages = sum(
        int(count)
        for kind, count in re.findall(r"Pages (\w+):\s+(\d+)", report)
        if kind in ("free", "inactive", "speculative", "purgeable")
    )
    return total, pages * page


def peak_resident() -> int:
    """The most RAM, in bytes, that this process ever held: mapped weights that it read too."""
    if sys.platform == "win32":
        return _windows_peak()
    held = _status(Path("/"), "VmHWM")
    if held:  # getrusage counts what the parent held before
        return held
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def _windows_peak() -> int:
    size_t = ctypes.c_size_t

    class Counters(ctypes.Structure):  # PROCESS_MEMORY_COUNTERS, psapi.h
        _fields_ = (
            ("size", ctypes.c_ulong),
            ("faults", ctypes.c_ulong),
            ("peak", size_t),
            ("rest", size_t * 7),
        )

    counters = Counters(size=ctypes.sizeof(Counters))
    kernel = ctypes.CDLL("kernel32")
    kernel.GetCurrentProcess.restype = ctypes.c_void_p
    kernel.K32GetProcessMemoryInfo.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_ulong]
    kernel.K32GetProcessMemoryInfo(
        kernel.GetCurrentProcess(), ctypes.byref(counters), counters.size
    )
    return int(counters.peak)
