"""Where a chat's answers and notices appear: answers on stdout, all else on stderr."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, TextIO

from gemma_cli.terminal.keyboard import quiet_keys
from gemma_cli.terminal.notices import filled
from gemma_cli.terminal.sanitize import clean
from gemma_cli.terminal.thoughts import Thoughts, ThoughtsAndAnswer
from gemma_cli.terminal.waiting import Waiting

if TYPE_CHECKING:
    from gemma_cli.terminal.markdown import StreamingMarkdown
    from gemma_cli.terminal.thoughts import Show

_DIM, _RED, _PLAIN = "\x1b[2m", "\x1b[31m", "\x1b[0m"
_PREFILL = "evaluating the prompt"


def wants_style(stream: TextIO) -> bool:
    """Whether that stream gets styled text: a capable terminal, or the user insists."""
    if os.environ.get("TERM") == "dumb":
        return False
    forced = os.environ.get("FORCE_COLOR") or os.environ.get("CLICOLOR_FORCE", "0") != "0"
    return stream.isatty() or bool(forced)


def wants_colour() -> bool:
    """NO_COLOR and CLICOLOR=0 switch colour off; bold and dim stay."""
    return not os.environ.get("NO_COLOR") and os.environ.get("CLICOLOR", "1") != "0"


class ChatWriter:
    """Satisfies chat.interface's Writer. plain: words as they come, nothing painted twice."""

    def __init__(self, plain: bool) -> None:
        self._markdown = not plain and wants_style(sys.stdout)
        self._live = self._markdown and sys.stdout.isatty()
        self._style = not plain and wants_style(sys.stderr)
        self._colour = wants_colour()
        self._held: list[tuple[str, str]] | None = None

    @contextmanager
    def answer(self, prefill: Callable[[], float] | None = None) -> Iterator[Show]:
        with quiet_keys(), self._holding():
            both = ThoughtsAndAnswer(self._thoughts, self._view)
            try:
                with self._prefilling(prefill) as begin:

                    def show(text: str, *, thought: bool = False) -> None:
                        begin()
                        both.show(text, thought=thought)

                    yield show
            except BaseException:
                with suppress(OSError, ValueError):  # the terminal may be what is gone
                    both.close()
                raise
            both.close()
            if sys.stdout.isatty():
                sys.stdout.write("\n")  # air before the next prompt
                sys.stdout.flush()

    @contextmanager
    def aside(self, heading: str, prefill: Callable[[], float]) -> Iterator[Callable[[str], None]]:
        """What the model writes for the program's own use: dim, on stderr."""
        with quiet_keys():
            view = Thoughts(sys.stderr, heading, dim=self._style)
            try:
                with self._prefilling(prefill) as begin:

                    def show(text: str) -> None:
                        begin()
                        view.feed(text)

                    yield show
            finally:
                with suppress(OSError, ValueError):
                    view.close()

    @contextmanager
    def _holding(self) -> Iterator[None]:
        """What is told to a terminal meanwhile waits: repainting would erase it."""
        self._held = [] if sys.stderr.isatty() else None
        try:
            yield
        finally:
            held, self._held = self._held or [], None
            with suppress(OSError, ValueError):
                for style, text in held:
                    self._tell(style, text)

    def raw(self, text: str) -> None:
        """A text on stdout as it is; on a terminal without what could steer it."""
        sys.stdout.write(clean(text) if sys.stdout.isatty() else text)
        sys.stdout.flush()

    @contextmanager
    def loading(self, progress: Callable[[], float]) -> Iterator[None]:
        if progress() >= 1.0:
            yield
            return
        waiting = Waiting(
            "loading the model",
            progress,
            after=0.3,
            paints=self._paints,
            words="The model is loading.",
        )
        try:
            yield
        finally:
            waiting.end()

    @contextmanager
    def _prefilling(self, prefill: Callable[[], float] | None) -> Iterator[Callable[[], None]]:
        """What is called at the first word; until then one sees how much of the prompt is done."""
        if prefill is None:
            yield lambda: None
            return
        words = "The prompt is evaluated." if sys.stderr.isatty() else None
        waiting = Waiting(_PREFILL, prefill, after=1.0, paints=self._paints, words=words)
        try:
            yield waiting.end
        finally:
            waiting.end()

    def say(self, text: str) -> None:
        self._tell(_DIM, text)

    def error(self, message: str, hint: str | None) -> None:
        self._tell(_RED if self._colour else "", f"gemma: {message}")
        if hint:
            self._tell("", "\n".join(f"  {line}" for line in hint.rstrip("\n").split("\n")))

    def _thoughts(self) -> Thoughts:
        return Thoughts(sys.stderr, dim=self._style)

    def _view(self) -> PlainAnswer | StreamingMarkdown:
        if not self._markdown:
            return PlainAnswer(sys.stdout)
        from gemma_cli.terminal.markdown import StreamingMarkdown

        return StreamingMarkdown(sys.stdout, live=self._live, colour=self._colour)

    def _tell(self, style: str, text: str) -> None:
        if self._held is not None:
            self._held.append((style, text))
            return
        text = clean(text)
        if sys.stderr.isatty():
            text = filled(text, sys.stderr)
        if self._style and style:
            text = f"{style}{text}{_PLAIN}"
        sys.stderr.write(f"{text}\n")
        sys.stderr.flush()

    @property
    def _paints(self) -> bool:
        return self._style and sys.stderr.isatty()


class PlainAnswer:
    """An answer as plain text, flushed as it comes; ends with a newline."""

    def __init__(self, out: TextIO) -> None:
        self._out = out
        self._at_line_start = True

    def feed(self, text: str) -> None:
        text = clean(text)
        if text:
            self._out.write(text)
            self._out.flush()
            self._at_line_start = text.endswith("\n")

    def close(self) -> None:
        if not self._at_line_start:
            self._out.write("\n")
            self._out.flush()
