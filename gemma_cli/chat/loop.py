"""The conversation loop: read a turn, answer it, keep it. Knows neither screen nor keyboard."""

from __future__ import annotations

import errno
import os
import threading
import traceback
from collections.abc import Callable, Sequence

from gemma_cli.chat import commands
from gemma_cli.chat.gauge import measure, refresh
from gemma_cli.chat.interface import Entry, Reader, Writer
from gemma_cli.chat.interrupts import Hangup, Hangups, interrupts
from gemma_cli.chat.letting_go import may_let_go
from gemma_cli.chat.records import Summary
from gemma_cli.chat.session import Session
from gemma_cli.chat.talking import Talking
from gemma_cli.errors import ExitCode, GemmaError

# Of what is to be changed, and of a kept prompt's message; its system text holds already.
_UNUSED = "The text was not used: what was said stays as it was."


class ChatLoop:
    """Talks until the user leaves; nothing that was said is lost on any way out."""

    def __init__(self, session: Session, reader: Reader, writer: Writer) -> None:
        self._session = session
        self._reader = reader
        self._writer = writer
        self._failure: GemmaError | None = None
        self._asked = False
        self._hangups = Hangups()
        self._talk = Talking(session, reader, writer, self._hangups)

    def run(self, first: Sequence[str] = (), resumed: Summary | None = None) -> int:
        """The exit code of the chat. first: commands to begin with; resumed: to be shown."""
        with self._hangups:
            try:
                if resumed is not None:
                    commands.recall(self._talk, resumed)
                if self._reader.interactive:
                    threading.Thread(target=self._watch_loading, daemon=True).start()
                for typed in first:
                    word, argument = commands.split(typed)
                    if command := commands.find(word):
                        self._run_command(command, argument)
                # A person saw what failed and goes on; a script meant its file to be there.
                return self._talk.failure or self._converse()
            except Hangup as hangup:
                return hangup.exit_code
            except KeyboardInterrupt:  # while a script's first commands ran
                return ExitCode.CANCELLED
            except OSError as error:
                if error.errno != errno.EIO:
                    raise
                return 129  # the terminal closed before its SIGHUP came

    def _converse(self) -> int:
        if not self._reader.interactive:
            return self._turns()
        with interrupts():  # between the turns too; a turn lets Ctrl-C break in where it may
            return self._turns()

    def _turns(self) -> int:
        code: int | None = None
        while code is None:
            code = self._turn()
        return code

    def _turn(self) -> int | None:
        """Read one entry and do it; an exit code ends the chat."""
        text, then = self._talk.edit or ("", None)
        self._talk.edit = None
        try:
            with self._hangups.asking(self._reader.interrupt):
                entry = self._reader.read(text)
            if entry is None:
                return None if self._stays() else self._end()
            with interrupts() as interrupt, interrupt.raising():
                self._take(entry, then)
        except commands.Leave:
            return None if self._stays() else self._talk.failure
        except KeyboardInterrupt:
            if not self._reader.interactive:
                return ExitCode.CANCELLED
            said = _UNUSED if then else "Ctrl-D or /exit leaves the chat."
            self._writer.say(said)
        return self._talk.ending

    def _stays(self) -> bool:
        """Whether the user would rather not leave what could not be saved; asked once."""
        asked, self._asked = self._asked, True
        if asked or self._failure is not None or not self._reader.interactive:
            return False  # that it is not saved was said at the time
        return not may_let_go(self._talk)

    def _end(self) -> int:
        if self._failure is not None:
            self._writer.error(self._failure.message, self._failure.hint)
            return self._failure.exit_code
        return self._talk.failure

    def _watch_loading(self) -> None:
        engine = self._session.engine
        try:
            engine.info()
            if self._session.used is None and len(self._session.conversation):
                measure(self._session)
                self._reader.refresh()
        except GemmaError as failure:
            if engine is self._session.engine:
                self._failure = failure
                self._reader.interrupt()

    def _take(self, entry: Entry, then: Callable[[str], None] | None) -> None:
        """Do what was entered. then: takes the text if it is a changed one."""
        text = entry.text
        if not text.strip():
            if then:
                self._writer.say(_UNUSED)
            return
        if not entry.literal and text.startswith("/"):
            word, argument = commands.split(text)
            command = commands.find(word)
            if command is not None:
                if then:
                    self._writer.say("The text that stood here was not used.")
                self._run_command(command, argument)
                return
            if not self._send_anyway(word):
                return
        said = len(self._session.conversation)
        try:
            self._send(text, then)
        except GemmaError as error:
            self._talk.report(error)
            self._talk.prefill(text, lambda changed: self._send(changed, then))
        except KeyboardInterrupt:
            if not self._reader.interactive or len(self._session.conversation) > said:
                raise
            self._writer.say("Stopped: it was not sent.")
            self._talk.prefill(text, lambda changed: self._send(changed, then))

    def _send(self, text: str, then: Callable[[str], None] | None) -> None:
        """Give it to who waits for it, or ask it; GemmaError, KeyboardInterrupt: it was not."""
        if then is not None:
            then(text)
        else:
            self._talk.send(text)

    def _send_anyway(self, word: str) -> bool:
        """A line that looks like a command but is none is sent only if the user says so."""
        meant = commands.near(word)
        guess = f" Did you mean {meant}?" if meant else ""
        self._writer.say(f"{word} is no command.{guess}")
        if self._talk.confirm("Send it to the model as a message?"):
            return True
        self._writer.say("It was not sent. /help lists the commands; a space before / sends it.")
        self._talk.note_failure(ExitCode.USAGE)
        return False

    def _run_command(self, command: commands.Command, argument: str) -> None:
        def run() -> None:
            before = self._state()
            try:
                self._talk.say(command.run(self._talk, argument) or "")
            finally:
                with interrupts():
                    self._refresh_gauge(before)

        name = command.names[0]
        try:
            run()
        except GemmaError as error:
            self._talk.report(error)
        except KeyboardInterrupt:
            if not self._reader.interactive:
                raise
            self._writer.say("Stopped. Nothing was changed.")
        except commands.Leave:
            raise
        except Exception as error:
            # A bug in one command must not cost the conversation.
            if isinstance(error, OSError) and error.errno in (errno.EIO, errno.EPIPE):
                raise  # the terminal or the reader of the pipe is gone
            shown = traceback.format_exc() if os.environ.get("GEMMA_DEBUG") else None
            hint = shown or "the chat goes on; GEMMA_DEBUG=1 shows where it failed"
            self._writer.error(f"{name} failed: {type(error).__name__}: {error}", hint)
            self._talk.note_failure(ExitCode.FAILURE)

    def _state(self) -> tuple[object, ...]:
        """What the gauge depends on."""
        session = self._session
        talk = session.conversation
        return (talk, len(talk), talk.leaf, talk.system, talk.pinned, session.engine, session.used)

    def _refresh_gauge(self, before: tuple[object, ...]) -> None:
        now = self._state()
        told = self._session.used is not None and now[-1] != before[-1]
        if now[:-1] == before[:-1] or told:  # nothing changed, or an answer told the new figure
            return
        if self._talk.ending is None:
            refresh(self._session)
