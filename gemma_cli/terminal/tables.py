"""Plain tables and sizes: the same characters on a terminal and in a pipe."""

from __future__ import annotations

import shutil
import sys
import textwrap
import unicodedata
from collections.abc import Sequence

from gemma_cli.terminal.sanitize import clean_line

_GAP = "  "
_LEAST = 8  # of the last column


def table(header: Sequence[str], rows: Sequence[Sequence[str]], right: Sequence[int] = ()) -> str:
    """Columns side by side, those in `right` aligned to the right.

    On a narrow terminal the columns move together, and the last one is cut to the width
    that is left; a pipe gets it whole.
    """
    cells = [[clean_line(cell) for cell in row] for row in (header, *rows)]
    widths = [max(map(_cells, (row[i] for row in cells))) for i in range(len(header))]
    least, gaps = min(widths[-1], _LEAST), len(widths) - 1
    gap = _GAP if sum(widths[:-1]) + least + len(_GAP) * gaps <= columns() else " "
    room = columns() - sum(widths[:-1]) - len(gap) * gaps
    widths[-1] = min(widths[-1], max(room, _LEAST))
    return "\n".join(_line(row, widths, right, gap) for row in cells)


def hanging(label: str, text: str) -> str:
    """A label and its text; on a terminal the text goes on below its own beginning.

    What is longer than a line, a path or a command, stays in one piece.
    """
    room = max(columns() - _cells(label), 20)
    lines = textwrap.wrap(text, room, break_on_hyphens=False, break_long_words=False)
    return label + f"\n{' ' * _cells(label)}".join(lines)


def _line(row: Sequence[str], widths: Sequence[int], right: Sequence[int], gap: str) -> str:
    cells = []
    for i, (cell, width) in enumerate(zip(row, widths, strict=True)):
        text = _cut(cell, width)
        space = " " * (width - _cells(text))
        cells.append(space + text if i in right else text + space)
    return gap.join(cells).rstrip()


def _cells(text: str) -> int:
    """How wide a terminal shows it: East Asian characters take two cells, accents none."""
    return len(text) if text.isascii() else sum(map(_cell, text))


def _cell(character: str) -> int:
    if unicodedata.category(character) in ("Mn", "Me", "Cf"):
        return 0
    return 2 if unicodedata.east_asian_width(character) in "WF" else 1


def _cut(text: str, width: int) -> str:
    """The beginning that fits, with a mark where something is missing."""
    if _cells(text) <= width:
        return text
    room, kept = width - 1, 0
    while kept < len(text) and (room := room - _cell(text[kept])) >= 0:
        kept += 1
    return f"{text[:kept]}…"


def columns() -> int:
    """How wide the terminal is that stdout goes to; in a pipe as wide as one likes."""
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else 1 << 30


def size(count: int | None, *, about: bool = False) -> str:
    """Bytes as people read them: 2.49 GB; "?" when unknown, a tilde when rounded."""
    if count is None:
        return "?"
    value, unit = float(count), "B"
    for larger in ("kB", "MB", "GB", "TB"):
        if value < 999.5:
            break
        value, unit = value / 1000, larger
    digits = 2 if unit in ("GB", "TB") and value < 100 else 0
    return f"{'~' if about else ''}{value:.{digits}f} {unit}"


def duration(seconds: float) -> str:
    """0:07, 12:30, 1:02:03."""
    whole = int(seconds)
    hours, minutes = whole // 3600, whole // 60 % 60
    return f"{hours}:{minutes:02}:{whole % 60:02}" if hours else f"{minutes}:{whole % 60:02}"
