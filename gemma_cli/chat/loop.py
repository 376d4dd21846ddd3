"""The conversation loop: read a turn, answer it, keep it. Knows neither screen nor keyboard."""

from __future__ import annotations

import errno
import threading
import traceback
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import asdict, replace
from typing import Protocol

from gemma_cli.chat import commands
from gemma_cli.chat.commands import NO_THOUGHTS
from gemma_cli.chat.conversation import Origin, Status, Turn
from gemma_cli.chat.interrupts import Hangup, Hangups, Interrupt, interrupts
from gemma_cli.chat.session import Session
from gemma_cli.chat.window import answer_room, leaving, notice
from gemma_cli.engine.protocol import Done, Generation, Prompt
from gemma_cli.errors import ExitCode, GemmaError


class Entry(Protocol):
    """What was entered. literal: pasted or quoted, so never a command."""

    @property
    def text(self) -> str: ...

    @property
    def literal(self) -> bool: ...


class Reader(Protocol):
    """Where turns come from."""

    @property
    def interactive(self) -> bool:
        """Whether a person sits there who can be asked and who may go on after a failure."""

    multiline: bool
    """Enter makes a line; a turn ends otherwise. Settable while the chat runs."""

    def read(self, initial: str = "") -> Entry | None:
        """The next turn, None at the end. KeyboardInterrupt: Ctrl-C with nothing typed.

        initial: a text to change and send; a message whatever it begins with.
        """

    def confirm(self, question: str) -> bool:
        """Ask y/N; False when nobody can be asked."""

    def interrupt(self) -> bool:
        """From a thread or a signal handler: what waits for a person ends soon, as at the end.

        False when it cannot be ended; then the caller must break in.
        """


class Show(Protocol):
    """Takes an answer piece by piece. thought: the model thinks aloud; no part of the answer."""

    def __call__(self, text: str, *, thought: bool = False) -> None: ...


class Writer(Protocol):
    """Where answers and notices go."""

    def answer(self) -> AbstractContextManager[Show]:
        """A place for one answer."""

    def loading(self, progress: Callable[[], float]) -> AbstractContextManager[None]:
        """Shows, while inside, that one waits for the model."""

    def say(self, text: str) -> None:
        """Tell the user something that is no part of an answer."""

    def error(self, message: str, hint: str | None) -> None:
        """Tell what failed, and the next step."""


