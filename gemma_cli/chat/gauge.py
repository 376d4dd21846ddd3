"""What is in the context window: an exact count of the next prompt, part by part."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from itertools import pairwise

from gemma_cli.chat.branches import excerpt
from gemma_cli.chat.conversation import opening_message
from gemma_cli.chat.session import Session
from gemma_cli.chat.window import answer_room, leaving
from gemma_cli.engine.protocol import Message
from gemma_cli.errors import GemmaError, PromptTooLongError

_MOST_TURNS = 16


def gauge_text(session: Session) -> str:
    """Tokens of the opening and of each turn; which turns have left; what is free.

    The engine is ready. The parts add up to the prompt that an empty message
    would have now: each is what the prompt loses without it. Where the last answer
    filled the window they are more than that by the format of a turn.
    """
    window = _window(session)
    rows = [*_opening(session), *_turns(session, window.skip)]
    waiting = [
        (f"for the next message: {each.name}", session.tokens(each.text))
        for each in session.attached
    ]
    width = max(len(name) for name, _ in (*rows, *waiting))
    lines = [f"{name:<{width}}  {tokens:>9,}" for name, tokens in (*rows, *waiting)]
    n_ctx = session.engine.info().n_ctx
    free = max(0, n_ctx - window.used - sum(tokens for _, tokens in waiting))
    is_ = "is" if free == 1 else "are"
    lines.append(f"{window.used:,} of {n_ctx:,} tokens are used, {free:,} {is_} free.")
    return "\n".join([*lines, *_left(session, window)])


def measure(session: Session) -> None:
    """Count what the context window holds before the next message; the engine is ready."""
    window = _window(session)
    session.next_skip = window.next_skip
    session.used = window.used


def refresh(session: Session) -> None:
    """measure(), if that can be done now; else the figure is not known."""
    try:
        if session.engine.progress() >= 1.0:
            measure(session)
        else:
            session.used = None
    except GemmaError:  # a template that refuses it says so when one asks
        session.used = None


@dataclass(frozen=True, slots=True)
class _Window:
    """skip: how many of the standing exchanges are not in it; used: what the rest takes.

    next_skip: how many the next prompt leaves out, if it is a short one.
    """

    skip: int
    used: int
    next_skip: int


def _window(session: Session) -> _Window:
    """Out of the window are those that were told, unless there is room for them again (one
    went back in the tree); all that must be, where it never held the rest (a resumed chat).
    """
    answered = sum(len(pair) == 2 for pair in session.conversation.standing())
    n_ctx = session.engine.info().n_ctx
    room = answer_room(n_ctx, session.sampling.max_tokens)
    left, before = session.skipped(), session.expected_skip()

    @cache
    def size(skip: int) -> int:
        return _upcoming(session, skip)

    try:
        needed = leaving(answered + 1, size, n_ctx, room, before)
    except PromptTooLongError:
        return _Window(answered, min(size(answered), n_ctx), answered)
    told = min(left, needed)
    if size(told) < n_ctx:
        return _Window(told, size(told), needed)
    if session.last is not None:  # the last answer filled it
        return _Window(told, n_ctx, needed)
    return _Window(needed, size(needed), needed)


def _opening(session: Session) -> list[tuple[str, int]]:
    parts = session.conversation.opening_parts()
    texts = [text for _, text in parts]
    sizes = [_size(session, opening_message(texts[:count])) for count in range(len(parts) + 1)]
    grown = [more - less for less, more in pairwise(sizes)]
    names = [name for name, _ in parts]
    return [("the chat's format", sizes[0]), *zip(names, grown, strict=True)]


def _turns(session: Session, first: int) -> list[tuple[str, int]]:
    """The turns that are shown, each with its size; those between two ends of many in one row."""
    talk = session.conversation
    answered = [pair for pair in talk.standing() if len(pair) == 2]
    places = {turn.id: number for number, turn in enumerate(talk.questions(), start=1)}
    count, end = len(answered), _MOST_TURNS // 2
    edges = list(range(first, count + 1))
    if len(edges) > _MOST_TURNS + 1:
        edges = [*edges[: end + 1], *edges[-end - 1 :]]
    sizes = [_upcoming(session, skip) for skip in edges]

    def name(begin: int, after: int) -> str:
        if after - begin > 1:
            return f"{after - begin} turns between"
        question = answered[begin][0]
        return f"turn {places[question.id]} {excerpt(question.text)}"

    return [
        (name(*of), more - less)
        for of, (more, less) in zip(pairwise(edges), pairwise(sizes), strict=True)
    ]


def _upcoming(session: Session, skip: int) -> int:
    messages = session.conversation.upcoming("", skip)
    return len(session.engine.render(messages, thinking=session.thinking).tokens)


def _size(session: Session, opening: Sequence[Message]) -> int:
    messages = [*opening, Message("user", "")]
    return len(session.engine.render(messages, thinking=session.thinking).tokens)


_NEXT = {
    "drop": "With your next message {} will leave the window.",
    "compact": "With your next message a summary will take the place of {}.",
    "stop": "Your next message will be refused: there is no room for it beside {}.",
}


def _left(session: Session, window: _Window) -> list[str]:
    """Which turns the model no longer sees, and which it will not with the next message."""
    out = {pair[0].id for pair in session.conversation.standing()[: window.next_skip]}
    told: list[int] = []
    untold: list[int] = []
    for number, turn in enumerate(session.conversation.questions(), start=1):
        if turn.id in out:
            (told if turn.id in session.left else untold).append(number)
    said = []
    if told:
        gone = _numbers(told).capitalize()
        said.append(
            f"{gone} left the context window: the model no longer sees what was said there."
        )
    if untold:
        said.append(_NEXT[session.context_full].format(_numbers(untold)))
    return said


def _numbers(turns: list[int]) -> str:
    return f"turn {turns[0]}" if len(turns) == 1 else f"turns {turns[0]} to {turns[-1]}"
