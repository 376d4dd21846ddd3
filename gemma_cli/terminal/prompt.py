"""The prompt: lines, blocks, paste, search and completion, with a quiet toolbar below."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from prompt_toolkit import PromptSession
from prompt_toolkit.application import get_app
from prompt_toolkit.buffer import Buffer
from prompt_toolkit.completion import CompleteEvent, Completer, Completion
from prompt_toolkit.document import Document
from prompt_toolkit.filters import Condition, is_searching
from prompt_toolkit.formatted_text import FormattedText
from prompt_toolkit.history import History
from prompt_toolkit.input import create_input
from prompt_toolkit.key_binding import KeyBindings, KeyPressEvent
from prompt_toolkit.keys import Keys
from prompt_toolkit.layout.processors import Processor, Transformation, TransformationInput
from prompt_toolkit.output import create_output
from prompt_toolkit.styles import Style

from gemma_cli.terminal.lines import QUOTES, Entry, entered, is_open
from gemma_cli.terminal.sanitize import show_bidi, strip_controls
from gemma_cli.terminal.toolbar import Gauge, toolbar

_LOADING_REFRESH_S = 0.2

# The terminal's own palette: readable on light and on dark.
_STYLE = Style.from_dict(
    {
        "prompt": "bold",
        "placeholder": "fg:ansibrightblack",
        "bottom-toolbar": "noreverse fg:ansibrightblack",
        "gauge.full": "fg:ansired",
    }
)
_NO_COLOUR = Style.from_dict({"prompt": "bold", "bottom-toolbar": "noreverse"})


class PromptReader:
    """A person at a terminal. Satisfies chat.loop's Reader.

    complete: (line so far) -> (replacement of its last word, meaning).
    inputs: what was typed before, the latest first; remember: keeps a new one.
    typing: hears what is typed as it grows, and nothing at each new prompt.
    plain: no toolbar, no placeholder, nothing that moves (screen readers).
    multiline: Enter begins a new line, Alt-Enter sends; a command still needs only Enter.
    """

    interactive = True
    multiline = False

    def __init__(
        self,
        gauge: Callable[[], Gauge],
        complete: Callable[[str], Iterable[tuple[str, str]]],
        inputs: Callable[[], list[str]],
        remember: Callable[[str], None],
        typing: Callable[[str], None] = lambda _text: None,
        plain: bool = False,
        colour: bool = True,
    ) -> None:
        self._gauge = gauge
        self._typing = typing
        self._plain = plain
        self._pasted = False
        self._interrupted = False
        self._asking: PromptSession[str] | None = None
        self._remember = remember
        self._session: PromptSession[str] = PromptSession(
            message=[("class:prompt", ">>> ")],
            multiline=True,
            prompt_continuation=lambda _width, _number, _wrapped: "... ",
            key_bindings=self._bindings(),
            history=_Inputs(inputs, remember),
            completer=_SlashCompleter(complete),
            complete_while_typing=Condition(_is_command) & Condition(lambda: not plain),
            reserve_space_for_menu=6,
            placeholder=None if plain else _placeholder,
            bottom_toolbar=None if plain else self._toolbar,
            input_processors=[_ShownBidi()],
            style=_STYLE if colour else _NO_COLOUR,
            include_default_pygments_style=False,
            input=create_input(sys.stdin),
            output=create_output(sys.stdout if sys.stdout.isatty() else sys.stderr),
        )
        self._session.default_buffer.on_text_changed += self._on_text_changed

    def read(self, initial: str = "") -> Entry | None:
        # What was a message once is one again, whatever it looks like.
        self._pasted = initial.startswith(("/", QUOTES))
        if self._interrupted:
            return None
        try:
            text = self._session.prompt(default=initial, pre_run=self._on_start)
        except EOFError:
            return None
        return entered(text, literal=self._pasted)

    def confirm(self, question: str) -> bool:
        ask: PromptSession[str] = PromptSession(
            input=self._session.input, output=self._session.output
        )
        self._asking = ask
        try:
            answer = ask.prompt(f"{question} [y/N] ")
        except (EOFError, KeyboardInterrupt):
            return False
        finally:
            self._asking = None
        return answer.strip().lower() in ("y", "yes")

    def interrupt(self) -> bool:
        self._interrupted = True
        app = (self._asking or self._session).app
        if app.is_running and app.loop is not None:
            app.loop.call_soon_threadsafe(self._leave)
        return True

    async def _leave_at_once(self) -> None:
        self._leave()

    def _leave(self) -> None:
        app = (self._asking or self._session).app
        if app.is_running and not app.is_done:
            typed = self._session.default_buffer.text
            if typed.strip():
                self._remember(typed)  # it can be had again with the arrow keys
            app.exit(exception=EOFError)

    def _on_start(self) -> None:
        if self._interrupted:
            get_app().create_background_task(self._leave_at_once())
        self._typing(self._session.default_buffer.text)
        if not self._plain and self._gauge().loaded < 1.0:
            get_app().create_background_task(self._refresh_while_loading())

    async def _refresh_while_loading(self) -> None:
        while self._gauge().loaded < 1.0:
            await asyncio.sleep(_LOADING_REFRESH_S)
            get_app().invalidate()

    def _toolbar(self) -> FormattedText:
        return FormattedText(toolbar(self._gauge(), get_app().output.get_size().columns))

    def _on_text_changed(self, buffer: Buffer) -> None:
        if not buffer.text:
            self._pasted = False
        self._typing(buffer.text)

    def _bindings(self) -> KeyBindings:
        bindings = KeyBindings()
        add = bindings.add

        @add("enter", filter=~is_searching)
        def _send(event: KeyPressEvent) -> None:
            buffer = event.current_buffer
            if self.multiline and (self._pasted or not _is_command()):
                buffer.insert_text("\n")
            elif not self._pasted and is_open(buffer.text):
                buffer.cursor_position = len(buffer.text)
                if not buffer.text.lstrip().startswith('"""'):
                    buffer.delete_before_cursor()
                buffer.insert_text("\n")
            else:
                buffer.validate_and_handle()

        @add("escape", "enter")
        def _other_enter(event: KeyPressEvent) -> None:
            if self.multiline:
                event.current_buffer.validate_and_handle()
            else:
                event.current_buffer.insert_text("\n")

        @add("c-j")
        def _new_line(event: KeyPressEvent) -> None:
            event.current_buffer.insert_text("\n")

        @add(Keys.BracketedPaste)
        def _paste(event: KeyPressEvent) -> None:
            buffer = event.current_buffer
            text = event.data.replace("\r\n", "\n").replace("\r", "\n")
            at_start = not buffer.text[: buffer.cursor_position].strip()
            buffer.insert_text(strip_controls(text))
            # Only what was typed by hand at the beginning can make it a command.
            self._pasted = self._pasted or at_start

        @add("c-c")
        def _clear(event: KeyPressEvent) -> None:
            if event.current_buffer.text:
                event.current_buffer.reset()
                self._pasted = False
            else:
                event.app.exit(exception=KeyboardInterrupt, style="class:aborting")

        return bindings


