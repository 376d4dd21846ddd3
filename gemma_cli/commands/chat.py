"""`gemma chat`: a conversation that is kept, at a prompt or from a pipe."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from contextlib import closing, nullcontext
from typing import TYPE_CHECKING, Annotated, cast

import typer

from gemma_cli.commands import options
from gemma_cli.errors import ExitCode, UsageError

if TYPE_CHECKING:
    from gemma_cli.chat.history import History
    from gemma_cli.chat.interface import Reader
    from gemma_cli.chat.journal import HistoryJournal
    from gemma_cli.chat.records import SavedChat
    from gemma_cli.chat.session import ContextFull, Session
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
    files: Annotated[
        list[str] | None,
        typer.Option("--file", metavar="PATH", help="Attach to the first message (repeatable)."),
    ] = None,
    pins: Annotated[
        list[str] | None,
        typer.Option("--pin", metavar="PATH", help="Show the model for all the chat (repeatable)."),
    ] = None,
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
    prompt: Annotated[
        str | None,
        typer.Option("--prompt", metavar="NAME", help="Use a kept prompt (gemma prompts list)."),
    ] = None,
    variables: Annotated[
        list[str] | None,
        typer.Option("--var", metavar="NAME=VALUE", help="A variable of that prompt (repeatable)."),
    ] = None,
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
    from gemma_cli.commands.chatting.attachments import FilesHere
    from gemma_cli.commands.chatting.beginning import file_commands, prompt_command, said_sampling
    from gemma_cli.commands.chatting.personas import PromptsHere
    from gemma_cli.commands.chatting.switching import ModelsHere
    from gemma_cli.commands.loading import opening
    from gemma_cli.commands.past.forgetting import expire_old_chats
    from gemma_cli.commands.texts import argument_text
    from gemma_cli.settings import load_settings
    from gemma_cli.terminal.clipboard import copy
    from gemma_cli.terminal.writer import ChatWriter

    settings = load_settings()
    asked = generation.over(settings)
    persona = prompt_command(prompt, variables or [], generation)
    no_history = no_history or settings.history is False
    writer = ChatWriter(plain=plain)
    with closing(open_journal(writer)) as journal:
        saved = _saved_chat(journal, resume, resume_last, writer)
        if not no_history:
            expire_old_chats(journal, settings, saved.summary.id if saved else None)
        named = options.one_model(model_argument, model)
        chosen = opening.choose_model_for(named, saved.summary.model if saved else None, settings)
        conversation = saved.conversation if saved else Conversation()
        if generation.system is not None or not saved:
            conversation.system = argument_text(asked.system or "", "--system")
        journal.model = chosen.installed.name
        if saved:
            journal.resume(saved.summary.id, conversation)
        notice = opening.base_model_notice(chosen)
        if notice:
            writer.say(notice)
        # Closed on every way out: a thread inside llama.cpp must not outlive the interpreter.
        with closing(
            ModelsHere(
                chosen,
                asked,
                settings,
                keeps=not no_history,
                resumes=saved is not None,
                plain=plain,
            )
        ) as models:
            session = Session(
                models.present.engine,
                models.present.label,
                conversation,
                NoJournal() if no_history else journal,
                models.present.sampling,
                models.present.sha,
                asked.think,
                reads_ahead=read_ahead,
                context_full=cast("ContextFull", settings.context_full or "drop"),
                models=models,
                documents=FilesHere(),
                copy=copy,
                prompts=PromptsHere(),
                by_hand=said_sampling(generation),
                plain=plain,
            )
            first = [*file_commands(files or [], pins or []), *persona]
            code = talk(
                session, journal, writer, saved, plain=plain, keep=not no_history, first=first
            )
            if code == ExitCode.OK:
                models.keep_state()
    raise typer.Exit(code)


def talk(
    session: Session,
    journal: HistoryJournal,
    writer: ChatWriter,
    saved: SavedChat | None = None,
    *,
    plain: bool = False,
    keep: bool = True,
    first: Sequence[str] = (),
) -> int:
    """Run a chat at this terminal or over this pipe; its exit code.

    keep: what is typed goes into the journal's history too. first: commands to
    begin with.
    """
    from gemma_cli.chat.loop import ChatLoop
    from gemma_cli.terminal.keyboard import quiet_keys
    from gemma_cli.terminal.lines import LineReader

    reader = _reader(session, journal, writer, plain=plain, keep=keep)
    # A line reader needs the terminal's own editing.
    with nullcontext() if isinstance(reader, LineReader) else quiet_keys():
        shown = saved.summary if saved and reader.interactive else None
        code = ChatLoop(session, reader, writer).run(first, shown)
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
    from gemma_cli.documents import complete
    from gemma_cli.terminal.prompt import PromptReader
    from gemma_cli.terminal.writer import wants_colour

    if keep:
        journal.open()  # what that has to say is told before the prompt stands
    typed: list[str] = []  # without a history the arrow keys know this chat's inputs

    def forget(text: str) -> None:
        typed.append(text)

    return PromptReader(
        _gauge(session),
        lambda text: completions(text, session),
        journal.inputs if keep else lambda: typed[::-1],
        journal.remember_input if keep else forget,
        session.typing,
        plain=plain,
        colour=wants_colour(),
        complete_path=complete,
        vi=_edit_mode() == "vi",
        say=writer.say,
    )


def _edit_mode() -> str:
    """The keys of the prompt. Raises UsageError for others than vi's and Emacs'."""
    from gemma_cli.settings import checked, load_settings

    wish = os.environ.get("GEMMA_EDIT_MODE")
    if wish:
        return str(checked("edit_mode", wish, "GEMMA_EDIT_MODE"))
    return load_settings().edit_mode or "emacs"


def _gauge(session: Session) -> Callable[[], Gauge]:
    from gemma_cli.commands.chatting.switching import short
    from gemma_cli.terminal.toolbar import Gauge

    def gauge() -> Gauge:
        label = short(session.label)
        loaded = session.engine.progress()
        speed = session.last.timings.decode_tps if session.last else None
        if session.used is None:
            return Gauge(label, loaded, speed=speed)
        n_ctx = session.engine.info().n_ctx  # what was counted was counted by a ready engine
        return Gauge(label, loaded, n_ctx, session.used, speed)

    return gauge
