"""A summary in the place of the oldest exchanges: how it is asked for. Pure but for the model."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from gemma_cli.chat.conversation import Turn
from gemma_cli.engine.protocol import Message
from gemma_cli.errors import PromptTooLongError

_LONGEST = 512
_SHORTEST = 32
_SHARE = 8  # of the context window

_TASK = (
    "Summarise the conversation above so that the summary can stand in its place: what was "
    "asked, what was found out and decided, names, numbers, wishes of the user, what is still "
    "open. Keep its language. Write the summary alone, in at most {words} words."
)
_PART = (
    "Summarise the text above: its statements, names and numbers, in its language. "
    "Write the summary alone, in at most {words} words."
)
_WORDS_PER_TOKEN = 0.6


def summary_tokens(n_ctx: int) -> int:
    """How long a summary may be."""
    return max(_SHORTEST, min(_LONGEST, n_ctx // _SHARE))


def request(before: str, exchanges: Sequence[Sequence[Turn]], tokens: int) -> list[Message]:
    """What the model is asked. before: the summary of what came earlier, or ""."""
    parts = [f"Summary of what was said before:\n{before}"] if before else []
    for pair in exchanges:
        for turn in pair:
            speaker = "User" if turn.role == "user" else "Assistant"
            parts.append(f"{speaker}: {turn.sent.strip()}")
    task = _TASK.format(words=int(tokens * _WORDS_PER_TOKEN))
    return [Message("user", "\n\n".join((*parts, "---", task)))]


def part_request(text: str, tokens: int) -> list[Message]:
    """To make a part of a document short."""
    task = _PART.format(words=int(tokens * _WORDS_PER_TOKEN))
    return [Message("user", f"{text}\n\n---\n\n{task}")]


def summarise(
    before: str,
    exchanges: Sequence[Sequence[Turn]],
    fits: Callable[[Sequence[Message]], bool],
    write: Callable[[Sequence[Message]], str],
    tokens: int,
) -> str:
    """The model's summary; in several steps where the window does not hold all at once."""
    rest = list(exchanges)
    text = before
    while rest:
        count = len(rest)
        while count and not fits(request(text, rest[:count], tokens)):
            count -= max(1, count // 4)
        if not count:
            raise PromptTooLongError(
                "a turn alone is too long for the context window, so it cannot be summarised",
                "load a larger window: /set ctx max",
            )
        text = write(request(text, rest[:count], tokens)).strip()
        rest = rest[count:]
    return text
