#!/usr/bin/env python3
"""How long the commands take that a person runs without thinking: process start to exit.

usage: scripts/bench_startup.py [--rounds N] [--check]

Medians over rounds in which the commands take turns, beside their limits.
--check: exit 1 where a median is over its limit.
"""

from __future__ import annotations

import argparse
import shutil
import statistics
import subprocess
import sys
import time
from pathlib import Path

_LIMITS_MS: dict[tuple[str, ...], int] = {("--version",): 40, ("--help",): 150, ("list",): 250}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=11)
    parser.add_argument("--check", action="store_true")
    arguments = parser.parse_args()
    gemma = shutil.which("gemma", path=str(Path(sys.executable).parent))
    if gemma is None:
        sys.exit("no gemma beside this Python: run scripts/demo, then .venv/bin/python " + __file__)
    times: dict[tuple[str, ...], list[float]] = {command: [] for command in _LIMITS_MS}
    times[("bare python",)] = []
    for _ in range(arguments.rounds + 1):
        for command, measured in times.items():
            measured.append(_time(gemma, command))
    slow = False
    for command, measured in times.items():
        median = statistics.median(measured[1:])
        limit = _LIMITS_MS.get(command)
        slow |= limit is not None and median > limit
        shown = f"   (limit {limit})" if limit else ""
        name = " ".join(command) if limit is None else " ".join(("gemma", *command))
        print(f"{name:16}{median:7.0f} ms   min {min(measured[1:]):.0f}{shown}")
    return 1 if slow and arguments.check else 0


def _time(gemma: str, command: tuple[str, ...]) -> float:
    """Milliseconds of one whole process."""
    line = [gemma, *command] if command in _LIMITS_MS else [sys.executable, "-c", "pass"]
    start = time.perf_counter()
    subprocess.run(line, stdin=subprocess.DEVNULL, capture_output=True, check=True)
    return (time.perf_counter() - start) * 1000


if __name__ == "__main__":
    sys.exit(main())
