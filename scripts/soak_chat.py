"""End `gemma chat` at random moments, again and again, and look at what its history kept.

usage: scripts/soak_chat.py [--model NAME] [--rounds N] [--seed N]

Each round starts the real program on the real model, hands it a few turns, and
sends SIGHUP, SIGTERM or SIGKILL: in N rounds while a long answer streams, in a
quarter as many before that, while it loads, evaluates or answers in short. Then:
the database is sound, every turn whose end was told is there and complete, and
of the answer on its way at most half a second is missing.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

SHORT = ("Name a colour.", "Name an animal.")
LONG = "Write: 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, and go on to 500."
TURNS = (
    f"/set max_tokens 6\n{SHORT[0]}\n/stats\n{SHORT[1]}\n/stats\n"
    f"/set max_tokens none\n/set temperature 0\n{LONG}\n/stats\n"
)
FINISHED = "since the start"  # /stats has answered, so the turn before it is over
STREAMING = "streaming"
LOST_S = 0.5
PATIENCE_S = 60.0


@dataclass
class Seen:
    """What came out of a stream, with the moment of each piece."""

    pieces: list[tuple[float, str]] = field(default_factory=list)

    def read(self, stream: IO[bytes]) -> None:
        while chunk := os.read(stream.fileno(), 65536):
            self.pieces.append((time.monotonic(), chunk.decode("utf-8", "replace")))

    def until(self, moment: float = float("inf")) -> str:
        return "".join(text for when, text in self.pieces if when <= moment)


def main() -> int:
    arguments = _arguments()
    chance = random.Random(arguments.seed)
    endings = [signal.SIGHUP, signal.SIGTERM, signal.SIGKILL]
    counts: Counter[str] = Counter()
    streamed = number = 0
    with tempfile.TemporaryDirectory() as home:
        while streamed < arguments.rounds:
            number += 1
            ending = chance.choice(endings)
            early = number % 5 == 0
            faults, stage = _round(
                arguments.model, home, ending, chance.uniform(0.0, 2.0), early=early
            )
            streamed += stage == STREAMING
            counts[f"{ending.name} while {stage}"] += 1
            for fault in faults:
                print(f"round {number}, {ending.name} while {stage}: {fault}")
            counts["faults"] += len(faults)
    for name, count in sorted(counts.items()):
        print(f"{name:<32}{count:>5}")
    return 1 if counts["faults"] else 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--model", default="gemma3:270m-pt")
    parser.add_argument("--rounds", type=int, default=200, help="while an answer streams")
    parser.add_argument("--seed", type=int, default=1)
    return parser.parse_args()


def _round(
    model: str, home: str, ending: signal.Signals, seconds: float, *, early: bool
) -> tuple[list[str], str]:
    """What went wrong, and what the program was doing when it was ended.

    seconds: after the start (early), or after the first words of the long answer.
    """
    before = _newest(home)
    process = subprocess.Popen(
        [sys.executable, "-m", "gemma_cli", "chat", "-m", model, "--threads", "1"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, "GEMMA_HOME": home, "GEMMA_KV_CACHE": "0"},
    )
    assert process.stdin is not None
    assert process.stdout is not None
    assert process.stderr is not None
    out, told = Seen(), Seen()
    readers = [
        threading.Thread(target=seen.read, args=(stream,))
        for seen, stream in ((out, process.stdout), (told, process.stderr))
    ]
    for reader in readers:
        reader.start()
    process.stdin.write(TURNS.encode())
    process.stdin.flush()
    if not early:
        _wait(lambda: told.until().count(FINISHED) >= len(SHORT))
        shown_before = len(out.until())
        _wait(lambda: len(out.until()) > shown_before)
    time.sleep(seconds)
    moment = time.monotonic()
    process.send_signal(ending)
    try:
        process.wait(timeout=20)
    except subprocess.TimeoutExpired:
        process.kill()
        return [f"did not end within 20 s of {ending.name}"], "ending"
    for reader in readers:
        reader.join()
    for stream in (process.stdin, process.stdout, process.stderr):
        stream.close()
    text = told.until()
    finished = text.count(FINISHED)
    faults = [] if "Traceback" not in text else ["a traceback: " + text[-500:]]
    if process.returncode not in (-ending, 128 + ending):
        faults.append(f"exit code {process.returncode}")
    return faults + _missing(home, before, finished, out.until(moment - LOST_S)), _stage(
        finished, out
    )


def _wait(happened: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not happened() and time.monotonic() < deadline:
        time.sleep(0.01)


def _stage(finished: int, out: Seen) -> str:
    if not out.pieces:
        return "loading"
    if finished < len(SHORT):
        return "in the first turns"
    return STREAMING if finished == len(SHORT) else "after the last turn"


def _newest(home: str) -> int:
    path = _database(home)
    if not path.exists():
        return 0
    with closing(sqlite3.connect(path)) as database:
        try:
            newest = database.execute("SELECT max(id) FROM conversation").fetchone()[0]
        except sqlite3.OperationalError:  # killed before it made its tables
            return 0
    return int(newest or 0)


def _database(home: str) -> Path:
    found = sorted(Path(home).rglob("history.db"))
    return found[0] if found else Path(home, "data", "history.db")


def _missing(home: str, before: int, finished: int, shown: str) -> list[str]:
    """What the history lacks of `finished` turns and of a text that was shown long enough ago."""
    path = _database(home)
    if not path.exists():
        return ["there is no history"] if finished else []
    with closing(sqlite3.connect(path)) as database:
        verdict = database.execute("PRAGMA integrity_check").fetchone()[0]
        if verdict != "ok":
            return [f"the database is damaged: {verdict}"]
        tables = database.execute("SELECT count(*) FROM sqlite_schema").fetchone()[0]
        rows = (
            database.execute(
                "SELECT role, status, text FROM message WHERE conversation_id > ? ORDER BY id",
                (before,),
            ).fetchall()
            if tables
            else []
        )
    faults = []
    said = [text for role, _, text in rows if role == "user"]
    if said != [*SHORT, LONG][: len(said)]:
        faults.append(f"other questions than were asked: {said}")
    answers = [(status, text) for role, status, text in rows if role == "assistant"]
    complete = [text for status, text in answers if status == "complete"]
    if len(complete) < finished:
        faults.append(f"{finished} turns were finished, {len(complete)} are complete")
    kept, seen = (_letters(text) for text in ("".join(text for _, text in answers), shown))
    if not kept.startswith(seen):
        faults.append(f"shown half a second before: …{seen[-60:]!r}, kept: …{kept[-60:]!r}")
    return faults


def _letters(text: str) -> str:
    """White space belongs to the screen: ends of answers, ends of lines."""
    return "".join(text.split())


if __name__ == "__main__":
    sys.exit(main())
