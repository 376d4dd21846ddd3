"""The prompt: lines, blocks, paste, search and completion, with a quiet toolbar below."""

from __future__ import annotations

import asyncio
import signal
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from prompt_toolkit import PromptSession
from prompt_toolkit.application import get_app, in_terminal
from prompt_toolkit.buffer import Buffer
from prompt_toolkit.document import Document
from prompt_toolkit.enums import EditingMode
from prompt_toolkit.eventloop import run_in_executor_with_context
from prompt_toolkit.filters import Condition, has_selection, is_searching
from prompt_toolkit.formatted_text import FormattedText
from prompt_toolkit.history import History
from prompt_toolkit.input import create_input
from prompt_toolkit.key_binding import KeyBindings, KeyPressEvent
from prompt_toolkit.key_binding.vi_state import InputMode
from prompt_toolkit.keys import Keys
from prompt_toolkit.layout.processors import Processor, Transformation, TransformationInput
from prompt_toolkit.output import create_output
from prompt_toolkit.output.color_depth import ColorDepth
from prompt_toolkit.shortcuts import CompleteStyle

from gemma_cli.errors import GemmaError
from gemma_cli.terminal.completer import Complete, CompletePath, chat_completer, is_completed
from gemma_cli.terminal.editor import Editor
from gemma_cli.terminal.lines import QUOTES, Entry, entered, is_open
from gemma_cli.terminal.pasting import with_a_way_out
from gemma_cli.terminal.quiet_renderer import QuietRenderer
from gemma_cli.terminal.sanitize import clean, show_hidden, strip_controls
from gemma_cli.terminal.styles import NO_STYLE, STYLE
from gemma_cli.terminal.toolbar import Gauge, toolbar

_LOADING_REFRESH_S = 0.2
_MENU_ROWS = 6
_PLACEHOLDER = "Send a message (/? for help)"
# Alt and a key come together; somebody who types Esc and a key takes longer.
_ALT_S = 0.1


class PromptReader:
    """A person at a terminal. Satisfies chat.interface's Reader.

    complete: (line so far) -> (replacement of its last word, meaning); a word in double
    quotes may hold spaces. complete_path: what follows @ -> what it may become.
    inputs: what was typed before, the latest first; remember: keeps a new one.
    typing: hears what is typed as it grows, and nothing at each new prompt.
    plain: no toolbar, no placeholder, nothing that moves (screen readers).
    vi: its keys instead of Emacs'. say: tells what went wrong with an editor, above the prompt.
    multiline: Enter begins a new line, Alt-Enter sends; a command still needs only Enter.
    """

    interactive = True
    prefills = True
    multiline = False

    def __init__(
        self,
        gauge: Callable[[], Gauge],
        complete: Complete,
        inputs: Callable[[], list[str]],
        remember: Callable[[str], None],
        typing: Callable[[str], None] = lambda _text: None,
        plain: bool = False,
        colour: bool = True,
        complete_path: CompletePath = lambda _prefix: (),
        vi: bool = False,
        say: Callable[[str], None] | None = None,
    ) -> None:
        self._gauge = gauge
        self._typing = typing
        self._plain = plain
        self._pasted = False
        self._changes = False  # a text that was there is being changed; Ctrl-C leaves it as it was
        self._interrupted = self._cancelled = False
        self._asking: PromptSession[str] | None = None
        self._editor: Editor | None = None
        self._remember = remember
        self._say = say or _say
        self._looks: dict[str, Any] = {
            "style": NO_STYLE if plain else STYLE,
            "color_depth": ColorDepth.DEPTH_4_BIT if colour else ColorDepth.DEPTH_1_BIT,
            "include_default_pygments_style": False,
            "enable_suspend": True,
        }
        self._session: PromptSession[str] = PromptSession(
            message=[("class:prompt", ">>> ")],
            multiline=True,
            prompt_continuation=lambda _width, _number, _wrapped: "... ",
            key_bindings=self._bindings(),
            history=_Inputs(inputs, remember),
            completer=chat_completer(complete, complete_path),
            complete_while_typing=Condition(_offers_completion) & Condition(lambda: not plain),
            complete_style=CompleteStyle.READLINE_LIKE if plain else CompleteStyle.COLUMN,
            editing_mode=EditingMode.VI if vi else EditingMode.EMACS,
            placeholder=None if plain else _placeholder,
            input_processors=[_ShownHidden()],
            input=with_a_way_out(create_input(sys.stdin)),
            output=create_output(sys.stdout if sys.stdout.isatty() else sys.stderr),
            **self._looks,
        )
        self._session.default_buffer.on_text_changed += self._on_text_changed
        self._session.app.before_render += lambda _app: self._fit_to_screen()
        if vi:
            self._session.app.timeoutlen = self._session.app.ttimeoutlen = _ALT_S
        if plain:
            _quieten(self._session)

    def read(self, initial: str = "") -> Entry | None:
        # What was a message once is one again, whatever it looks like.
        self._pasted = initial.startswith(("/", QUOTES))
        self._changes = bool(initial)
        self._cancelled = False
        if self._interrupted:
            return None
        try:
            text = self._session.prompt(default=initial, pre_run=self._on_start)
        except EOFError:
            return None
        if self._cancelled:
            raise KeyboardInterrupt
        return entered(text, literal=self._pasted)

    def confirm(self, question: str) -> bool:
        ask: PromptSession[str] = PromptSession(
            input=self._session.input, output=self._session.output, **self._looks
        )
        if self._plain:
            _quieten(ask)
        self._asking = ask
        try:
            with _ctrl_c_noted() as noted:
                answer = ask.prompt(
                    f"{clean(question)} [y/N] ", pre_run=lambda: self._leave_if_told(noted)
                )
        except (EOFError, KeyboardInterrupt):
            return False
        finally:
            self._asking = None
        return not noted and answer.strip().lower() in ("y", "yes")

    def interrupt(self) -> bool:
        self._interrupted = True
        app = (self._asking or self._session).app
        if app.is_running and app.loop is not None:
            app.loop.call_soon_threadsafe(self._leave)
        return True

    def refresh(self) -> None:
        self._session.app.invalidate()  # does nothing while no prompt stands there

    def _leave_if_told(self, noted: Sequence[int] = ()) -> None:
        if self._interrupted or noted:
            get_app().create_background_task(self._leave_at_once())

    async def _leave_at_once(self) -> None:
        self._leave()

    def _leave(self) -> None:
        if self._editor is not None:
            self._editor.stop()
        app = (self._asking or self._session).app
        if app.is_running and not app.is_done:
            typed = self._session.default_buffer.text
            if typed.strip():
                self._remember(typed)  # it can be had again with the arrow keys
            app.exit(exception=EOFError)

    def _on_start(self) -> None:
        self._leave_if_told()
        self._typing(self._session.default_buffer.text)
        if not self._plain and self._gauge().loaded < 1.0:
            get_app().create_background_task(self._refresh_while_loading())

    async def _refresh_while_loading(self) -> None:
        while self._gauge().loaded < 1.0:
            await asyncio.sleep(_LOADING_REFRESH_S)
            get_app().invalidate()

    def _fit_to_screen(self) -> None:
        rows = self._session.output.get_size().rows
        self._session.bottom_toolbar = None if self._plain or rows < 4 else self._toolbar
        self._session.reserve_space_for_menu = max(0, min(_MENU_ROWS, rows - 2))

    def _toolbar(self) -> FormattedText:
        columns = get_app().output.get_size().columns
        return FormattedText(toolbar(self._gauge(), columns, self._vi_state()))

    def _vi_state(self) -> str:
        app = self._session.app
        if app.editing_mode is not EditingMode.VI:
            return ""
        if app.current_buffer.selection_state is not None:
            return "visual"
        if app.vi_state.input_mode is InputMode.NAVIGATION:
            return "normal"
        replaces = app.vi_state.input_mode in (InputMode.REPLACE, InputMode.REPLACE_SINGLE)
        return "replace" if replaces else "insert"

    async def _edit(self, buffer: Buffer) -> None:
        """The text in the person's editor; where that fails it stays as it was."""
        self._editor = editor = Editor()
        try:
            async with in_terminal():
                try:
                    text = await run_in_executor_with_context(lambda: editor.edit(buffer.text))
                except GemmaError as failure:
                    hint = f"\n  {failure.hint}" if failure.hint else ""
                    self._say(f"{failure.message}. The text stays as it was.{hint}")
                    return
            buffer.document = Document(text, len(text))
        finally:
            self._editor = None

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

        @add("c-g", filter=~is_searching & ~has_selection)
        @add("c-x", "c-e", filter=~is_searching)
        def _open_editor(event: KeyPressEvent) -> None:
            if self._editor is None:
                event.app.create_background_task(self._edit(event.current_buffer))

        @add("c-c", filter=~is_searching)
        @add(Keys.SIGINT)
        def _clear(event: KeyPressEvent) -> None:
            if self._editor is not None:
                return  # it was meant for the editor
            buffer = event.current_buffer
            if buffer.text and not self._changes:
                # It can be had again with the arrow keys.
                buffer.reset(append_to_history=buffer.text not in buffer.history.get_strings())
                self._pasted = False
            else:
                # As an exception of the loop's future it would be reported as unheard
                # where a second Ctrl-C, now a signal, ends the loop before it is heard.
                self._cancelled = True
                event.app.exit(result="", style="class:aborting")

        return bindings


