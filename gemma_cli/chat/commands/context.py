"""Commands about what the model sees: the context window, and a summary in its place."""

from __future__ import annotations

from gemma_cli.chat.commands.registry import command
from gemma_cli.chat.commands.tree import numbers, question
from gemma_cli.chat.fitting import compact as write_summary
from gemma_cli.chat.gauge import gauge_text
from gemma_cli.chat.interface import Talk
from gemma_cli.chat.session import Session
from gemma_cli.errors import UsageError


@command("/context", summary="what fills the context window, in tokens")
def context(talk: Talk, _argument: str) -> str:
    talk.wait()
    return gauge_text(talk.session)


@command(
    "/compact",
    argument="[N|show|off]",
    summary="put a summary in the place of the oldest turns",
    choices=lambda session, before: (
        [] if before else [("show", ""), ("off", ""), *numbers(session, before)]
    ),
)
def compact(talk: Talk, argument: str) -> str:
    """The model writes it for turns 1 to N; alone: for all but the last one. Ctrl-C stops it and
    nothing is changed. What was said stays in the chat. show: the summary; off: take it away."""
    session = talk.session
    if argument.lower() == "show":
        summary = session.conversation.summary()
        return summary.text if summary else "No summary stands for any turn here."
    if argument.lower() == "off":
        return _off(session)
    answered = [pair for pair in session.conversation.standing() if len(pair) == 2]
    if not answered:
        raise UsageError("there is nothing to summarise yet")
    chosen = answered[max(len(answered) - 2, 0)]
    if argument:
        wanted = question(session, argument, "/compact 1")
        matching = [pair for pair in answered if pair[0].id == wanted.id]
        if not matching:
            raise UsageError(f"turn {argument} has a summary already, or no answer")
        chosen = matching[0]
    talk.wait()
    said = write_summary(session, chosen[-1], talk.write)
    session.left.clear()
    return said


def _off(session: Session) -> str:
    summary = session.conversation.summary()
    if summary is None or summary.parent is None:
        return "No summary stands for any turn here."
    session.conversation.summarise(summary.parent, "")
    session.journal.save(session.conversation)
    return "The summary is taken away: the model sees the turns themselves again."
