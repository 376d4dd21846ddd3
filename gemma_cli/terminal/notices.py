"""What is said beside the answer: on stderr, cleaned, broken between words on a terminal."""

from __future__ import annotations

import os
import sys
from typing import TextIO

from gemma_cli.terminal.sanitize import clean


def say(text: str) -> None:
    """Tell whoever sits there, or reads the log, something that they should know."""
    tell(f"gemma: {text}")


def tell(text: str) -> None:
    """A text on stderr that says itself who speaks."""
    print(filled(clean(text), sys.stderr), file=sys.stderr, flush=True)


def filled(text: str, stream: TextIO) -> str:
    """Lines longer than the stream's terminal broken between words, indented as they begin.

    A path or a command's word stays whole. What goes elsewhere stays as it is.
    """
    width = os.get_terminal_size(stream.fileno()).columns if stream.isatty() else 0
    lines = text.split("\n")
    return "\n".join(_fill(line, width) if len(line) > width > 0 else line for line in lines)


def _fill(line: str, width: int) -> str:
    import textwrap

    indent = line[: len(line) - len(line.lstrip(" "))]
    return textwrap.fill(
        line,
        width,
        subsequent_indent=indent if len(indent) < width // 2 else "",
        break_on_hyphens=False,
        break_long_words=False,
    )