def _quieten(session: PromptSession[str]) -> None:
    session.app.renderer = QuietRenderer(session.app.renderer, session.output)


def _say(text: str) -> None:
    sys.stderr.write(f"{clean(text)}\n")
    sys.stderr.flush()


def _placeholder() -> FormattedText:
    app = get_app()
    fits = app.output.get_size().columns > len(f">>> {_PLACEHOLDER}")
    free = not (app.is_done or app.layout.is_searching)  # a search shows what it found there
    return FormattedText([("class:placeholder", _PLACEHOLDER if fits and free else "")])


def _is_command() -> bool:
    text = get_app().current_buffer.text
    return text.startswith("/") and "\n" not in text


def _offers_completion() -> bool:
    return is_completed(get_app().current_buffer.document.text_before_cursor)


class _Inputs(History):
    """prompt_toolkit's history over functions that read and keep what was typed."""

    def __init__(self, read: Callable[[], list[str]], keep: Callable[[str], None]) -> None:
        super().__init__()
        self._read, self._keep = read, keep

    def load_history_strings(self) -> Iterable[str]:
        return self._read()

    def store_string(self, string: str) -> None:
        self._keep(strip_controls(string))


class _ShownHidden(Processor):
    """A pasted control that reorders text, or a tag, is shown as U+FFFD; the text keeps it."""

    def apply_transformation(self, transformation_input: TransformationInput) -> Transformation:
        fragments: Any = [
            (style, show_hidden(text), *handler)
            for style, text, *handler in transformation_input.fragments
        ]
        return Transformation(fragments)


@contextmanager
def _ctrl_c_noted() -> Iterator[list[int]]:
    """Inside, Ctrl-C is noted where no prompt takes it: an event loop that is half made
    when an exception breaks in is reported with a traceback when it is thrown away."""
    noted: list[int] = []
    before = signal.signal(signal.SIGINT, lambda number, _frame: noted.append(number))
    try:
        yield noted
    finally:
        signal.signal(signal.SIGINT, before)
