"""Slash commands: one decorated function each. Help and completion read the same registry."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

from gemma_cli.chat.session import Session
from gemma_cli.engine.protocol import LogitBias, Sampling, check_sampling, parse_logit_bias
from gemma_cli.errors import UsageError


class Leave(Exception):  # noqa: N818 - a wish, not an error
    """The user wants to end the chat."""


Action = Callable[[Session, str], str]


@dataclass(frozen=True, slots=True)
class Command:
    """names: the first is shown, the others do the same. run: (session, argument) -> what to say.

    choices: words that completion offers as the argument.
    """

    names: tuple[str, ...]
    argument: str
    summary: str
    choices: tuple[str, ...]
    run: Action


_REGISTRY: dict[str, Command] = {}


def _command(
    *names: str, summary: str, argument: str = "", choices: tuple[str, ...] = ()
) -> Callable[[Action], Action]:
    def register(action: Action) -> Action:
        command = Command(names, argument, summary, choices, action)
        _REGISTRY.update(dict.fromkeys(names, command))
        return action

    return register


def commands() -> list[Command]:
    """Every command once, in the order of the help."""
    return list(dict.fromkeys(_REGISTRY.values()))


def split(text: str) -> tuple[str, str]:
    """A typed line as (its first word, the rest)."""
    word, _, rest = text.strip().partition(" ")
    first, newline, more = word.partition("\n")
    return first, f"{more} {rest}".strip() if newline else rest.strip()


def find(word: str) -> Command | None:
    """The command of that whole word, case ignored."""
    return _REGISTRY.get(word.lower())


def near(word: str) -> str | None:
    """The command that was probably meant."""
    import difflib

    matches = difflib.get_close_matches(word.lower(), _REGISTRY, n=1, cutoff=0.6)
    return matches[0] if matches else None


def completions(text: str) -> Iterator[tuple[str, str]]:
    """(replacement for the last word, its meaning) for a line that is being typed."""
    word, space, rest = text.partition(" ")
    if not word.startswith("/") or "\n" in text:
        return
    if not space:
        for command in commands():
            for name in command.names:
                if name.startswith(word.lower()):
                    yield name, command.summary
    elif (found := find(word)) and " " not in rest:
        yield from ((choice, "") for choice in found.choices if choice.startswith(rest))


@_command("/help", "/?", summary="what can be typed here")
def _help(_session: Session, _argument: str) -> str:
    rows = [
        (", ".join(command.names) + (f" {command.argument}" if command.argument else ""), command)
        for command in commands()
    ]
    width = max(len(usage) for usage, _ in rows) + 2
    lines = [f"{usage:<{width}}{command.summary}" for usage, command in rows]
    return "\n".join((*lines, "", *_KEYS))


_KEYS = (
    "Enter sends; Alt-Enter, Ctrl-J or a \\ at the end of a line begins a new line.",
    'Text between """ and """ may have several lines. A paste is never a command.',
    "Ctrl-R searches what was typed before. Ctrl-C stops an answer; Ctrl-D leaves.",
)


@_command("/exit", "/quit", "/bye", summary="leave (Ctrl-D does too)")
def _exit(_session: Session, _argument: str) -> str:
    raise Leave


@_command("/clear", summary="begin a new conversation; the old one stays in the history")
def _clear(session: Session, _argument: str) -> str:
    empty = len(session.conversation) == 0
    ended = session.begin_afresh()
    if empty:
        return "This conversation is empty already."
    if ended is None:
        return "A new conversation begins. The old one was not saved."
    return f"A new conversation begins. The old one is kept: gemma chat --resume {ended}"


@_command(
    "/system",
    argument="[TEXT]",
    summary="set the system text (none: no text); alone: show it",
    choices=("none",),
)
def _system(session: Session, argument: str) -> str:
    if not argument:
        return session.conversation.system or "There is no system text."
    session.conversation.system = "" if argument.lower() == "none" else argument
    session.journal.save(session.conversation)
    return (
        "The system text is set; it holds from the next message on."
        if session.conversation.system
        else "The system text is taken away."
    )


NO_THOUGHTS = "This model cannot be asked to think: it answers at once."


@_command(
    "/think",
    argument="[on|off]",
    summary="let the model think first, or not; alone: show it",
    choices=("on", "off"),
)
def _think(session: Session, argument: str) -> str:
    wish = argument.lower()
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


_OFF = ("none", "auto", "random")


def _count_or_none(text: str) -> int | None:
    return None if text.lower() in _OFF else int(text)


def _logit_bias(text: str) -> tuple[LogitBias, ...]:
    """Entries between white space; a text in double quotes may hold some."""
    if text.lower() in _OFF:
        return ()
    return tuple(map(parse_logit_bias, re.findall(r'(?:"(?:[^"\\]|\\.)*"|\S)+', text)))


def _stop(text: str) -> tuple[str, ...]:
    """One text as it is, or a JSON list of several."""
    if text.lower() in _OFF:
        return ()
    try:
        listed = json.loads(text)
    except json.JSONDecodeError:
        return (text,)
    if isinstance(listed, list) and all(isinstance(each, str) for each in listed):
        return tuple(listed)
    return (text,)


_OPTIONS: dict[str, Callable[[str], Any]] = {
    "temperature": float,
    "top_k": int,
    "top_p": float,
    "min_p": float,
    "repeat_penalty": float,
    "presence_penalty": float,
    "frequency_penalty": float,
    "repeat_last_n": int,
    "dry_multiplier": float,
    "dry_base": float,
    "dry_allowed_length": int,
    "dry_last_n": int,
    "xtc_probability": float,
    "xtc_threshold": float,
    "logit_bias": _logit_bias,
    "stop": _stop,
    "seed": _count_or_none,
    "max_tokens": _count_or_none,
}


@_command(
    "/set",
    argument="[NAME VALUE]",
    summary="change how answers are sampled; alone: show it",
    choices=tuple(_OPTIONS),
)
def _set(session: Session, argument: str) -> str:
    if not argument:
        return "\n".join(_show(session.sampling, name) for name in _OPTIONS)
    name, _, value = argument.partition(" ")
    name, value = name.lower().replace("-", "_"), value.strip()
    name = "temperature" if name == "temp" else name
    if name not in _OPTIONS:
        raise UsageError(f"there is no option '{name}'", f"options: {', '.join(_OPTIONS)}")
    if not value:
        return _show(session.sampling, name)
    try:
        changed = replace(session.sampling, **{name: _OPTIONS[name](value)})
    except ValueError:
        raise UsageError(
            f"{name} must be a number, not '{value}'", f"for example: {_example(name)}"
        ) from None
    check_sampling(changed)
    session.sampling = changed
    return _show(changed, name)


def _example(name: str) -> str:
    default = getattr(Sampling(), name)
    return f"/set {name} {1 if default is None else default}"


def _show(sampling: Sampling, name: str) -> str:
    value = getattr(sampling, name)
    if name == "seed" and value is None:
        shown = "random"
    elif value is None or value == ():
        shown = "none"
    elif name == "logit_bias":
        shown = " ".join(
            f"{json.dumps(token, ensure_ascii=False)}={bias:g}" for token, bias in value
        )
    elif name == "stop":
        shown = json.dumps(value, ensure_ascii=False)
    else:
        shown = str(value)
    return f"{name:<18} {shown}"


@_command("/stats", summary="figures of the last answer and of this chat")
def _stats(session: Session, _argument: str) -> str:
    done = session.last
    if done is None:
        return "There is no answer yet in this conversation."
    usage, timings = done.usage, done.timings
    return "\n".join(
        (
            f"prompt          {usage.prompt_tokens:,} tokens, {usage.cached_tokens:,} of them "
            f"cached; {timings.prompt_tps:,.0f} tokens/s",
            f"answer          {usage.completion_tokens:,} tokens; "
            f"{timings.decode_tps:,.1f} tokens/s",
            f"drafts          {usage.drafted_tokens:,} tokens guessed, "
            f"{usage.accepted_tokens:,} of them right",
            f"first token     {timings.ttft_s:.2f} s; whole answer {timings.total_s:.2f} s",
            f"context window  {done.used:,} of {done.n_ctx:,} tokens",
            f"seed            {done.seed}",
            f"load            {timings.load_s:.2f} s",
            f"since the start {session.answers:,} answered, {session.answer_tokens:,} tokens",
        )
    )
