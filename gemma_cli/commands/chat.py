"""`gemma chat`: a conversation that is kept, at a prompt or from a pipe."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from contextlib import closing, nullcontext
from typing import TYPE_CHECKING, Annotated

import typer

from gemma_cli.commands import options, texts
from gemma_cli.errors import ExitCode, UsageError

if TYPE_CHECKING:
    from gemma_cli.chat.history import History
    from gemma_cli.chat.journal import HistoryJournal
    from gemma_cli.chat.loop import Reader
    from gemma_cli.chat.records import SavedChat
    from gemma_cli.chat.session import Session
    from gemma_cli.terminal.toolbar import Gauge
    from gemma_cli.terminal.writer import ChatWriter

_TERMINAL_GONE = 129


@options.takes_generation_options
def chat(
    *,
    model_argument: options.ModelArgument = None,
    model: options.ModelOption = None,
    resume_last: Annotated[
        bool, typer.Option("-c", "--continue", help="Go on with the last chat.")
    ] = False,
    resume: Annotated[
        int | None,
        typer.Option("--resume", metavar="ID", help="Go on with that chat (gemma history list)."),
    ] = None,
    no_history: Annotated[
        bool, typer.Option("--no-history", help="Write nothing of this chat to the history.")
    ] = False,
    plain: Annotated[
        bool, typer.Option("--plain", help="Plain text, nothing redrawn (for screen readers).")
    ] = False,
    read_ahead: Annotated[
        bool,
        typer.Option(
            "--read-ahead/--no-read-ahead",
            envvar="GEMMA_READ_AHEAD",
            help="Evaluate a message while it is being typed.",
        ),
    ] = True,
    generation: options.GenerationOptions,
) -> None:
    """Talk with a model. Every turn is saved as it happens."""
    if resume_last and resume is not None:
        raise UsageError("--continue and --resume name two chats", "give one of them")
    if sys.stdin is None or sys.stdout is None:
        raise UsageError("a chat needs standard input and output", 'one answer: gemma run "Hi"')

    from gemma_cli.chat.conversation import Conversation
    from gemma_cli.chat.journal import NoJournal
    from gemma_cli.chat.session import Session
    from gemma_cli.commands import opening
    from gemma_cli.settings import load_settings
    from gemma_cli.terminal.writer import ChatWriter

    settings = load_settings()
    asked = generation.over(settings)
    writer = ChatWriter(plain=plain)
    with closing(open_journal(writer)) as journal:
        saved = _saved_chat(journal, resume, resume_last, writer)
        named = options.one_model(model_argument, model)
        chosen = opening.choose_model(named or (saved.summary.model if saved else None), settings)
        sampling = opening.sampling_from(chosen.sampling, asked)
        conversation = saved.conversation if saved else Conversation()
        if generation.system is not None or not saved:
            conversation.system = texts.argument_text(asked.system or "", "--system")
        journal.model = chosen.installed.name
        if saved:
            journal.resume(saved.summary.id, conversation)
        notice = opening.base_model_notice(chosen)
        if notice:
            writer.say(notice)
        snapshots = None
        if not no_history:
            snapshots = opening.snapshot_place(chosen, settings, expected=saved is not None)
        # Closed on every way out: a thread inside llama.cpp must not outlive the interpreter.
        with closing(opening.start_engine(chosen, asked, snapshots)) as engine:
            session = Session(
                engine,
                chosen.installed.name,
                conversation,
                NoJournal() if no_history else journal,
                sampling,
                chosen.installed.sha256,
                asked.think,
                reads_ahead=read_ahead,
            )
            code = talk(session, journal, writer, saved, plain=plain, keep=not no_history)
            if code == ExitCode.OK:
                opening.keep_state(engine)
    raise typer.Exit(code)


def talk(
    session: Session,
    journal: HistoryJournal,
    writer: ChatWriter,
    saved: SavedChat | None = None,
    *,
    plain: bool = False,
    keep: bool = True,
) -> int:
    """Run a chat at this terminal or over this pipe; its exit code.

    keep: what is typed goes into the journal's history too.
    """
    from gemma_cli.chat.loop import ChatLoop
    from gemma_cli.terminal.keyboard import quiet_keys
    from gemma_cli.terminal.lines import LineReader

    reader = _reader(session, journal, writer, plain=plain, keep=keep)
    # A line reader needs the terminal's own editing.
    with nullcontext() if isinstance(reader, LineReader) else quiet_keys():
        if saved and reader.interactive:
            _show_where_one_left(saved, writer)
        code = ChatLoop(session, reader, writer).run()
    if code == _TERMINAL_GONE:
        # What is still to be flushed has nowhere to go.
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, 1)
        os.dup2(nowhere, 2)
    return code


def open_journal(writer: ChatWriter) -> HistoryJournal:
    from gemma_cli.chat.history import History
    from gemma_cli.chat.journal import HistoryJournal
    from gemma_cli.paths import data_dir

    def open_history(thorough: bool) -> History:
        return History(data_dir() / "history.db", thorough)

    return HistoryJournal(open_history, writer.say)


def _saved_chat(
    journal: HistoryJournal, resume: int | None, resume_last: bool, writer: ChatWriter
) -> SavedChat | None:
    """The chat to go on with, if one is asked for. Raises HistoryError."""
    if resume is None and not resume_last:
        return None
    history = journal.history()
    wanted = resume if resume is not None else history.latest()
    if wanted is None:
        writer.say("There is no chat to continue: a new one begins.")
        return None
    return history.load(wanted)


def _reader(
    session: Session, journal: HistoryJournal, writer: ChatWriter, *, plain: bool, keep: bool
) -> Reader:
    """The prompt on a capable terminal, lines otherwise."""
    from gemma_cli.terminal.lines import LineReader

    person = sys.stdin.isatty() and (sys.stdout.isatty() or sys.stderr.isatty())
    if not person or os.environ.get("TERM") == "dumb":
        return LineReader(sys.stdin.buffer, person, writer.say)
    from gemma_cli.chat.commands import completions
    from gemma_cli.terminal.prompt import PromptReader
    from gemma_cli.terminal.writer import wants_colour

    typed: list[str] = []  # without a history the arrow keys know this chat's inputs

    def forget(text: str) -> None:
        typed.append(text)

    return PromptReader(
        _gauge(session),
        completions,
        journal.inputs if keep else lambda: typed[::-1],
        journal.remember_input if keep else forget,
        session.typing,
        plain=plain,
        colour=wants_colour(),
    )


def _gauge(session: Session) -> Callable[[], Gauge]:
    from gemma_cli.terminal.toolbar import Gauge

    def gauge() -> Gauge:
        loaded = session.engine.progress()
        done = session.last
        if done is None:
            return Gauge(session.label, loaded)
        return Gauge(session.label, loaded, done.n_ctx, done.used, done.timings.decode_tps)

    return gauge


def _show_where_one_left(saved: SavedChat, writer: ChatWriter) -> None:
    """The last question and its answer, so that one knows what was talked about."""
    summary = saved.summary
    count = f"{summary.turns} turn" + ("" if summary.turns == 1 else "s")
    writer.say(f"Chat {summary.id}, {count}: {summary.title}")
    exchanges = saved.conversation.exchanges()
    if not exchanges:
        return
    question, *answers = exchanges[-1]
    writer.say(f">>> {question.text}")
    for answer in answers:
        with writer.answer() as show:
            show(answer.text)
        if answer.status == "cancelled":
            writer.say("(This answer was broken off.)")
