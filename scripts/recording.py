"""A shell in a pseudo-terminal that somebody seems to sit at, and what its screen shows when."""

from __future__ import annotations

import fcntl
import os
import pty
import random
import re
import select
import struct
import subprocess
import termios
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pyte

_CURSOR_QUERY = b"\x1b[6n"
_HOLD, _RELEASE = b"\x1b[?2026h", b"\x1b[?2026l"  # nothing between them is to be seen yet
_PROMPT = r"(?m)^\$ ?\Z"


@dataclass(frozen=True, slots=True)
class Style:
    """How a run of text looks. fg, bg: pyte's names of colours, or six hexadecimal digits."""

    fg: str = "default"
    bg: str = "default"
    bold: bool = False
    italic: bool = False
    underline: bool = False
    dim: bool = False


@dataclass(frozen=True, slots=True)
class Run:
    """Text of one style from a column on; cells: how many columns it takes."""

    column: int
    cells: int
    text: str
    style: Style


Row = tuple[Run, ...]


@dataclass(frozen=True, slots=True)
class Frame:
    """The screen from some second on."""

    at: float
    rows: tuple[Row, ...]


class _Screen(pyte.Screen):
    """A screen that knows faint text, which pyte leaves out: kept as its blinking."""

    def select_graphic_rendition(self, *attrs: int, **_: Any) -> None:
        told = {2: (5,), 22: (22, 25)}
        # 38 and 48 take the numbers after them.
        plain = not {38, 48} & set(attrs)
        known = [each for attr in attrs for each in (told.get(attr, (attr,)) if plain else (attr,))]
        super().select_graphic_rendition(*known)


class Recording:
    """A shell in a terminal of that size. Use as a context manager.

    Pauses in which nothing changes are shortened to `longest_pause` seconds.
    """

    def __init__(
        self, env: Mapping[str, str], folder: str, columns: int, lines: int, longest_pause: float
    ) -> None:
        self.frames: list[Frame] = []
        self._screen = _Screen(columns, lines)
        self._stream = pyte.ByteStream(self._screen)
        self._longest_pause = longest_pause
        self._saved = 0.0  # seconds of pauses that were left out
        self._holding = False
        self._rhythm = random.Random(7)
        self._master, slave = pty.openpty()
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))
        self._started = time.monotonic()
        self._process = subprocess.Popen(
            ["bash", "--noprofile", "--norc", "-i"],
            stdin=slave,
            stdout=slave,
            stderr=slave,
            cwd=folder,
            env={**env, "PS1": "$ ", "TERM": "xterm-256color", "PROMPT_COMMAND": ""},
            start_new_session=True,
            preexec_fn=_take_terminal,
        )
        os.close(slave)

    def __enter__(self) -> Recording:
        self.wait_for(_PROMPT)
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait()
        os.close(self._master)

    def text(self) -> str:
        """The screen without spaces at line ends and empty lines at the end."""
        return "\n".join(row.rstrip() for row in self._screen.display).rstrip()

    def type(self, text: str, pace: float = 1.0) -> None:
        """Key by key, as a person does. pace: 0.5 is twice as fast."""
        for key in text:
            os.write(self._master, key.encode())
            hesitation = 0.12 if key in " ,.:/@" else 0.0
            self.watch(pace * (self._rhythm.uniform(0.03, 0.09) + hesitation))

    def press(self, keys: str) -> None:
        """Keys at once, such as Enter or a control key."""
        os.write(self._master, keys.encode())
        self.watch(0.05)

    def command(self, line: str, pace: float = 1.0, timeout: float = 120) -> None:
        """Type a command to the shell, and wait until it has ended."""
        self.type(line, pace)
        self.watch(0.3 * pace)
        self.press("\r")
        self.wait_for(_PROMPT, timeout)

    def watch(self, seconds: float) -> None:
        """Look on for so long."""
        deadline = time.monotonic() + seconds
        while (left := deadline - time.monotonic()) > 0:
            self._read(left)

    def wait_for(self, pattern: str, timeout: float = 120) -> None:
        """Look on until the screen matches. Raises SystemExit with the screen if it never does."""
        deadline = time.monotonic() + timeout
        while not re.search(pattern, self.text()):
            if time.monotonic() > deadline:
                raise SystemExit(f"{pattern!r} did not appear in:\n{self.text()}")
            self._read(0.1)

    def _read(self, timeout: float) -> None:
        ready, _, _ = select.select([self._master], [], [], timeout)
        if not ready:
            return
        try:
            data = os.read(self._master, 65536)
        except OSError:  # EIO: the shell has ended
            raise SystemExit(f"the shell has ended:\n{self.text()}") from None
        before, query, after = data.partition(_CURSOR_QUERY)
        while query:
            self._stream.feed(before)
            cursor = self._screen.cursor
            os.write(self._master, f"\x1b[{cursor.y + 1};{cursor.x + 1}R".encode())
            before, query, after = after.partition(_CURSOR_QUERY)
        self._stream.feed(before)
        hold, release = data.rfind(_HOLD), data.rfind(_RELEASE)
        if hold != release:
            self._holding = hold > release
        if not self._holding:
            self._keep_frame()

    def _keep_frame(self) -> None:
        now = time.monotonic() - self._started - self._saved
        rows = tuple(self._row(line) for line in range(self._screen.lines))
        if self.frames and rows == self.frames[-1].rows:
            return
        if self.frames and now - self.frames[-1].at > self._longest_pause:
            self._saved += now - self.frames[-1].at - self._longest_pause
            now = self.frames[-1].at + self._longest_pause
        self.frames.append(Frame(now, rows))

    def _row(self, line: int) -> Row:
        cells = self._screen.buffer[line]
        cursor = self._screen.cursor
        runs: list[Run] = []
        for column in range(self._screen.columns):
            cell = cells[column]
            at_cursor = cursor.y == line and cursor.x == column and not cursor.hidden
            style = _style(cell, reverse=cell.reverse != at_cursor)
            last = runs[-1] if runs else None
            if last and last.style == style:
                runs[-1] = Run(last.column, last.cells + 1, last.text + cell.data, style)
            else:
                runs.append(Run(column, 1, cell.data, style))
        return tuple(trimmed for run in runs if (trimmed := _trimmed(run)) is not None)


def _trimmed(run: Run) -> Run | None:
    """The run without spaces around it that nobody can see."""
    if run.style.bg != "default" or run.style.underline:
        return run
    text = run.text.strip(" ")
    if not text:
        return None
    before = len(run.text) - len(run.text.lstrip(" "))
    after = len(run.text) - len(run.text.rstrip(" "))
    return Run(run.column + before, run.cells - before - after, text, run.style)


def _style(cell: Any, *, reverse: bool) -> Style:
    fg, bg = cell.fg, cell.bg
    if reverse:
        fg, bg = ("back" if bg == "default" else bg), ("text" if fg == "default" else fg)
    return Style(fg, bg, cell.bold, cell.italics, cell.underscore, cell.blink)


def _take_terminal() -> None:
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)
