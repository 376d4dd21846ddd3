"""A download's progress on stderr: one line that moves on a terminal, some lines in a log."""

from __future__ import annotations

import os
import shutil
import sys
import time
from collections import deque

from gemma_cli.terminal.sanitize import clean_line
from gemma_cli.terminal.tables import duration, size

_REDRAW_S = 0.1
_LOG_S = 15.0
# The speed shown is that of the last seconds, not of the whole.
_WINDOW_S = 5.0


class ProgressLine:
    """One transfer at a time: start, update, end. Notes go above the moving line."""

    def __init__(self) -> None:
        self._moving = sys.stderr.isatty() and os.environ.get("TERM") != "dumb"
        self._label = ""
        self._drawn = False
        self._next = 0.0
        self._samples: deque[tuple[float, int]] = deque()

    def start(self, label: str) -> None:
        self.end()
        self._label = clean_line(label)
        self._samples.clear()
        self._next = 0.0 if self._moving else time.monotonic() + _LOG_S

    def update(self, done: int, total: int) -> None:
        now = time.monotonic()
        self._samples.append((now, done))
        while now - self._samples[0][0] > _WINDOW_S and len(self._samples) > 2:
            self._samples.popleft()
        if now < self._next and done < total:
            return
        self._next = now + (_REDRAW_S if self._moving else _LOG_S)
        if self._moving:
            self._draw(done, total)
        elif done < total:
            print(self._text(done, total), file=sys.stderr, flush=True)

    def note(self, text: str) -> None:
        self._wipe()
        print(clean_line(text), file=sys.stderr, flush=True)

    def end(self) -> None:
        self._wipe()

    def _draw(self, done: int, total: int) -> None:
        text = self._text(done, total)
        width = shutil.get_terminal_size().columns - 1
        room = width - len(text) - 2
        if room >= 10:
            filled = room * done // total if total else room
            text = f"{text}  {'█' * filled}{'░' * (room - filled)}"
        sys.stderr.write(f"\r\x1b[2K{text[:width]}")
        sys.stderr.flush()
        self._drawn = True

    def _text(self, done: int, total: int) -> str:
        percent = 100 * done // total if total else 100
        speed = self._speed()
        left = f"  {duration((total - done) / speed)} left" if speed and done < total else ""
        rate = f"  {size(int(speed))}/s" if speed else ""
        return f"{self._label[:44]} {percent:3}%  {size(done)} of {size(total)}{rate}{left}"

    def _speed(self) -> float:
        (t0, first), (t1, last) = self._samples[0], self._samples[-1]
        return (last - first) / (t1 - t0) if t1 > t0 else 0.0

    def _wipe(self) -> None:
        if self._drawn:
            sys.stderr.write("\r\x1b[2K")
            sys.stderr.flush()
            self._drawn = False
