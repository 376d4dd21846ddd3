"""The tree of a conversation for people: branches by letters, turns by numbers, a picture. Pure.

A branch is a chain of turns from where it forks off to its end; at a fork the
first turn that was there goes on with the old branch. So a letter stays with
its branch whatever is added. A turn's number is that of its question, counted
from the beginning: "b3" is turn 3 as one sees it on branch b.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from gemma_cli.chat.conversation import Conversation, Turn
from gemma_cli.errors import UsageError

_PLACE = re.compile(r"([a-z]*)(\d*)")
_EXCERPT = 48
_LONG = 5  # rows in a line without a fork


@dataclass(slots=True)
class Branch:
    """letter: its name. turns: its own, from the fork on; never empty."""

    letter: str
    turns: list[Turn] = field(default_factory=list)


def branches(conversation: Conversation) -> list[Branch]:
    """Every branch, in the order in which they were begun."""
    of_turn: dict[int, Branch] = {}
    has_heir: set[int | None] = set()
    found: list[Branch] = []
    for turn in conversation:
        if turn.role == "system":
            continue
        if turn.parent is None or turn.parent in has_heir:
            branch = Branch(_letter(len(found)))
            found.append(branch)
        else:
            branch = of_turn[turn.parent]
        if turn.parent is not None:
            has_heir.add(turn.parent)
        branch.turns.append(turn)
        of_turn[turn.id] = branch
    return found


def here(conversation: Conversation) -> str:
    """Where one is, as it is typed: "b3"; "0" before the first turn."""
    leaf = conversation.leaf
    for branch in branches(conversation):
        if any(turn.id == leaf for turn in branch.turns):
            return f"{branch.letter}{len(conversation.questions())}"
    return "0"


def place(conversation: Conversation, typed: str) -> int | None:
    """The turn that "3" (on this path), "b" (a branch's end) or "b3" means; None: the start.

    Raises UsageError that says what there is.
    """
    match = _PLACE.fullmatch(typed.strip().lower())
    if match is None or not match.group():
        raise UsageError(f"'{typed}' is no place in this chat", "what there is: /branches")
    letter, digits = match.groups()
    path = conversation.path()
    if letter:
        named = [branch for branch in branches(conversation) if branch.letter == letter]
        if not named:
            raise UsageError(f"there is no branch '{letter}'", "what there is: /branches")
        path = conversation.path_to(named[0].turns[-1].id)
    count = sum(turn.role == "user" for turn in path)
    if digits and int(digits) > count:
        whose = f"branch {letter}" if letter else "this path"
        raise UsageError(
            f"{whose} has {count} turn{'' if count == 1 else 's'}, not {int(digits)}",
            "what there is: /branches",
        )
    wanted = int(digits) if digits else count
    seen, found = 0, None
    for turn in path:
        seen += turn.role == "user"
        if seen <= wanted:
            found = turn.id
    return found if wanted else None


def picture(conversation: Conversation, *, words: bool = False) -> str:
    """The tree, a line for each turn: the present path straight down, what forks off it indented.

    Long lines of talk without a fork are shortened. words: in place of signs, to be read out.
    """
    found = branches(conversation)
    if not found:
        return "Nothing was said yet."
    drawing = _Drawing(conversation, found, words)
    lines: list[str] = []
    for beginning in conversation.children(None):
        lines += drawing.lines(beginning)
    questions = sum(turn.role == "user" for turn in conversation)
    counts = [
        f"{questions} turn{'' if questions == 1 else 's'}",
        f"{len(found)} branch{'' if len(found) == 1 else 'es'}",
        f"you are {_at(conversation)}",
    ]
    stopped = sum(turn.status == "cancelled" for turn in conversation)
    if stopped:
        counts.insert(2, f"{stopped} answer{'' if stopped == 1 else 's'} stopped")
    ways = "/goto b goes to the end of branch b, /goto b3 to its turn 3." if len(found) > 1 else ""
    path = "" if words else "● this path. "
    summed = f"{path}{', '.join(counts)}. {ways}".strip()
    return "\n".join([*lines, "", summed])


@dataclass(slots=True)
class _Row:
    """A question with the answer below it, or one of them; then what forks off there."""

    turns: list[Turn]
    number: int
    forks: list[Turn] = field(default_factory=list)


class _Drawing:
    def __init__(self, conversation: Conversation, found: list[Branch], words: bool) -> None:
        self._words = words
        self._path = {turn.id for turn in conversation.path()}
        self._leaf = conversation.leaf
        self._letters = {turn.id: each.letter for each in found for turn in each.turns}
        self._children: dict[int | None, list[Turn]] = {}
        self._numbers: dict[int | None, int] = {None: 0}
        for turn in conversation:
            if turn.role != "system":
                self._children.setdefault(turn.parent, []).append(turn)
                self._numbers[turn.id] = self._numbers[turn.parent] + (turn.role == "user")

    def lines(self, beginning: Turn) -> list[str]:
        """From that turn down to an end."""
        rows = self._rows(beginning)
        lines: list[str] = []
        kept = _kept(rows, [any(turn.id == self._leaf for turn in row.turns) for row in rows])
        for index, row in enumerate(rows):
            if not kept[index]:
                if kept[index - 1]:
                    side = "" if self._words else "│ "
                    lines.append(f"{side}… {_run(kept, index)} turns …")
                continue
            lines.append(self._line(row))
            for fork in row.forks:
                first, *others = self.lines(fork)
                if self._words:
                    lines += [f"{first}, beside what follows {self._place(row)}", *others]
                    continue
                lines.append(f"├─{first}")
                lines += [f"│ {line}" for line in others]
        return lines

    def _rows(self, beginning: Turn) -> list[_Row]:
        rows: list[_Row] = []
        turn: Turn | None = beginning
        while turn is not None:
            if turn.role == "user" or not rows:
                rows.append(_Row([], self._numbers[turn.id]))
            rows[-1].turns.append(turn)
            following = self._children.get(turn.id, [])
            heirs = [each for each in following if each.id in self._path] or following[:1]
            rows[-1].forks += [each for each in following if each not in heirs]
            turn = heirs[0] if heirs else None
        return rows

    def _line(self, row: _Row) -> str:
        first, last = row.turns[0], row.turns[-1]
        here = last.id in self._path
        if first.role == "user":
            said = excerpt(first.text)
            said += "" if last.role == "assistant" else "  (no answer)"
        else:
            said = "another answer: " if first.parent is not None else "the model began: "
            said += excerpt(first.text)
        said += {"cancelled": "  (stopped)", "error": "  (failed)"}.get(last.status, "")
        if self._words:
            return f"{self._place(row)}{', this path' if here else ''}: {said}"
        return f"{'●' if here else '○'} {self._place(row)}  {said}"

    def _place(self, row: _Row) -> str:
        return f"{self._letters[row.turns[-1].id]}{row.number}"


def _kept(rows: list[_Row], leaf: list[bool]) -> list[bool]:
    """Which rows are shown: all of a short line; else ends, forks, and where one is."""
    kept = [bool(row.forks) or at_leaf for row, at_leaf in zip(rows, leaf, strict=True)]
    kept[0] = kept[-1] = True
    for index, row in enumerate(kept):
        if not row and kept[index - 1] and (run := _run(kept, index)) <= _LONG - 2:
            kept[index : index + run] = [True] * run
    return kept


def _run(kept: list[bool], start: int) -> int:
    return kept.index(True, start) - start


def excerpt(text: str) -> str:
    """The beginning of a text on one line, in quotes."""
    line = " ".join(text.split())
    return f'"{line}"' if len(line) <= _EXCERPT else f'"{line[: _EXCERPT - 1]}…"'


def _at(conversation: Conversation) -> str:
    return "at the beginning" if conversation.leaf is None else f"at {here(conversation)}"


def _letter(index: int) -> str:
    """a to z, then aa, ab, …"""
    letters = ""
    index += 1
    while index:
        index, rest = divmod(index - 1, 26)
        letters = chr(ord("a") + rest) + letters
    return letters
