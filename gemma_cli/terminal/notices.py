"""What is said beside the answer: on stderr, cleaned, broken between words on a terminal."""

from __future__ import annotations

import os
import re
import sys
from typing import TextIO

from gemma_cli.terminal.sanitize import clean

_GAP = re.compile(r"(?<=\S) {2,}(?=\S)")


def say(text: str) -> None:
    """Tell whoever sits there, or reads the log, something that they should know."""
    tell(f"gemma: {text}")


def tell(text: str) -> None:
    """A text on stderr that says itself who speaks."""
    print(filled(clean(text), sys.stderr), file=sys.stderr, flush=True)


def filled(text: str, stream: TextIO) -> str:
    """Lines longer than the stream's terminal broken between words, indented as they begin.

    What stands in columns, two spaces apart, goes on below its own column, or a little
    indented where that would leave no room. A path or a command's word stays whole. What goes
    elsewhere stays as it is.
    """
    width = os.get_terminal_size(stream.fileno()).columns if stream.isatty() else 0
    lines = text.split("\n")
    return "\n".join(_fill(line, width) if len(line) > width > 0 else line for line in lines)


def _fill(line: str, width: int) -> str:
    import textwrap

    return textwrap.fill(
        line,
        width,
        subsequent_indent=" " * _hanging(line, width),
        break_on_hyphens=False,
        break_long_words=False,
    )


def _hanging(line: str, width: int) -> int:
    """How far the rest of a line that is too long is indented."""
    longest = max(map(len, line.split()), default=0)
    indent = len(line) - len(line.lstrip(" "))
    columns = [gap.end() for gap in _GAP.finditer(line)]
    wishes = [each for each in reversed(columns) if each <= width // 2]
    wishes += [indent + 4] if columns else []
    return next((wish for wish in (*wishes, indent) if wish + longest <= width), 0)
