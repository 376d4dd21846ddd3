"""The next prompt: as much of the conversation as the context window holds; the rest is told."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from gemma_cli.chat.compaction import summarise, summary_tokens
from gemma_cli.chat.conversation import Origin, Turn
from gemma_cli.chat.session import Session
from gemma_cli.chat.window import answer_room, leaving, no_room, notice, refusal
from gemma_cli.engine.protocol import Message, Prompt
from gemma_cli.errors import GemmaError, PromptTooLongError

Write = Callable[[Sequence[Message], int, str], tuple[str, dict[str, Any]]]


def fitting_prompt(session: Session, say: Callable[[str], None], write: Write) -> Prompt:
    """The prompt for the leaf, and what context_full wants done about what does not fit.

    write: as in Talk. Raises PromptTooLongError.
    """
    skip, prompt = _fit(session)
    gone = _gone(session, skip)
    news = [(number, turn) for number, turn in gone if turn.id not in session.left]
    if news and session.context_full == "stop":
        raise refusal(news)
    if news and session.context_full == "compact" and _compacted(session, skip, say, write):
        session.left.clear()
        skip, prompt = _fit(session)
        news = gone = _gone(session, skip)
    session.left = {turn.id for _, turn in gone}
    if news:
        say(notice(news))
    return prompt


def _fit(session: Session, room: int | None = None) -> tuple[int, Prompt]:
    """How many of the standing exchanges must leave, and the prompt without them."""
    conversation, engine = session.conversation, session.engine
    n_ctx = engine.info().n_ctx
    standing = len(conversation.standing())
    rendered: dict[int, Prompt] = {}

    def measure(skip: int) -> int:
        if skip not in rendered:
            messages = conversation.messages(skip)
            rendered[skip] = engine.render(messages, thinking=session.thinking)
        return len(rendered[skip].tokens)

    if room is None:
        room = answer_room(n_ctx, session.sampling.max_tokens)
    try:
        skip = leaving(standing, measure, n_ctx, room, session.expected_skip())
    except PromptTooLongError:
        empty = [*conversation.opening(), Message("user", "")]
        opening = len(engine.render(empty, thinking=session.thinking).tokens)
        if conversation.opening() and opening >= n_ctx - room:
            raise no_room(opening, n_ctx) from None
        if conversation.messages()[-1].role == "assistant":
            raise PromptTooLongError(
                f"The answer and its question fill the context window of {n_ctx:,} tokens alone",
                "load a larger window: /set ctx max",
            ) from None
        raise
    return skip, rendered[skip]


def _gone(session: Session, skip: int) -> list[tuple[int, Turn]]:
    """The questions of the first exchanges, with their numbers."""
    questions = session.conversation.questions()
    numbers = {turn.id: number for number, turn in enumerate(questions, start=1)}
    return [(numbers[pair[0].id], pair[0]) for pair in session.conversation.standing()[:skip]]


def _compacted(session: Session, skip: int, say: Callable[[str], None], write: Write) -> bool:
    """Put a summary in the place of what must leave, and of enough more to last a while."""
    n_ctx = session.engine.info().n_ctx
    many, _ = _fit(session, room=n_ctx // 2)
    last = session.conversation.standing()[max(skip, many) - 1]
    try:
        say(compact(session, last[-1], write))
    except GemmaError as error:
        say(f"No summary could be written: {error.message}.")
        return False
    return True


def compact(session: Session, last: Turn, write: Write) -> str:
    """Let the model write a summary of all up to that turn, and keep it; what to say of it."""
    conversation, engine = session.conversation, session.engine
    covered = {turn.id for turn in conversation.path_to(last.id)}
    standing = [pair for pair in conversation.standing() if pair[0].id in covered]
    before = conversation.summary()
    n_ctx = engine.info().n_ctx
    limit = summary_tokens(n_ctx)
    counts: dict[str, Any] = {}

    def fits(messages: Sequence[Message]) -> bool:
        return len(engine.render(messages).tokens) + limit < n_ctx

    def written(messages: Sequence[Message]) -> str:
        text, figures = write(messages, limit, "Summary")
        counts.update(figures)
        return text

    text = summarise(before.text if before else "", standing, fits, written, limit)
    if not text:
        raise GemmaError("the model wrote an empty summary", "try again: /compact")
    size = _size(session)
    origin = Origin(session.label, session.model_sha, {"max_tokens": limit}, counts)
    conversation.summarise(last.id, text, origin)
    session.journal.save(conversation)
    saved = size - _size(session)
    upto = sum(turn.role == "user" for turn in conversation.path_to(last.id))
    whose = "turn 1" if upto == 1 else f"turns 1 to {upto}"
    gain = f"saves {saved:,} tokens" if saved >= 0 else f"is {-saved:,} tokens longer than they are"
    return (
        f"A summary stands for {whose} now and {gain}. /compact show, "
        "/edit summary, /compact off: what was said stays in this chat."
    )


def _size(session: Session) -> int:
    messages = session.conversation.upcoming("")
    return len(session.engine.render(messages, thinking=session.thinking).tokens)
