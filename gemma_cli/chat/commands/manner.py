"""Commands about how the model is to answer: its system text, kept prompts, thinking."""

from __future__ import annotations

import json
import re
from dataclasses import replace

from gemma_cli.chat.answering import NO_THOUGHTS
from gemma_cli.chat.commands.registry import command, words
from gemma_cli.chat.interface import Talk
from gemma_cli.chat.session import Session
from gemma_cli.errors import GemmaError, UsageError

_PAIR = re.compile(r'(\w*)=(?:("(?:[^"\\]|\\.)*")|(\S*))|(\S+)')


@command(
    "/system",
    argument="[TEXT]",
    summary="set the system text (none: no text); alone: show it",
    choices=words("none"),
)
def system(talk: Talk, argument: str) -> str:
    session = talk.session
    if not argument:
        return session.conversation.system or "There is no system text."
    session.conversation.system = "" if argument.lower() == "none" else argument
    session.journal.save(session.conversation)
    return (
        "The system text is set; it holds from the next message on."
        if session.conversation.system
        else "The system text is taken away."
    )


def _prompts(session: Session, before: list[str]) -> list[tuple[str, str]]:
    if session.prompts is None:
        return []
    if not before:
        return session.prompts.names()
    given = {word.partition("=")[0] for word in before[1:]}
    names = session.prompts.variables(before[0])
    return [(f"{name}=", meaning) for name, meaning in names if name not in given]


@command(
    "/prompt",
    argument="[NAME VAR=...]",
    summary="use a kept prompt; alone: list them",
    choices=_prompts,
)
def prompt(talk: Talk, argument: str) -> str:
    """Its system text takes the place of the present one, and its ways of sampling hold but for
    what was set here. Where it has a message too, that stands at the prompt to be filled in.
    A value with spaces is quoted: to="Swiss German"."""
    session = talk.session
    if session.prompts is None:
        raise GemmaError("this chat knows no kept prompts")
    if not argument:
        names = session.prompts.names()
        width = max((len(name) for name, _ in names), default=0) + 2
        return "\n".join(f"{name:<{width}}{purpose}" for name, purpose in names)
    name, _, rest = argument.partition(" ")
    try:
        persona = session.prompts.use(name, _values(rest), session.sampling)
    except UsageError as error:
        if error.hint and error.hint.startswith("--var "):
            error.hint = f"/prompt {name} {rest} ".rstrip() + error.hint.replace("--var", "")
        raise
    kept = {option: getattr(session.sampling, option) for option in session.by_hand}
    session.sampling = replace(persona.sampling, **kept)
    session.conversation.system = persona.system
    session.journal.save(session.conversation)
    if not persona.message:
        return f"The prompt {name} holds from the next message on."

    def send(text: str) -> None:
        talk.send(text if talk.reader.prefills else persona.message + text)

    talk.prefill(persona.message, send)
    return f"The prompt {name} holds from here on. Put your text below its message."


def _values(typed: str) -> dict[str, str]:
    """VAR=VALUE pairs. UsageError for what is none."""
    values = {}
    for match in _PAIR.finditer(typed):
        name, quoted, plain, other = match.groups()
        if other or not name:
            raise UsageError(
                f"'{match.group()}' is no VAR=VALUE", "for example: /prompt translate to=German"
            )
        values[name] = plain if quoted is None else _unquoted(quoted)
    return values


@command(
    "/think",
    argument="[on|off]",
    summary="let the model think first, or not; alone: show it",
    choices=words("on", "off"),
)
def think(talk: Talk, argument: str) -> str:
    session, wish = talk.session, argument.lower()
    if wish not in ("", "on", "off"):
        raise UsageError(f"/think takes on or off, not '{argument}'", "for example: /think on")
    # While the model still loads nobody can know; then the next message tells.
    if session.engine.progress() >= 1.0 and not session.engine.info().thinks:
        return NO_THOUGHTS
    if wish:
        session.thinking = wish == "on"
    return {
        True: "The model thinks before it answers.",
        False: "The model answers at once.",
        None: "Whether the model thinks first is left to its template.",
    }[session.thinking]


def _unquoted(text: str) -> str:
    try:
        return str(json.loads(text, strict=False))
    except ValueError:
        return text[1:-1]  # no escapes in it, only backslashes
