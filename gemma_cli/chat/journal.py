"""What a running chat writes to its history, and what it says when it cannot."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Protocol

from gemma_cli.chat.conversation import Attachment, Conversation, Turn
from gemma_cli.chat.database import is_damage
from gemma_cli.chat.history import History
from gemma_cli.errors import HistoryError, UsageError

# At most this much of an answer is lost when the program is killed.
INTERVAL_S = 0.4

_DAY_S = 86_400.0
_LONGEST_DAYS = 1_000_000


class Journal(Protocol):
    """Keeps a conversation as it grows. Only history and forget raise because of the disk.

    model: the name that is saved with the conversation.
    """

    model: str

    @property
    def conversation_id(self) -> int | None:
        """The present chat's number in the history; None while it is not saved."""

    @property
    def unsaved(self) -> str | None:
        """Why the last save failed; None: it did not, or nothing is ever to be saved."""

    def save(self, conversation: Conversation) -> None:
        """Make everything that was said durable, now."""

    def due(self) -> bool:
        """Whether the last save is so long ago that an answer on its way should be saved."""

    def begin(self) -> int | None:
        """From here on another conversation is kept; the id of the one that ends, if saved."""

    def resume(self, conversation_id: int, conversation: Conversation) -> None:
        """Go on with a chat that was loaded from the history."""

    def forget(self) -> bool:
        """Remove the present chat from the history for good; False if it was not saved.

        What is saved after that is another chat, so the conversation must be
        another too. Raises HistoryError if it is still there.
        """

    def history(self) -> History:
        """Past chats. Raises HistoryError when they cannot be read, or are not to be."""


class NoJournal:
    """--no-history: nothing is written anywhere."""

    conversation_id = None
    unsaved = None

    def __init__(self, model: str = "") -> None:
        self.model = model

    def save(self, conversation: Conversation) -> None:
        pass

    def due(self) -> bool:
        return False

    def begin(self) -> int | None:
        return None

    def resume(self, conversation_id: int, conversation: Conversation) -> None:
        pass

    def forget(self) -> bool:
        return False

    def history(self) -> History:
        raise HistoryError(
            "this chat keeps no history", "begin one that does: gemma chat, without --no-history"
        )


class HistoryJournal:
    """Writes to the history file, opened when first needed; a failed save is tried again.

    open_history: opens the file; True: check it thoroughly, it was found damaged.
    say: how the user is told, once for each new reason, that nothing is saved.
    model: the name that is saved with the conversation.
    """

    def __init__(
        self,
        open_history: Callable[[bool], History],
        say: Callable[[str], None],
        model: str = "",
    ) -> None:
        self._open_history = open_history
        self.model = model
        self._say = say
        self._history: History | None = None
        self._conversation_id: int | None = None
        self._written: dict[int, Turn] = {}
        self._written_pinned: tuple[Attachment, ...] | None = None
        self._last_save = float("-inf")
        self._told: str | None = None
        self._thorough = False

    @property
    def conversation_id(self) -> int | None:
        return self._conversation_id

    @property
    def unsaved(self) -> str | None:
        if self._history is not None and not self._history.writable:
            return None  # said when it was opened
        if self._history is not None and self._history.damaged:
            return "the history is damaged"
        return self._told

    def history(self) -> History:
        """The history, opened if it was not; what opening it did is told. Raises HistoryError."""
        if self._history is not None and self._history.damaged:
            self._thorough = True
            self.close()
        if self._history is None:
            self._history = self._open_history(self._thorough)
            self._forget_written()
            if self._history.notices:
                self._conversation_id = None  # perhaps a new file was begun
            self._thorough = False
            for notice in self._history.notices:
                self._say(notice)
            if not self._history.writable:
                self._told = "the history is read only"  # its notice said so
        return self._history

    def resume(self, conversation_id: int, conversation: Conversation) -> None:
        self._conversation_id = conversation_id
        self._written = {turn.id: turn for turn in conversation}
        self._written_pinned = conversation.pinned

    def begin(self) -> int | None:
        ended = self._conversation_id if self._told is None else None
        self._conversation_id = None
        self._forget_written()
        return ended

    def forget(self) -> bool:
        if self._conversation_id is None:
            return False
        self.history().remove(self._conversation_id)
        self.begin()
        return True

    def due(self) -> bool:
        return time.monotonic() - self._last_save >= INTERVAL_S

    def save(self, conversation: Conversation) -> None:
        self._last_save = time.monotonic()
        if len(conversation) == 0:
            return
        try:
            history = self.history()
            changed = [turn for turn in conversation if self._written.get(turn.id) is not turn]
            self._conversation_id = history.save(
                self._conversation_id,
                conversation,
                changed,
                self.model,
                pinned=self._written_pinned is not conversation.pinned,
            )
        except (sqlite3.Error, HistoryError) as error:
            self._failed(error)
        else:
            self._written.update((turn.id, turn) for turn in changed)
            self._written_pinned = conversation.pinned
            if self._told is not None:
                self._told = None
                self._say("the history can be written again: this chat is saved")

    def remember_input(self, text: str) -> None:
        """Keep a typed text for the arrow keys; a failure is said with the turn that follows."""
        try:
            history = self.history()
            if history.writable:
                history.remember_input(text)
        except (sqlite3.Error, HistoryError):
            return

    def open(self) -> None:
        """Open the history file now. One that cannot be is said at the first save."""
        with suppress(sqlite3.Error, HistoryError):
            self.history()

    def inputs(self) -> list[str]:
        """What was typed before, the latest first; nothing when it cannot be read."""
        try:
            return self.history().inputs()
        except (sqlite3.Error, HistoryError):
            return []

    def close(self) -> None:
        if self._history is not None:
            self._history.close()
            self._history = None

    def expire(self, days: int, keep: int | None = None) -> int:
        """Remove the chats which nobody touched for so many days, and say it; how many.

        keep: the chat that is to be gone on with. A failure is said, and is 0.
        Raises UsageError for less than a day, which would empty the history.
        """
        if days < 1:
            raise UsageError(
                f"history_days must be 1 or more, not {days}", "to keep no chats: history = false"
            )
        before = time.time() - min(days, _LONGEST_DAYS) * _DAY_S
        try:
            history = self.history()
            old = [chat.id for chat in history.untouched_since(before) if chat.id != keep]
            if not old or not history.writable:
                return 0
            history.remove(*old)
        except HistoryError as error:
            self._say(f"old chats were not removed: {error.message}")
            return 0
        count = "1 chat was" if len(old) == 1 else f"{len(old):,} chats were"
        self._say(
            f"{count} removed from the history: not used for {days} days (history_days in config)"
        )
        return len(old)

    def _forget_written(self) -> None:
        self._written = {}
        self._written_pinned = None

    def _failed(self, error: Exception) -> None:
        # Written again as a whole once it works: what was there may be gone.
        self._forget_written()
        cause = error.__cause__ if isinstance(error, HistoryError) else error
        if isinstance(cause, sqlite3.Error) and is_damage(cause):
            self._thorough = True
            self.close()
        reason = error.message if isinstance(error, HistoryError) else str(error)
        if reason != self._told:
            self._told = reason
            self._say(f"this chat cannot be saved: {reason}. It goes on; saving is tried again")
