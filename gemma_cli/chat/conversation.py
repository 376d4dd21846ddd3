"""A conversation as a tree of turns. Pure: no clock but the one handed in, no file."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

from gemma_cli.engine.protocol import Message, Role

Status = Literal["streaming", "complete", "cancelled", "error"]

SUMMARY = "Summary of the conversation so far:"

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

    def summarise(self, turn_id: int, text: str, origin: Origin | None = None) -> Turn:
        """Let a text stand for that turn and all before it; an empty one: nothing does.

        The leaf stays. A later summary takes the place of an earlier one.
        """
        now = self._clock()
        turn = Turn(self._new_id(now), self[turn_id].id, "system", text, "complete", now, origin)
        self._turns[turn.id] = turn
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
        return [
            turn
            for turn in self._turns.values()
            if turn.parent == turn_id and turn.role != "system"
        ]

    def path(self) -> list[Turn]:
        """From the beginning to the leaf."""
        return self.path_to(self.leaf)

    def path_to(self, turn_id: int | None) -> list[Turn]:
        """From the beginning to that turn."""
        path = []
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

    def questions(self) -> list[Turn]:
        """Those of the path; a question's place in it, from 1, is its number for people."""
        return [turn for turn in self.path() if turn.role == "user"]

    def summary(self) -> Turn | None:
        """The newest summary of what is on the path, if it is not empty."""
        path = {turn.id for turn in self.path()}
        made = [turn for turn in self if turn.role == "system" and turn.parent in path]
        return made[-1] if made and made[-1].text.strip() else None

    def standing(self) -> list[tuple[Turn, ...]]:
        """The exchanges that no summary stands for."""
        summary = self.summary()
        if summary is None:
            return self.exchanges()
        covered = {turn.id for turn in self.path_to(summary.parent)}
        return [pair for pair in self.exchanges() if pair[0].id not in covered]

    def opening_parts(self) -> list[tuple[str, str]]:
        """(name, text) of all that never leaves the context window."""
        parts = [("system text", self.system)] if self.system else []
        parts += [(f"pinned {each.name}", each.text) for each in self.pinned]
        summary = self.summary()
        if summary is not None:
            asked = [turn for turn in self.path_to(summary.parent) if turn.role == "user"]
            whose = "turn 1" if len(asked) == 1 else f"turns 1 to {len(asked)}"
            parts.append((f"summary of {whose}", f"{SUMMARY}\n{summary.text.strip()}"))
        return parts

    def opening(self) -> list[Message]:
        """What never leaves: system text, pinned documents, summary; as one system message."""
        return opening_message([text for _, text in self.opening_parts()])

    def messages(self, skip: int = 0) -> list[Message]:
        """What the model is shown: the opening, then all but the first `skip` standing exchanges.

        At an answer the last message is that answer, to be gone on with.
        """
        return [*self.opening(), *_shown(self.standing()[skip:])]

    def upcoming(self, typed: str, skip: int = 0) -> list[Message]:
        """As messages() will be once that is sent; a question without an answer is passed over."""
        answered = [pair for pair in self.standing() if len(pair) == 2]
        return [*self.opening(), *_shown(answered[skip:]), Message("user", typed)]

    def _new_id(self, now: float) -> int:
        # Milliseconds, then random bits: two programs may write to one history.
        fresh = (int(now * 1000) << _RANDOM_BITS) | secrets.randbits(_RANDOM_BITS)
        newest = next(reversed(self._turns), 0)
        return max(fresh, newest + 1)


def _shown(exchanges: Iterable[tuple[Turn, ...]]) -> list[Message]:
    return [Message(turn.role, turn.sent) for pair in exchanges for turn in pair]


def opening_message(texts: Iterable[str]) -> list[Message]:
    """At most one, of role system."""
    text = "\n\n".join(texts)
    return [Message("system", text)] if text else []
