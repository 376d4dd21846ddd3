"""The state of a running chat: what the loop and the slash commands work on."""

from __future__ import annotations

from dataclasses import dataclass, field

from gemma_cli.chat.conversation import Conversation
from gemma_cli.chat.journal import Journal
from gemma_cli.engine.protocol import Done, Engine, Sampling


@dataclass(slots=True)
class Session:
    """One chat with one model. label: the model's name as it is shown and saved.

    thinking: whether it is asked to think before it answers, as in Engine.render.
    """

    engine: Engine
    label: str
    conversation: Conversation
    journal: Journal
    sampling: Sampling
    model_sha: str | None = None
    thinking: bool | None = None
    last: Done | None = None
    answers: int = 0
    answer_tokens: int = 0
    # Questions that have left the context window, told already.
    left: set[int] = field(default_factory=set)
    # While a turn is typed, its beginning is evaluated.
    reads_ahead: bool = True

    def typing(self, text: str) -> None:
        """Somebody types the next turn and has come so far."""
        if not self.reads_ahead or text.startswith("/"):
            return
        typed = text.removeprefix('"""')
        messages = self.conversation.upcoming(typed, len(self.left))
        self.engine.read_ahead(messages, thinking=self.thinking)

    def begin_afresh(self) -> int | None:
        """An empty conversation with the same system text; the id of the old one, if saved."""
        self.conversation = Conversation(self.conversation.system)
        self.last = None
        self.left.clear()
        return self.journal.begin()

    def count(self, done: Done) -> None:
        """Take an answer's figures into the statistics."""
        self.last = done
        self.answers += 1
        self.answer_tokens += done.usage.completion_tokens
