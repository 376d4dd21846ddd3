"""Which exchanges fit into the context window, which leave, and what is told. Pure."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from gemma_cli.chat.branches import excerpt
from gemma_cli.chat.conversation import Turn
from gemma_cli.errors import PromptTooLongError

# Room that is kept free for an answer, so that it is not cut after a few words.
_ANSWER_TOKENS = 1024
_ANSWER_SHARE = 4


def answer_room(n_ctx: int, max_tokens: int | None) -> int:
    """Tokens to keep free for the answer: what is asked for, at most a quarter of the window."""
    return max(1, min(max_tokens or _ANSWER_TOKENS, n_ctx // _ANSWER_SHARE))


def leaving(
    exchanges: int, measure: Callable[[int], int], n_ctx: int, room: int, before: int = 0
) -> int:
    """How many of the oldest exchanges must leave so that the newest can be answered.

    measure(skip) is the prompt's length in tokens without the first `skip`
    exchanges; it must not grow with skip. The system text is part of every
    prompt. The last exchange never leaves: when it is alone and there is space
    for less than `room` tokens of answer, it may still be asked.

    before: how many left for the turn before; the search begins there, so that
    a long chat is not measured as a whole for each turn.

    Raises PromptTooLongError when the newest question alone fills the window.
    """
    last = max(exchanges - 1, 0)
    limit = n_ctx - room
    before = min(before, last)
    if measure(before) <= limit:
        if not before or measure(before - 1) > limit:
            return before
        before = 0
        if measure(0) <= limit:
            return 0
    alone = measure(last)
    if alone >= n_ctx:
        raise PromptTooLongError(
            f"This message needs {alone:,} tokens and the context window holds {n_ctx:,}",
            "Send a shorter message, or load a larger window: /set ctx max",
        )
    fits, too_few, step = last, before, 1
    while before and too_few + step < fits:
        if measure(too_few + step) <= limit:
            fits = too_few + step
            break
        too_few, step = too_few + step, step * 2
    while fits - too_few > 1:
        middle = (fits + too_few) // 2
        if measure(middle) <= limit:
            fits = middle
        else:
            too_few = middle
    return fits


def notice(gone: Sequence[tuple[int, Turn]]) -> str:
    """What is said when exchanges leave: (number counted from 1, the question) of each."""
    first, last = gone[0][0], gone[-1][0]
    if len(gone) == 1:
        return (
            f"The context window is full: turn {first} left it ({excerpt(gone[0][1].text)}). "
            "It stays in this chat's history; the model no longer sees it."
        )
    return (
        f"The context window is full: turns {first} to {last} left it "
        f"({excerpt(gone[0][1].text)} … {excerpt(gone[-1][1].text)}). "
        "They stay in this chat's history; the model no longer sees them."
    )


def refusal(gone: Sequence[tuple[int, Turn]]) -> PromptTooLongError:
    """For context_full = "stop": what would have to leave, and what one can do."""
    first, last = gone[0][0], gone[-1][0]
    which = f"turn {first}" if len(gone) == 1 else f"turns {first} to {last}"
    return PromptTooLongError(
        f"The context window is full: {which} would have to leave it",
        "/compact puts a summary in the place of the oldest turns; /set context_full drop lets "
        "them leave; /set ctx max loads a larger window; /new begins again",
    )


def no_room(opening: int, n_ctx: int) -> PromptTooLongError:
    """When what never leaves fills the window alone."""
    return PromptTooLongError(
        f"The system text, pinned documents and the summary need {opening:,} tokens alone, and "
        f"the context window holds {n_ctx:,}",
        "take a document away: /file drop NAME; or load a larger window: /set ctx max",
    )
