"""A conversation as a tree of turns. Pure: no clock but the one handed in, no file."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

from gemma_cli.engine.protocol import Message, Role

Status = Literal["streaming", "complete", "cancelled", "error"]

# Beside 43 bits of milliseconds, which last until 2248.
_RANDOM_BITS = 20


@dataclass(frozen=True, slots=True)
class Origin:
    """What made an answer, so that it can be had again and be compared.

    params: the sampling options with the seed that was used.
    counts: tokens and tokens per second, by the names of Usage and Timings.
    """

    model: str
    model_sha: str | None = None
    params: Mapping[str, object] = field(default_factory=dict)
    counts: Mapping[str, object] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Attachment:
    """A document in a conversation. name: as people see it; text: as the model does."""

    name: str
    text: str


@dataclass(frozen=True, slots=True)
class Turn:
    """What one side said once. parent is the turn that it answers or follows.

    A turn of the role "system" is a summary: it stands, for the model, for its
    parent and all before that.

    thoughts: what a model thought aloud before or while it said text. They are
    kept for people; no model is shown them again.
    attachments: documents that were sent with a question, before its text.
    """

    id: int
    parent: int | None
    role: Role
    text: str
    status: Status = "complete"
    created: float = 0.0
    origin: Origin | None = None
    thoughts: str = ""
    attachments: tuple[Attachment, ...] = ()

    @property
    def sent(self) -> str:
        """What the model is shown of it: its documents, then its text."""
        return "\n\n".join((*(each.text for each in self.attachments), self.text))


class Conversation:
    """Turns that share a beginning; `leaf` is the end of the branch one talks on.

    title: as somebody set it; empty: the history makes one of the first question.
    pinned: documents that the model is shown first, beside the system text; like
    that they never leave the context window.

    Ids are positive 63-bit integers that grow with time and need no database to
    be unique, so a turn that could not be saved yet has its final id already.
    """

    def __init__(self, system: str = "", clock: Callable[[], float] = time.time) -> None:
        self.system = system
        self.title = ""
        self.pinned: tuple[Attachment, ...] = ()
        self.leaf: int | None = None
        self._turns: dict[int, Turn] = {}
        self._clock = clock

    def __iter__(self) -> Iterator[Turn]:
        """Every turn of every branch, a parent before its children."""
        return iter(self._turns.values())

    def __len__(self) -> int:
        return len(self._turns)

    def __getitem__(self, turn_id: int) -> Turn:
        return self._turns[turn_id]

    def add(
        self,
        role: Role,
        text: str,
        status: Status = "complete",
        origin: Origin | None = None,
        attachments: tuple[Attachment, ...] = (),
    ) -> Turn:
        """Say something after the leaf; it becomes the leaf."""
        now = self._clock()
        turn_id = self._new_id(now)
        turn = Turn(turn_id, self.leaf, role, text, status, now, origin, attachments=attachments)
        self._turns[turn.id] = turn
        self.leaf = turn.id
        return turn

    def insert(self, turn: Turn) -> None:
        """Take in a turn that exists already (its parent first). The leaf stays."""
        if turn.parent is not None and turn.parent not in self._turns:
            raise ValueError(f"turn {turn.id} follows turn {turn.parent}, which is not here")
        self._turns[turn.id] = turn

    def change(
        self,
        turn_id: int,
        text: str,
        status: Status,
        origin: Origin | None = None,
        thoughts: str = "",
    ) -> Turn:
        """Replace what a turn says (an answer that grew or ended); its place stays."""
        old = self._turns[turn_id]
        turn = replace(
            old, text=text, status=status, origin=origin or old.origin, thoughts=thoughts
        )
        self._turns[turn_id] = turn
        return turn

    def go_to(self, turn_id: int | None) -> None:
        """Talk on after that turn; None: before the first one."""
        if turn_id is not None and turn_id not in self._turns:
            raise KeyError(turn_id)
        self.leaf = turn_id

    def children(self, turn_id: int | None) -> list[Turn]:
        """The turns that follow one directly: the branches. None: all beginnings."""
        return [turn for turn in self._turns.values() if turn.parent == turn_id]

    def path(self) -> list[Turn]:
        """From the beginning to the leaf."""
        path = []
        turn_id = self.leaf
        while turn_id is not None:
            turn = self._turns[turn_id]
            path.append(turn)
            turn_id = turn.parent
        path.reverse()
        return path

    def exchanges(self) -> list[tuple[Turn, ...]]:
        """The path as (question, answer) pairs that a model can be shown.

        A question whose answer never began is left out, or two questions would
        stand side by side, which no chat template allows. The last pair is the
        question alone while it waits for its answer.
        """
        pairs: list[tuple[Turn, ...]] = []
        path = self.path()
        for index, turn in enumerate(path):
            if turn.role != "user":
                continue
            follower = path[index + 1] if index + 1 < len(path) else None
            if follower is None:
                pairs.append((turn,))
            elif follower.role == "assistant" and follower.text.strip():
                pairs.append((turn, follower))
        return pairs

    def messages(self, skip: int = 0) -> list[Message]:
        """What the model is shown: the system text, then all but the first `skip` exchanges."""
        shown = [Message(turn.role, turn.sent) for pair in self.exchanges()[skip:] for turn in pair]
        return [Message("system", self.system), *shown] if self.system else shown

    def upcoming(self, typed: str, skip: int = 0) -> list[Message]:
        """As messages() will be once that is sent; a question without an answer is passed over."""
        answered = [pair for pair in self.exchanges() if len(pair) == 2]
        shown = [Message(turn.role, turn.sent) for pair in answered[skip:] for turn in pair]
        system = [Message("system", self.system)] if self.system else []
        return [*system, *shown, Message("user", typed)]

    def _new_id(self, now: float) -> int:
        # Milliseconds, then random bits: two programs may write to one history.
        fresh = (int(now * 1000) << _RANDOM_BITS) | secrets.randbits(_RANDOM_BITS)
        newest = next(reversed(self._turns), 0)
        return max(fresh, newest + 1)
