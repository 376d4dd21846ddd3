"""An answer as Markdown while it streams: what is settled is printed once, the rest repainted.

The tail that is not settled yet is parsed again at each repaint, and it alone.
A repaint replaces the lines of the tail in one synchronized update (DEC mode
2026), so nothing flickers and the scrollback holds every line once.
"""

from __future__ import annotations

import os
import time
from typing import TextIO

from gemma_cli.terminal.blocks import Before, LineRenderer, Unit, make_parser, parse
from gemma_cli.terminal.keyboard import stops
from gemma_cli.terminal.sanitize import clean

_FRAME_S = 1 / 30
# At most one part in so many of the time goes into painting, however long the tail.
_PAINT_SHARE = 8
_SLOWEST_FRAME_S = 1.0

_BEGIN_UPDATE, _END_UPDATE = "\x1b[?2026h", "\x1b[?2026l"
# From the second column: a screen that is cleared from its very first cell goes into the
# scrollback in tmux.
_ERASE_BELOW = "\x1b[2K\x1b[C\x1b[J\r"
_NO_WRAP, _WRAP = "\x1b[?7l", "\x1b[?7h"


class StreamingMarkdown:
    """One answer on its way to a terminal. feed it, then close it.

    live: repaint the unsettled tail; without it only settled text is written,
    for output that is styled though it is no terminal.

    A tail taller than the screen shows its last lines until it is settled: its
    first lines may still change, and the scrollback cannot. When the window is
    made narrower some terminals break the painted lines anew; then a few lines of
    the tail may stay behind, but no settled line is ever painted over.
    """

    def __init__(self, out: TextIO, live: bool, colour: bool) -> None:
        self._out, self._live = out, live
        self._parser = make_parser()
        self._renderer = LineRenderer(colour)
        self._tail = ""
        self._before = Before()
        self._empty = True
        self._painted = 0
        self._stops = stops()
        self._next_frame = 0.0
        self._has_new_line = False

    def feed(self, text: str) -> None:
        """Take in some text; paint if it is time to."""
        text = clean(text)
        self._tail += text
        self._has_new_line = self._has_new_line or "\n" in text
        started = time.monotonic()
        if started < self._next_frame:
            return
        self._paint()
        cost = time.monotonic() - started
        self._next_frame = started + min(max(_FRAME_S, cost * _PAINT_SHARE), _SLOWEST_FRAME_S)

    def close(self) -> None:
        """Settle and print what is left."""
        width, _ = self._size()
        self._replace(self._render(self._parse(self._tail), width), [])
        self._tail = ""

    def _paint(self) -> None:
        width, height = self._size()
        settled = self._settle(width) if self._has_new_line else []
        if self._live:
            live = self._render(self._parse(self._tail), width)
            self._replace(settled, live[-max(height - 1, 1) :])
        elif settled:
            self._replace(settled, [])

    def _settle(self, width: int) -> list[str]:
        """Take what is final out of the tail; its lines, to be printed for good."""
        self._has_new_line = False
        # A line that is not complete may still turn into part of the block before.
        units = self._parse(self._tail[: self._tail.rfind("\n") + 1])
        if len(units) < 2:
            return []
        *final, rest = units
        printed = self._render(final, width)
        self._empty = self._empty and not printed
        lines = self._tail.split("\n")
        cut = rest.first_line
        if rest.kind == "code" and rest.glued:
            # The opening fence stays, the settled code below it goes.
            done = sum(len(unit.code) for unit in final if unit.first_line == cut)
            del lines[cut + 1 : cut + 1 + done]
            self._before = Before("code", context=rest.context)
        else:
            self._before = Before("item", rest.number) if rest.glued else Before()
        self._tail = "\n".join(lines[cut:])
        return printed

    def _render(self, units: list[Unit], width: int) -> list[str]:
        lines: list[str] = []
        for unit in units:
            shown = self._renderer.lines(unit, width)
            if shown and not unit.glued and not (self._empty and not lines):
                lines.append("")
            lines += shown
        return lines

    def _parse(self, text: str) -> list[Unit]:
        return parse(self._parser, text, self._before)

    def _replace(self, settled: list[str], live: list[str]) -> None:
        """Print settled lines for good and the tail below, over the tail as it was."""
        if stops() != self._stops:  # the shell wrote below it: painted anew below that
            self._stops, self._painted = stops(), 0
        up = f"\x1b[{self._painted}A" if self._painted else ""
        erase = f"\r{up}{_ERASE_BELOW}" if self._painted else ""
        body = "".join(f"{line}\n" for line in settled)
        tail = "".join(f"{line}\n" for line in live)
        if self._live:
            # A line wider than it was thought to be must not take a second row.
            tail = f"{_NO_WRAP}{tail}{_WRAP}" if tail else ""
            frame = f"{_BEGIN_UPDATE}{erase}{body}{tail}{_END_UPDATE}"
        else:
            frame = body
        self._out.write(frame)
        self._out.flush()
        self._painted = len(live)

    def _size(self) -> tuple[int, int]:
        try:
            size = os.get_terminal_size(self._out.fileno())
        except (OSError, ValueError, AttributeError):
            return 80, 24
        return size.columns or 80, size.lines or 24
