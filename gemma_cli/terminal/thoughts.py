"""What a model thinks aloud: dim on stderr, apart from the answer."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol, TextIO

from gemma_cli.terminal.sanitize import clean

_DIM, _PLAIN = "\x1b[2m", "\x1b[0m"


class Show(Protocol):
    """Takes an answer piece by piece. thought: the model thinks aloud."""

    def __call__(self, text: str, *, thought: bool = False) -> None: ...


class View(Protocol):
    """A place for text that comes in pieces."""

    def feed(self, text: str) -> None: ...

    def close(self) -> None: ...


class Thoughts:
    """Thoughts below a heading, as they come. dim: with style; else words tell where they end."""

    def __init__(self, out: TextIO, heading: str = "Thinking", *, dim: bool) -> None:
        self._out, self._dim = out, dim
        self._ends = "The thoughts end here." if heading == "Thinking" else f"{heading}: the end."
        self._write(f"{heading}\n" if dim else f"{heading}:\n")

    def feed(self, text: str) -> None:
        self._write(clean(text))

    def close(self) -> None:
        self._write("\n\n" if self._dim else f"\n({self._ends})\n\n")

    def _write(self, text: str) -> None:
        self._out.write(f"{_DIM}{text}{_PLAIN}" if self._dim and text.strip() else text)
        self._out.flush()


class ThoughtsAndAnswer:
    """Gives each piece to the view that it belongs to; a view ends before the other begins."""

    def __init__(self, thoughts: Callable[[], View], answer: Callable[[], View]) -> None:
        self._thoughts, self._answer = thoughts, answer
        self._view: View | None = None
        self._in_thought = False

    def show(self, text: str, *, thought: bool = False) -> None:
        if self._view is None or thought is not self._in_thought:
            self.close()
            self._in_thought = thought
            self._view = self._thoughts() if thought else self._answer()
        self._view.feed(text)

    def close(self) -> None:
        view, self._view = self._view, None
        if view is not None:
            view.close()
