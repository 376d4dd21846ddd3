"""A question of `gemma run` and its answer in the history: saved as they happen."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Literal

from gemma_cli.chat.answering import with_figures
from gemma_cli.chat.conversation import Conversation, Origin
from gemma_cli.chat.history import History
from gemma_cli.chat.journal import HistoryJournal
from gemma_cli.engine.protocol import Done, Message, Sampling
from gemma_cli.paths import data_dir
from gemma_cli.terminal.notices import say

if TYPE_CHECKING:
    from collections.abc import Sequence

    from gemma_cli.chat.records import SavedChat
    from gemma_cli.models.store import InstalledModel


class KeptRun:
    """The exchange that is being had. The question is durable before the first word of the answer.

    What cannot be saved is said on stderr; the answer comes all the same.
    """

    def __init__(self, journal: HistoryJournal, conversation: Conversation) -> None:
        self._journal = journal
        self._conversation = conversation
        self._turn = 0

    @property
    def chat(self) -> int | None:
        """The chat's number in the history; None while it is not saved."""
        return self._journal.conversation_id

    def begin(
        self, installed: InstalledModel, sampling: Sampling, *, thinking: bool | None
    ) -> None:
        params = asdict(sampling)
        if thinking is not None:
            params["thinking"] = thinking
        self._journal.model = installed.name
        origin = Origin(installed.name, installed.sha256, params)
        self._turn = self._conversation.add("assistant", "", "streaming", origin).id
        self._journal.save(self._conversation)

    def grow(self, text: Sequence[str], thoughts: Sequence[str]) -> None:
        """The answer so far; written when the last time is long enough ago."""
        if self._journal.due():
            self._keep("streaming", text, thoughts, None)

    def end(self, done: Done | None, text: Sequence[str], thoughts: Sequence[str]) -> None:
        """done: None where the reader left, or a failure or a person broke in."""
        complete = done is not None and done.stop_reason in ("end", "length")
        self._keep("complete" if complete else "cancelled", text, thoughts, done)

    def close(self) -> None:
        self._journal.close()

    def _keep(
        self,
        status: Literal["streaming", "complete", "cancelled"],
        text: Sequence[str],
        thoughts: Sequence[str],
        done: Done | None,
    ) -> None:
        origin = self._conversation[self._turn].origin
        if done is not None:
            origin = with_figures(origin, done)
        self._conversation.change(self._turn, "".join(text), status, origin, "".join(thoughts))
        self._journal.save(self._conversation)


def open_journal() -> HistoryJournal:
    return HistoryJournal(lambda thorough: History(data_dir() / "history.db", thorough), say)


def last_chat(journal: HistoryJournal) -> SavedChat | None:
    """The chat to go on with; said when there is none. Raises HistoryError."""
    history = journal.history()
    latest = history.latest()
    if latest is None:
        say("there is no chat to continue: a new one begins")
        return None
    saved = history.load(latest)
    journal.resume(latest, saved.conversation)
    return saved


def as_conversation(messages: Sequence[Message]) -> Conversation:
    """Messages as a chat that can be gone on with; it has one system text, of all there are."""
    system = "\n\n".join(each.text for each in messages if each.role == "system")
    conversation = Conversation(system)
    for message in messages:
        if message.role != "system":
            conversation.add(message.role, message.text)
    return conversation