def _placeholder() -> FormattedText:
    text = "" if get_app().is_done else "Send a message (/? for help)"
    return FormattedText([("class:placeholder", text)])


def _is_command() -> bool:
    text = get_app().current_buffer.text
    return text.startswith("/") and "\n" not in text


class _Inputs(History):
    """prompt_toolkit's history over functions that read and keep what was typed."""

    def __init__(self, read: Callable[[], list[str]], keep: Callable[[str], None]) -> None:
        super().__init__()
        self._read, self._keep = read, keep

    def load_history_strings(self) -> Iterable[str]:
        return self._read()

    def store_string(self, string: str) -> None:
        self._keep(strip_controls(string))


class _SlashCompleter(Completer):
    def __init__(self, complete: Callable[[str], Iterable[tuple[str, str]]]) -> None:
        self._complete = complete

    def get_completions(
        self,
        document: Document,
        complete_event: CompleteEvent,  # noqa: ARG002 - its signature
    ) -> Iterator[Completion]:
        line = document.text_before_cursor
        word = line.rpartition(" ")[2]
        for replacement, meaning in self._complete(line):
            yield Completion(replacement, -len(word), display_meta=meaning)


class _ShownBidi(Processor):
    """A pasted control that reorders text is shown as U+FFFD; the text keeps it."""

    def apply_transformation(self, transformation_input: TransformationInput) -> Transformation:
        fragments: Any = [
            (style, show_bidi(text), *handler)
            for style, text, *handler in transformation_input.fragments
        ]
        return Transformation(fragments)
