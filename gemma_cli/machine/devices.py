"""What this computer has, as far as this process may use it."""

from __future__ import annotations

import ctypes
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from gemma_cli.models.ggml import open_library

Kind = Literal["cpu", "gpu", "igpu"]

_CGROUP = Path("/sys/fs/cgroup")
_CPUS = Path("/sys/devices/system/cpu")
# enum ggml_backend_dev_type (ggml-backend.h); accelerators (3) hold no layers.
_GGML_KINDS: dict[int, Kind] = {1: "gpu", 2: "igpu"}


@dataclass(frozen=True, slots=True)
class Device:
    """Memory that can hold weights or KV cache. Bytes; total 0 means unknown."""

    name: str
    kind: Kind
    total: int
    free: int


@dataclass(frozen=True, slots=True)
class Machine:
    """The host and its GPUs. threads: what llama.cpp should use for decoding."""

    host: Device
    gpus: tuple[Device, ...]
    threads: int


def this_machine() -> Machine:
    """Ask the system and ggml what is here now."""
    return Machine(host=host_memory(), gpus=gpus(), threads=usable_threads())


def host_memory() -> Device:
    """RAM that can be had without swapping: MemAvailable, bounded by the cgroup's limit."""
    total, free = _system_memory()
    limit, used = _cgroup_memory()
    if limit is not None:
        total = min(total, limit)
        free = min(free, max(0, limit - used))
    return Device("CPU", "cpu", total, free)


def available_memory() -> int:
    """Bytes of RAM that a model may take now."""
    return host_memory().free


def gpus() -> tuple[Device, ...]:
    """The GPUs that this build of llama.cpp can use, in its own order. Source: ggml-backend.h."""
    ggml, base = open_library("ggml"), open_library("ggml-base")
    ggml.ggml_backend_dev_count.restype = ctypes.c_size_t
    ggml.ggml_backend_dev_get.restype = ctypes.c_void_p
    ggml.ggml_backend_dev_get.argtypes = [ctypes.c_size_t]
    base.ggml_backend_dev_type.argtypes = [ctypes.c_void_p]
    base.ggml_backend_dev_description.restype = ctypes.c_char_p
    base.ggml_backend_dev_description.argtypes = [ctypes.c_void_p]
    size_p = ctypes.POINTER(ctypes.c_size_t)
    base.ggml_backend_dev_memory.argtypes = [ctypes.c_void_p, size_p, size_p]
    found = []
    for index in range(ggml.ggml_backend_dev_count()):
        device = ggml.ggml_backend_dev_get(index)
        kind = _GGML_KINDS.get(base.ggml_backend_dev_type(device))
        if kind is None:
            continue
        free, total = ctypes.c_size_t(), ctypes.c_size_t()
        base.ggml_backend_dev_memory(device, ctypes.byref(free), ctypes.byref(total))
        name = base.ggml_backend_dev_description(device).decode("utf-8", "replace")
        found.append(Device(name, kind, total.value, free.value))
    return tuple(found)


def usable_threads() -> int:
    """Physical cores that this process may use: affinity, cgroup quota, SMT siblings once."""
    cpus = _affinity()
    cores = {_first_sibling(cpu) for cpu in cpus}
    count = len(cores)
    quota = _cgroup_cpus()
    if quota is not None:
        count = min(count, max(1, int(quota)))
    return max(1, count)


def _affinity() -> set[int]:
    if sys.platform == "linux":
        return os.sched_getaffinity(0)
    return set(range(os.cpu_count() or 1))


def _first_sibling(cpu: int) -> int:
    siblings = _read(_CPUS / f"cpu{cpu}/topology/thread_siblings_list")
    if not siblings:
        return cpu
    return int(siblings.replace("-", ",").split(",")[0])


def _cgroup_cpus() -> float | None:
    """CPUs by the cgroup's quota: cpu.max of version 2, cpu.cfs_* of version 1."""
    limits = _read(_CGROUP / "cpu.max").split()
    if len(limits) == 2 and limits[0] != "max":
        return int(limits[0]) / int(limits[1])
    quota = _read(_CGROUP / "cpu/cpu.cfs_quota_us")
    period = _read(_CGROUP / "cpu/cpu.cfs_period_us")
    if quota and period and int(quota) > 0:
        return int(quota) / int(period)
    return None


def _cgroup_memory() -> tuple[int | None, int]:
    """(limit, used) in bytes; page cache that can be dropped does not count as used."""
    limit = _read(_CGROUP / "memory.max")
    if limit and limit != "max":
        used = int(_read(_CGROUP / "memory.current") or 0)
        return int(limit), max(0, used - _cgroup_file_cache("memory.stat"))
    limit = _read(_CGROUP / "memory/memory.limit_in_bytes")
    if limit and int(limit) < 1 << 60:  # version 1 writes nearly 2^63 for "no limit"
        used = int(_read(_CGROUP / "memory/memory.usage_in_bytes") or 0)
        return int(limit), max(0, used - _cgroup_file_cache("memory/memory.stat"))
    return None, 0


def _cgroup_file_cache(name: str) -> int:
    for line in _read(_CGROUP / name).splitlines():
        key, _, value = line.partition(" ")
        if key in ("inactive_file", "total_inactive_file"):
            return int(value)
    return 0


def _system_memory() -> tuple[int, int]:
    """(total, available) bytes of RAM."""
    if sys.platform == "linux":
        fields = dict(
            line.split(":", 1) for line in _read(Path("/proc/meminfo")).splitlines() if ":" in line
        )
        total, free = (int(fields[key].split()[0]) * 1024 for key in ("MemTotal", "MemAvailable"))
        return total, free
    if sys.platform == "win32":
        return _windows_memory()
    return _mac_memory()


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


def _read(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError:
        return ""
