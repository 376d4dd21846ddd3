"""What is in the context window: an exact count of the next prompt, part by part."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from gemma_cli.chat.branches import excerpt
from gemma_cli.chat.conversation import opening_message
from gemma_cli.chat.session import Session
from gemma_cli.chat.window import answer_room, leaving
from gemma_cli.engine.protocol import Message
from gemma_cli.errors import PromptTooLongError

_MOST_TURNS = 16


def gauge_text(session: Session) -> str:
    """Tokens of the opening and of each turn; which turns have left; what is free.

    The engine is ready. The parts add up to the prompt that an empty message
    would have now: each is what the prompt loses without it.
    """
    skip = _skip(session)
    opening, turns = _opening(session), _turns(session, skip)
    used = sum(tokens for _, tokens in (*opening, *turns))
    n_ctx = session.engine.info().n_ctx
    waiting = [
        (f"for the next message: {each.name}", session.tokens(each.text))
        for each in session.attached
    ]
    rows = [*opening, *_shortened(turns), *waiting]
    width = max(len(name) for name, _ in rows)
    lines = [f"{name:<{width}}  {tokens:>9,}" for name, tokens in rows]
    free = max(0, n_ctx - used - sum(tokens for _, tokens in waiting))
    lines.append(f"{used:,} of {n_ctx:,} tokens are used, {free:,} are free.")
    return "\n".join([*lines, *_left(session, skip)])


def measure(session: Session) -> None:
    """Count what the context window holds before the next message; the engine is ready."""
    session.used = _upcoming(session, _skip(session))


def _skip(session: Session) -> int:
    """How many of the standing exchanges are not in the window now.

    Those that were told, unless there is room for them again (one went back in
    the tree); all that must be, where the window could not hold the rest.
    """
    answered = sum(len(pair) == 2 for pair in session.conversation.standing())
    n_ctx = session.engine.info().n_ctx
    room = answer_room(n_ctx, session.sampling.max_tokens)
    try:
        needed = leaving(answered + 1, lambda skip: _upcoming(session, skip), n_ctx, room)
    except PromptTooLongError:
        return answered
    told = min(session.skipped(), needed)
    return told if _upcoming(session, told) < n_ctx else needed


def _opening(session: Session) -> list[tuple[str, int]]:
    parts = session.conversation.opening_parts()
    texts = [text for _, text in parts]
    sizes = [_size(session, opening_message(texts[:count])) for count in range(len(parts) + 1)]
    grown = [more - less for less, more in pairwise(sizes)]
    names = [name for name, _ in parts]
    return [("the chat's format", sizes[0]), *zip(names, grown, strict=True)]


def _turns(session: Session, first: int) -> list[tuple[str, int]]:
    talk = session.conversation
    answered = [pair for pair in talk.standing() if len(pair) == 2]
    places = {turn.id: number for number, turn in enumerate(talk.questions(), start=1)}
    sizes = [_upcoming(session, skip) for skip in range(first, len(answered) + 1)]
    return [
        (f"turn {places[pair[0].id]} {excerpt(pair[0].text)}", sizes[at] - sizes[at + 1])
        for at, pair in enumerate(answered[first:])
    ]


def _upcoming(session: Session, skip: int) -> int:
    messages = session.conversation.upcoming("", skip)
    return len(session.engine.render(messages, thinking=session.thinking).tokens)


def _size(session: Session, opening: Sequence[Message]) -> int:
    messages = [*opening, Message("user", "")]
    return len(session.engine.render(messages, thinking=session.thinking).tokens)


def _shortened(turns: list[tuple[str, int]]) -> list[tuple[str, int]]:
    if len(turns) <= _MOST_TURNS:
        return turns
    head, tail = turns[: _MOST_TURNS // 2], turns[-_MOST_TURNS // 2 :]
    between = turns[len(head) : -len(tail)]
    total = sum(tokens for _, tokens in between)
    return [*head, (f"{len(between)} turns between", total), *tail]


def _left(session: Session, skip: int) -> list[str]:
    left = {pair[0].id for pair in session.conversation.standing()[:skip]}
    questions = session.conversation.questions()
    gone = [number for number, turn in enumerate(questions, start=1) if turn.id in left]
    if not gone:
        return []
    which = f"Turn {gone[0]}" if len(gone) == 1 else f"Turns {gone[0]} to {gone[-1]}"
    return [f"{which} left the context window: the model no longer sees what was said there."]
