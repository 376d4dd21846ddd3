"""Turns from a pipe, a file or a terminal that cannot be edited on: a line is a turn."""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import BinaryIO

from gemma_cli.terminal.sanitize import strip_controls

QUOTES = '"""'
_CONTINUE = "\\"


@dataclass(frozen=True, slots=True)
class Entry:
    """A turn as entered. literal: pasted or between triple quotes, so never a command."""

    text: str
    literal: bool = False


def is_open(text: str) -> bool:
    """Whether more lines must come: a triple quote not closed, or a backslash at the end."""
    stripped = text.strip()
    if stripped.startswith(QUOTES):
        return len(stripped) < 2 * len(QUOTES) or not stripped.endswith(QUOTES)
    return _continues(text)


def _continues(text: str) -> bool:
    quoted = text.lstrip().startswith(QUOTES)
    return text.endswith(_CONTINUE) and not text.endswith(_CONTINUE * 2) and not quoted


def entered(text: str, literal: bool = False) -> Entry:
    """The turn that complete text stands for: controls and triple quotes taken off."""
    text = strip_controls(text)
    stripped = text.strip()
    if not literal and stripped.startswith(QUOTES) and not is_open(text):
        inner = stripped.removeprefix(QUOTES).removesuffix(QUOTES)
        return Entry(inner.strip("\n"), literal=True)
    return Entry(text, literal)


class LineReader:
    """Reads turns line by line, waiting for each.

    interactive: a person types on a terminal; a prompt is written to stderr.
    say: told once when bytes are no UTF-8 (they become U+FFFD).
    multiline: a turn goes on to the next empty line; a command is one line still.
    """

    prefills = False
    multiline = False

    def __init__(self, source: BinaryIO, interactive: bool, say: Callable[[str], None]) -> None:
        self.interactive = interactive
        self._say = say
        self._told = False
        self._source = source
        self._first = True

    def read(self, initial: str = "") -> Entry | None:
        """The next turn. initial: what is to be changed; here it can only be shown."""
        if initial and self.interactive:
            self._say(f"to be changed:\n{initial}")
        text = self._line(">>> ")
        if text is None:
            return None
        if self.multiline and text and not text.startswith("/"):
            return self._lines_after(text)
        while is_open(text):
            more = self._line("... ")
            if more is None:
                return self._at_the_end(text)
            if _continues(text):
                text = text.removesuffix(_CONTINUE)
            text = f"{text}\n{more}"
        return entered(text)

    def _at_the_end(self, text: str) -> Entry:
        """What an input left open that ended."""
        if text.lstrip().startswith(QUOTES):
            self._say(f"The input ended before {QUOTES} closed the text: it is taken as it is.")
            text = f"{text}\n{QUOTES}"
        return entered(text)

    def _lines_after(self, first: str) -> Entry:
        lines = [first]
        while more := self._line("... "):
            lines.append(more)
        return entered("\n".join(lines))

    def confirm(self, question: str) -> bool:
        if not self.interactive:
            return False
        try:
            answer = self._line(f"{question} [y/N] ")
        except KeyboardInterrupt:
            sys.stderr.write("\n")
            return False
        return (answer or "").strip().lower() in ("y", "yes")

    def interrupt(self) -> bool:
        return False  # a read in the kernel cannot be ended from here

    def refresh(self) -> None:
        pass  # nothing stands there

    def _line(self, prompt: str) -> str | None:
        with _interruptible():
            if self.interactive:
                sys.stderr.write(prompt)
                sys.stderr.flush()
            line = self._read_line()
        return self._decoded(line).rstrip("\r\n") if line else None

    def _decoded(self, line: bytes) -> str:
        text = line.decode("utf-8", "replace")
        if self._first:
            text = text.removeprefix("\ufeff")
            self._first = False
        if "\ufffd" in text and not self._told and b"\xef\xbf\xbd" not in line:
            self._told = True
            self._say("The input is not all UTF-8: what could not be read became \ufffd.")
        return text

    def _read_line(self) -> bytes:
        try:
            return self._source.readline()
        except OSError as error:
            self._say(f"The input cannot be read: {error.strerror or error}")
            return b""


@contextmanager
def _interruptible() -> Iterator[None]:
    """Inside, Ctrl-C raises KeyboardInterrupt, whatever it does elsewhere."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
