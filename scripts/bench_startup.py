#!/usr/bin/env python3
"""How long the commands take that a person runs without thinking: process start to exit.

usage: scripts/bench_startup.py [--rounds N] [--check]

Medians over rounds in which the commands take turns, beside their limits; a Tab is one
completion in a bash that has read `gemma completion bash`. Of a chat: up to its prompt in
a pseudo-terminal, with the embedded model (loading goes on behind the prompt).
--check: exit 1 where a median is over its limit.
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

_TAB_LIMIT_MS = 30
_TABS = 50
_TAB = """source "$1"; COMP_LINE='gemma run --'; COMP_POINT=${#COMP_LINE}
time (for ((n = 0; n < $2; n++)); do _gemma; done)"""

_LIMITS_MS: dict[tuple[str, ...], int] = {("--version",): 40, ("--help",): 150, ("list",): 250}
_CHAT = ("chat", "gemma3:270m-pt", "--no-history")
if sys.platform != "win32":
    _LIMITS_MS[_CHAT] = 300


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
        print(f"{name:40}{median:7.0f} ms   min {min(measured[1:]):.0f}{shown}")
    tab = _time_of_tab(gemma)
    if tab is not None:
        slow |= tab > _TAB_LIMIT_MS
        print(f"{'a Tab in bash':40}{tab:7.2f} ms   (limit {_TAB_LIMIT_MS})")
    return 1 if slow and arguments.check else 0


def _time(gemma: str, command: tuple[str, ...]) -> float:
    """Milliseconds of one whole process."""
    if command == _CHAT:
        return _time_to_prompt([gemma, *command])
    line = [gemma, *command] if command in _LIMITS_MS else [sys.executable, "-c", "pass"]
    start = time.perf_counter()
    subprocess.run(line, stdin=subprocess.DEVNULL, capture_output=True, check=True)
    return (time.perf_counter() - start) * 1000


def _time_to_prompt(line: list[str]) -> float:
    """Milliseconds from the start of a chat to the bytes of its prompt."""
    import pty

    master, slave = pty.openpty()
    env = os.environ | {"TERM": "xterm-256color"}
    start = time.perf_counter()
    with subprocess.Popen(
        line, stdin=slave, stdout=slave, stderr=slave, env=env, start_new_session=True
    ) as chat:
        os.close(slave)
        shown = b""
        try:
            while b">>>" not in shown:
                shown += os.read(master, 65536)
        except OSError:
            sys.exit(f"no prompt came: {shown.decode(errors='replace')}")
        finally:
            elapsed = (time.perf_counter() - start) * 1000
            chat.kill()
            chat.wait()
            os.close(master)
    return elapsed


def _time_of_tab(gemma: str) -> float | None:
    """Milliseconds of one completion; None without bash."""
    bash = shutil.which("bash")
    if bash is None:
        return None
    with tempfile.NamedTemporaryFile("w", suffix=".bash") as script:
        subprocess.run([gemma, "completion", "bash"], stdout=script, check=True)
        done = subprocess.run(
            [bash, "--norc", "-c", f"TIMEFORMAT=%R; {_TAB}", "bash", script.name, str(_TABS)],
            capture_output=True,
            text=True,
            check=True,
        )
    return float(done.stderr) * 1000 / _TABS


if __name__ == "__main__":
    sys.exit(main())
