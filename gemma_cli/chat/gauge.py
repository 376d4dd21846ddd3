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
    would have now: each is what the prompt loses without it.
    """
    window = _window(session)
    skip, used = window.skip, window.used
    opening, turns = _opening(session), _turns(session, skip)
    n_ctx = session.engine.info().n_ctx
    waiting = [
        (f"for the next message: {each.name}", session.tokens(each.text))
        for each in session.attached
    ]
    rows = [*opening, *turns, *waiting]
    width = max(len(name) for name, _ in rows)
    lines = [f"{name:<{width}}  {tokens:>9,}" for name, tokens in rows]
    free = max(0, n_ctx - used - sum(tokens for _, tokens in waiting))
    lines.append(f"{used:,} of {n_ctx:,} tokens are used, {free:,} are free.")
    return "\n".join([*lines, *_left(session, skip)])


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
    went back in the tree); all that must be, where the window could not hold the rest.
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
        return _Window(answered, size(answered), answered)
    told = min(left, needed)
    skip = told if size(told) < n_ctx else needed
    return _Window(skip, size(skip), needed)


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


def _left(session: Session, skip: int) -> list[str]:
    left = {pair[0].id for pair in session.conversation.standing()[:skip]}
    questions = session.conversation.questions()
    gone = [number for number, turn in enumerate(questions, start=1) if turn.id in left]
    if not gone:
        return []
    which = f"Turn {gone[0]}" if len(gone) == 1 else f"Turns {gone[0]} to {gone[-1]}"
    return [f"{which} left the context window: the model no longer sees what was said there."]
