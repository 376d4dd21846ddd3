"""What the control groups of this process (cgroup version 1 or 2) leave it. Linux only."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

_MOUNT = "sys/fs/cgroup"
_NO_LIMIT = 1 << 60  # version 1 writes nearly 2^63 for "no limit"


def cpu_quota(root: Path = Path("/")) -> float | None:
    """CPUs that may be used at once, by the tightest quota of all groups above; None: no limit."""
    quotas = []
    for folder in _folders(root, "cpu"):
        limits = read(folder / "cpu.max").split()
        quota, period = limits if len(limits) == 2 else ("", "")
        if not quota:
            quota, period = read(folder / "cpu.cfs_quota_us"), read(folder / "cpu.cfs_period_us")
        if quota.isdigit() and period.isdigit() and int(quota) and int(period):
            quotas.append(int(quota) / int(period))
    return min(quotas, default=None)


def memory_room(root: Path = Path("/")) -> tuple[int, int] | None:
    """(smallest limit, smallest rest of a limit) in bytes over all groups above; None: no limit.

    Page cache that the kernel drops when memory is short does not count as used.
    """
    limits, rests = [], []
    for folder in _folders(root, "memory"):
        for limit_file, used_file, cache_key in (
            ("memory.max", "memory.current", "inactive_file"),
            ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
        ):
            limit = read(folder / limit_file)
            if not limit.isdigit() or int(limit) >= _NO_LIMIT:
                continue
            used = read(folder / used_file)
            cache = _statistic(folder / "memory.stat", cache_key)
            limits.append(int(limit))
            rests.append(int(limit) - max(0, (int(used) if used.isdigit() else 0) - cache))
    return (min(limits), max(0, min(rests))) if limits else None


def _folders(root: Path, controller: str) -> Iterator[Path]:
    """The groups that count for this process, from its own to the topmost that can be seen.

    A container often sees its own group as the top, under a path of the host's.
    """
    for line in read(root / "proc/self/cgroup").splitlines() or ["0::/"]:
        _, names, path = line.split(":", 2)
        if names == "":
            mounts = [root / _MOUNT]
        elif controller in names.split(","):
            mounts = [root / _MOUNT / controller, root / _MOUNT / names]
        else:
            continue
        mount = next((folder for folder in mounts if folder.is_dir()), None)
        if mount is None:
            continue
        own = mount / path.lstrip("/")
        yield from (folder for folder in (own, *own.parents) if folder.is_relative_to(mount))


def _statistic(path: Path, key: str) -> int:
    for line in read(path).splitlines():
        name, _, value = line.partition(" ")
        if name == key and value.isdigit():
            return int(value)
    return 0


def read(path: Path) -> str:
    """A small file of the kernel's, "" if it is not there or not for us."""
    try:
        return path.read_text(errors="replace").strip()
    except OSError:
        return ""