class ChatLoop:
    """Talks until the user leaves; nothing that was said is lost on any way out."""

    def __init__(self, session: Session, reader: Reader, writer: Writer) -> None:
        self._session = session
        self._reader = reader
        self._writer = writer
        self._warned = False
        self._failure: GemmaError | None = None
        self._hangups = Hangups()
        self._piped_failure = ExitCode.OK

    def run(self) -> int:
        """The exit code of the chat."""
        with self._hangups:
            try:
                if self._reader.interactive:
                    threading.Thread(target=self._watch_loading, daemon=True).start()
                return self._talk()
            except Hangup as hangup:
                return hangup.exit_code
            except OSError as error:
                if error.errno != errno.EIO:
                    raise
                return 129  # the terminal closed before its SIGHUP came

    def _talk(self) -> int:
        while True:
            try:
                with self._hangups.asking(self._reader.interrupt):
                    entry = self._reader.read()
                if entry is None:
                    return self._end()
                code = self._take(entry)
            except KeyboardInterrupt:
                if not self._reader.interactive:
                    return ExitCode.CANCELLED
                self._writer.say("Ctrl-D or /exit leaves the chat.")
                continue
            if code is not None:
                return code

    def _end(self) -> int:
        if self._failure is not None:
            return self._fail_to_load(self._failure)
        return self._piped_failure

    def _watch_loading(self) -> None:
        try:
            self._session.engine.info()
        except GemmaError as failure:
            self._failure = failure
            self._reader.interrupt()

    def _take(self, entry: Entry) -> int | None:
        """Do what was entered; an exit code ends the chat."""
        text = entry.text
        if not text.strip():
            return None
        if entry.literal or not text.startswith("/"):
            return self._ask(text)
        word, argument = commands.split(text)
        command = commands.find(word)
        if command is not None:
            return self._run_command(command, argument)
        if self._send_anyway(word):
            return self._ask(text)
        return None

    def _send_anyway(self, word: str) -> bool:
        """A line that looks like a command but is none is sent only if the user says so."""
        meant = commands.near(word)
        guess = f" Did you mean {meant}?" if meant else ""
        self._writer.say(f"{word} is no command.{guess}")
        with self._hangups.asking(self._reader.interrupt):
            agreed = self._reader.confirm("Send it to the model as a message?")
        if agreed:
            return True
        self._writer.say("It was not sent. /help lists the commands; a space before / sends it.")
        self._note_failure(ExitCode.USAGE)
        return False

    def _run_command(self, command: commands.Command, argument: str) -> int | None:
        try:
            said = command.run(self._session, argument)
        except commands.Leave:
            return self._piped_failure
        except GemmaError as error:
            self._report(error)
        except Exception:
            # A bug in one command must not cost the conversation.
            self._writer.error(f"{command.names[0]} failed", traceback.format_exc())
            self._note_failure(ExitCode.FAILURE)
        else:
            self._writer.say(said)
        return None

    def _ask(self, text: str) -> int | None:
        session = self._session
        question = session.conversation.add("user", text)
        session.journal.save(session.conversation)
        with interrupts() as interrupt:
            try:
                with interrupt.raising(), self._writer.loading(session.engine.progress):
                    failure = self._wait_for_model()
                if failure is not None:
                    return self._fail_to_load(failure)
                with interrupt.raising():
                    prompt = self._prompt()
                self._answer(prompt, interrupt)
            except KeyboardInterrupt:
                self._writer.say("Stopped before the answer began. Your message is kept.")
            except GemmaError as error:
                # The question stays in the tree; the next one goes on from before it.
                if session.conversation.leaf == question.id:
                    session.conversation.go_to(question.parent)
                    session.journal.save(session.conversation)
                self._report(error)
        if interrupt.noted and not self._reader.interactive:
            return ExitCode.CANCELLED
        return None

    def _wait_for_model(self) -> GemmaError | None:
        try:
            self._session.engine.info()
        except GemmaError as failure:
            return failure
        return None

    def _fail_to_load(self, failure: GemmaError) -> int:
        self._writer.error(failure.message, failure.hint)
        return failure.exit_code

    def _prompt(self) -> Prompt:
        """The prompt of what fits; what no longer does is told."""
        session = self._session
        info = session.engine.info()
        if not self._warned:
            self._warned = True
            for warning in info.warnings:
                self._writer.say(warning)
        if session.thinking and not info.thinks:
            session.thinking = None
            self._writer.say(NO_THOUGHTS)
        rendered: dict[int, Prompt] = {}

        def measure(skip: int) -> int:
            if skip not in rendered:
                rendered[skip] = session.engine.render(
                    session.conversation.messages(skip), thinking=session.thinking
                )
            return len(rendered[skip].tokens)

        exchanges = session.conversation.exchanges()
        room = answer_room(info.n_ctx, session.sampling.max_tokens)
        skip = leaving(len(exchanges), measure, info.n_ctx, room)
        gone = [(number, pair[0]) for number, pair in enumerate(exchanges[:skip], start=1)]
        news = [(number, turn) for number, turn in gone if turn.id not in session.left]
        session.left = {turn.id for _, turn in gone}
        if news:
            self._writer.say(notice(news))
        return rendered[skip]

    def _answer(self, prompt: Prompt, interrupt: Interrupt) -> None:
        session = self._session
        generation = session.engine.generate(prompt, session.sampling)
        interrupt.call(generation.cancel)
        params = asdict(session.sampling)
        if session.thinking is not None:
            params["thinking"] = session.thinking
        origin = Origin(session.label, session.model_sha, params)
        turn = session.conversation.add("assistant", "", "streaming", origin)
        session.journal.save(session.conversation)
        with self._writer.answer() as show:
            done = self._stream(generation, turn, show)
        session.count(done)
        self._tell_how_it_ended(done, session.conversation[turn.id])

    def _stream(self, generation: Generation, turn: Turn, show: Show) -> Done:
        """Show and keep the answer as it comes; whatever ends it, its text is saved."""
        session = self._session
        pieces: list[str] = []
        thoughts: list[str] = []

        def keep(status: Status, origin: Origin | None = None) -> None:
            session.conversation.change(turn.id, "".join(pieces), status, origin, "".join(thoughts))
            session.journal.save(session.conversation)

        status: Status = "cancelled"
        origin = turn.origin
        try:
            for value in generation:
                if isinstance(value, Done):
                    status = {"cancelled": "cancelled", "error": "error"}.get(
                        value.stop_reason, "complete"
                    )  # type: ignore[assignment]
                    origin = _with_figures(turn.origin, value)
                    return value
                (thoughts if value.thought else pieces).append(value.text)
                show(value.text, thought=value.thought)
                if session.journal.due():
                    keep("streaming")
        except Exception as error:
            if not isinstance(error, OSError):  # else the reader left: a kind of cancelling
                status = "error"
            raise
        finally:
            keep(status, origin)
        raise AssertionError("a generation ends with Done")

    def _tell_how_it_ended(self, done: Done, answer: Turn) -> None:
        limit = self._session.sampling.max_tokens
        if done.stop_reason == "cancelled":
            self._writer.say("Stopped. What was said is kept.")
        elif done.stop_reason == "length" and limit and done.usage.completion_tokens >= limit:
            self._writer.say(f"The answer was cut at max_tokens {limit}.")
        elif done.stop_reason == "length":
            self._writer.say(
                f"The answer was cut: the context window of {done.n_ctx:,} tokens is full."
            )
        if answer.thoughts and not answer.text.strip():
            self._writer.say("The model has only thought: its answer did not begin.")

    def _report(self, error: GemmaError) -> None:
        self._writer.error(error.message, error.hint)
        self._note_failure(error.exit_code)

    def _note_failure(self, code: ExitCode) -> None:
        """A person saw it and goes on; a script must see it in the exit code."""
        if not self._reader.interactive and not self._piped_failure:
            self._piped_failure = code


def _with_figures(origin: Origin | None, done: Done) -> Origin | None:
    if origin is None:
        return None
    return replace(
        origin,
        params={**origin.params, "seed": done.seed},
        counts={**asdict(done.usage), **asdict(done.timings), "n_ctx": done.n_ctx},
    )
