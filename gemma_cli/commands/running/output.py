"""Where the answer of `gemma run` goes: stdout as it comes, without Markdown, or its code alone."""

from __future__ import annotations

import sys
from typing import Protocol

from gemma_cli.chat.codeblocks import CodeLines
from gemma_cli.errors import UsageError
from gemma_cli.terminal.sanitize import clean


class Output(Protocol):
    """enough: what comes after is of no use."""

    enough: bool

    def feed(self, text: str) -> None: ...

    def close(self) -> None:
        """A thought begins; the answer may go on after it."""

    def end(self) -> None:
        """The answer has ended, whatever ended it."""


def output_for(form: str, *, extract: bool, as_json: bool) -> Output:
    """What was asked for. Raises UsageError for what cannot go together."""
    if form not in ("md", "text"):
        raise UsageError(f"--format takes md or text, not '{form}'")
    if as_json and (extract or form == "text"):
        other = "--extract" if extract else "--format text"
        raise UsageError(f"--json holds the whole answer as it is: it takes no {other}")
    if extract and form == "text":
        raise UsageError("--extract gives code as it is: it takes no --format text")
    if as_json:
        return Unseen()
    if extract:
        return FirstBlock()
    return Plain() if form == "text" else Stdout()


class Unseen:
    """Nothing is written as it comes."""

    enough = False

    def feed(self, text: str) -> None:
        pass

    def close(self) -> None:
        pass

    def end(self) -> None:
        pass


class Stdout:
    """The text as it is. A text file ends with a newline, and so does an answer."""

    enough = False

    def __init__(self) -> None:
        self._screen = sys.stdout.isatty()
        self._last = "\n"

    def feed(self, text: str) -> None:
        if text:
            self._last = text[-1]
            sys.stdout.write(clean(text) if self._screen else text)
            sys.stdout.flush()

    def close(self) -> None:
        pass

    def end(self) -> None:
        if self._last != "\n":
            self.feed("\n")


class Plain(Stdout):
    """The text with its Markdown taken off, block by block."""

    def __init__(self) -> None:
        from gemma_cli.terminal.plaintext import PlainText

        super().__init__()
        self._plain = PlainText()

    def feed(self, text: str) -> None:
        super().feed(self._plain.feed(text))

    def end(self) -> None:
        super().feed(self._plain.end())
        super().end()


class FirstBlock(Stdout):
    """The code of the first fenced block, line by line.

    found: there is one. cut: its closing fence did not come.
    """

    def __init__(self) -> None:
        super().__init__()
        self._lines = CodeLines()
        self._rest = ""

    @property
    def found(self) -> bool:
        return self._lines.blocks > 0

    @property
    def cut(self) -> bool:
        return self._lines.inside

    def feed(self, text: str) -> None:
        *lines, self._rest = (self._rest + text).split("\n")
        for line in lines:
            self._take(line)

    def end(self) -> None:
        if self._rest:
            self._take(self._rest)
        self._rest = ""

    def _take(self, line: str) -> None:
        if self.enough:
            return
        code = self._lines.code(line)
        if code is not None:
            super().feed(f"{code}\n")
        self.enough = self.found and not self._lines.inside
