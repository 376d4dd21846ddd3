"""What one `gemma run` asks: the messages, and the chat that they belong to."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from gemma_cli.commands import texts
from gemma_cli.commands.running.question import messages_from, question
from gemma_cli.engine.protocol import Message
from gemma_cli.errors import UsageError
from gemma_cli.terminal.notices import say

if TYPE_CHECKING:
    from gemma_cli.commands.running.keeping import KeptRun
    from gemma_cli.prompts import Prompt


@dataclass(frozen=True, slots=True)
class Wanted:
    """What the command line says about the question. messages: a file's name, or -."""

    words: Sequence[str]
    files: Sequence[Path]
    messages: str | None
    raw: bool
    prompt: str | None
    variables: Sequence[str]
    resumes: bool

    def template(self) -> Prompt | None:
        """The kept prompt, if one is named. Raises UsageError, also for what cannot go together."""
        if self.messages is not None and (self.words or self.files or self.raw or self.prompt):
            raise UsageError("--messages takes the place of a prompt, of -f, of -p and of --raw")
        if self.messages is not None and self.resumes:
            raise UsageError("--messages is a whole conversation: it cannot go on with another")
        if self.raw and (self.prompt or self.resumes):
            option = "--continue" if self.resumes else "--prompt"
            raise UsageError(f"--raw continues a text as it is: it takes no {option}")
        if self.variables and not self.prompt:
            raise UsageError(
                "--var belongs to a kept prompt, and none is named",
                "for example: gemma run -p translate --var to=German",
            )
        if self.prompt is None:
            return None
        from gemma_cli.commands.prompts import usable

        return usable(self.prompt)


@dataclass(frozen=True, slots=True)
class Asked:
    """messages: what the model is shown; raw: a text to continue in their place.

    ending: what the last message or raw ends with, after a text that others may be
    asked about too. model: that its chat was had with. kept: where it is saved.
    """

    messages: Sequence[Message]
    raw: str | None
    ending: str
    model: str | None = None
    kept: KeptRun | None = None

    @property
    def length(self) -> int:
        """In characters."""
        return sum(len(message.text) for message in self.messages)

    def close(self) -> None:
        if self.kept is not None:
            self.kept.close()


def read_asked(
    wanted: Wanted, template: Prompt | None, said: str | None, default: str | None, *, save: bool
) -> Asked:
    """Read it all. said: the system text of the command line; default: that of config.toml.

    save: into the history. Raises UsageError, HistoryError.
    """
    if wanted.messages is not None:
        messages = messages_from(wanted.messages)
        ending, system = messages[-1].text, None
    else:
        text, system = _filled(question(wanted.words, wanted.files), wanted, template, said)
        messages, ending = [Message("user", text)], " ".join(wanted.words)
    if wanted.raw:
        if save:
            say("--raw is no conversation: it is not saved")
        if said:
            say("--raw takes no system text: it is left out")
        return Asked(messages, messages[0].text, ending)
    said = system if said is None else texts.argument_text(said, "--system")
    if wanted.resumes:
        return _resumed(messages[0].text, ending, said, default, save=save)
    messages = _with_system(messages, said, default)
    if not save:
        return Asked(messages, None, ending)
    from gemma_cli.commands.running.keeping import KeptRun, as_conversation, open_journal

    return Asked(messages, None, ending, kept=KeptRun(open_journal(), as_conversation(messages)))


def _with_system(messages: list[Message], said: str | None, default: str | None) -> list[Message]:
    if messages[0].role == "system":
        if said:
            raise UsageError("the system text is given twice: by --messages and by --system")
        return messages
    chosen = default if said is None else said
    return [Message("system", chosen), *messages] if chosen else messages


def _filled(
    text: str, wanted: Wanted, template: Prompt | None, said: str | None
) -> tuple[str, str | None]:
    """The question and the system text as the kept prompt makes them."""
    if template is None:
        return text, None
    from gemma_cli.commands.prompts import values

    filled = template.fill(values(wanted.variables), text)
    if filled.system and said is not None:
        say(f"--system takes the place of what the prompt {template.name} says about behaviour")
    assert filled.message is not None, "a text was given"
    return filled.message, filled.system or None


def _resumed(text: str, ending: str, said: str | None, default: str | None, *, save: bool) -> Asked:
    """The question after the last chat, or at the beginning of a new one."""
    from gemma_cli.chat.conversation import Conversation
    from gemma_cli.commands.running.keeping import KeptRun, last_chat, open_journal

    journal = open_journal()
    try:
        saved = last_chat(journal)
    except BaseException:
        journal.close()
        raise
    conversation = saved.conversation if saved else Conversation(default or "")
    if said is not None:
        conversation.system = said
    conversation.add("user", text)
    kept = KeptRun(journal, conversation) if save else None
    if kept is None:
        journal.close()
    model = saved.summary.model if saved else None
    return Asked(conversation.messages(), None, ending, model, kept)
