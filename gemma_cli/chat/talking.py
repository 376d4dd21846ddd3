"""What can be done in a running chat, by its loop and by commands (interface.Talk)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from gemma_cli.chat.answering import Answering
from gemma_cli.chat.attaching import attached, named, sizes
from gemma_cli.chat.conversation import Attachment
from gemma_cli.chat.gauge import refresh
from gemma_cli.chat.interface import Reader, Writer
from gemma_cli.chat.interrupts import Hangups, Interrupt, interrupts
from gemma_cli.chat.session import Session
from gemma_cli.engine.protocol import Engine, Message
from gemma_cli.errors import ExitCode, GemmaError


class Talking:
    """Satisfies interface.Talk.

    ending: the exit code, once the chat cannot go on. failure: the first one
    that a script must see in the exit code; a person saw it and goes on.
    edit: a text that the next input begins with, and who takes what it became.
    """

    def __init__(self, session: Session, reader: Reader, writer: Writer, hangups: Hangups) -> None:
        self.session = session
        self.reader = reader
        self.writer = writer
        self.ending: int | None = None
        self.failure = ExitCode.OK
        self.edit: tuple[str, Callable[[str], None]] | None = None
        self._hangups = hangups
        self._answering = Answering(session, writer, again=reader.interactive)

    def say(self, text: str) -> None:
        if text:
            self.writer.say(text)

    def confirm(self, question: str) -> bool:
        with self._hangups.asking(self.reader.interrupt):
            return self.reader.confirm(question)

    def prefill(self, text: str, then: Callable[[str], None]) -> None:
        self.edit = (text, then)

    def report(self, error: GemmaError) -> None:
        self.writer.error(error.message, error.hint)
        self.note_failure(error.exit_code)

    def note_failure(self, code: ExitCode) -> None:
        if not self.reader.interactive and not self.failure:
            self.failure = code

    def wait(self, engine: Engine | None = None) -> None:
        engine = engine or self.session.engine
        with self.writer.loading(engine.progress):
            engine.info()

    def ask(self, text: str, attachments: Sequence[Attachment] = ()) -> None:
        conversation = self.session.conversation
        question = conversation.add("user", text, attachments=tuple(attachments))
        self.session.journal.save(conversation)
        # After a failure the question stays in the tree; the next goes on from before it.
        self._answered(question.parent, question.id)

    def send(self, text: str) -> None:
        session = self.session
        documents = list(dict.fromkeys((*session.attached, *named(self, text))))
        before = session.conversation.leaf
        session.attached.clear()
        self.ask(text, documents)
        if documents and session.conversation.leaf == before:
            session.attached[:] = documents  # it was refused

    def answer(self, otherwise: int | None) -> None:
        self._answered(otherwise, otherwise)

    def _answered(self, after_failure: int | None, after_stop: int | None) -> None:
        session = self.session
        begun_from = session.conversation.leaf

        def back(to: int | None) -> None:
            if session.conversation.leaf == begun_from:
                session.conversation.go_to(to)
                session.journal.save(session.conversation)

        with interrupts() as interrupt:
            try:
                if self._is_loaded(interrupt):
                    with interrupt.raising():
                        prompt = self._answering.prompt(interrupt)
                    self._answering.answer(prompt, interrupt)
            except KeyboardInterrupt:
                back(after_stop)
                self.say("Stopped before the answer began. Your message is kept.")
            except GemmaError as error:
                back(after_failure)
                self.report(error)
            self._answer_ended(interrupt)

    def go_on(self) -> None:
        session = self.session
        assert session.conversation.leaf is not None, "there is an answer"
        turn = session.conversation[session.conversation.leaf]
        with interrupts() as interrupt:
            try:
                if self._is_loaded(interrupt):
                    with interrupt.raising():
                        prompt = self._answering.prompt(interrupt)
                    self._answering.go_on(turn, prompt, interrupt)
            except KeyboardInterrupt:
                self.say("Stopped before it went on.")
            except GemmaError as error:
                self.report(error)
            self._answer_ended(interrupt)

    def write(
        self, messages: Sequence[Message], max_tokens: int, heading: str
    ) -> tuple[str, dict[str, Any]]:
        with interrupts() as interrupt:
            with interrupt.raising():
                self.wait()
            return self._answering.write(messages, max_tokens, heading, interrupt)

    def attach(self, words: str) -> list[Attachment]:
        found = attached(self, words)
        self.say(sizes(self.session, found))
        return found

    def _is_loaded(self, interrupt: Interrupt) -> bool:
        try:
            with interrupt.raising():
                self.wait()
        except GemmaError as failure:
            self.writer.error(failure.message, failure.hint)
            self.ending = failure.exit_code
            return False
        return True

    def _answer_ended(self, interrupt: Interrupt) -> None:
        if self.ending is None:
            refresh(self.session)
        if interrupt.noted and not self.reader.interactive and self.ending is None:
            self.ending = ExitCode.CANCELLED
