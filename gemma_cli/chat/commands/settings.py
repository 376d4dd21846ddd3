"""Commands about the model, how it is loaded, and how answers are sampled."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, get_args

from gemma_cli.chat.commands.registry import command, words
from gemma_cli.chat.gauge import gauge_text
from gemma_cli.chat.interface import Talk
from gemma_cli.chat.session import ContextFull, Models, Session
from gemma_cli.engine.protocol import LogitBias, Sampling, check_sampling, parse_logit_bias
from gemma_cli.errors import GemmaError, UsageError

_OFF = ("none", "auto", "random")
_FOR_THE_SHELL = re.compile(r"(?<!\S)'(\S+)'(?!\S)")
_FULL: tuple[str, ...] = get_args(ContextFull)


def _count_or_none(text: str) -> int | None:
    return None if text.lower() in _OFF else int(text)


def _logit_bias(text: str) -> tuple[LogitBias, ...]:
    """Entries between white space; a text in double quotes may hold some."""
    if text.lower() in _OFF:
        return ()
    return tuple(map(parse_logit_bias, re.findall(r'(?:"(?:[^"\\]|\\.)*"|\S)+', text)))


def _stop(text: str) -> tuple[str, ...]:
    """One text as it is or in double quotes, or a JSON list of several."""
    if text.lower() in _OFF:
        return ()
    try:
        listed = json.loads(text)
    except json.JSONDecodeError:
        return (text,)
    if isinstance(listed, str):
        return (listed,)
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

_VALUES = {
    "context_full": _FULL,
    "kv_type": ("f16", "q8_0", "q4_0"),
    "ctx": ("auto", "max"),
    "gpu_layers": ("auto", "all"),
    "threads": ("auto",),
    "seed": ("random",),
    "max_tokens": ("none",),
    "stop": ("none",),
    "logit_bias": ("none",),
}


def _set_choices(session: Session, before: list[str]) -> list[tuple[str, str]]:
    if not before:
        placement = session.models.placement() if session.models else {}
        return [(name, "") for name in (*_OPTIONS, "context_full")] + [
            (name, "loads the model again") for name in placement
        ]
    return [(value, "") for value in _VALUES.get(before[0], ())] if len(before) == 1 else []


@command(
    "/set",
    argument="[NAME VALUE]",
    summary="change how answers are made; alone: show it",
    choices=_set_choices,
)
def set_(talk: Talk, argument: str) -> str:
    """ctx, gpu_layers, threads, kv_type, gpu_margin and draft load the model again; auto leaves
    them to the plan. context_full says what happens when a turn would not fit: drop (the oldest
    leave), compact (the model writes a summary of them), stop (the turn is refused)."""
    session = talk.session
    if not argument:
        return _options(session)
    name, _, value = argument.partition(" ")
    name, value = name.lower().replace("-", "_"), value.strip()
    name = "temperature" if name == "temp" else name
    placement = session.models.placement() if session.models else {}
    if name in placement:
        if not value:
            return _line(name, placement[name])
        with _named_as_here(name):
            return _open(talk, None, {name: value})
    if name == "context_full":
        return _set_context_full(session, value)
    if name not in _OPTIONS:
        known = ", ".join((*_OPTIONS, "context_full", *placement))
        raise UsageError(f"there is no option '{name}'", f"options: {known}")
    if value:
        with _named_as_here(name):
            session.sampling = _changed(session.sampling, name, value)
        session.by_hand.add(name)
    return _line(name, _shown(session.sampling, name))


@contextmanager
def _named_as_here(name: str) -> Iterator[None]:
    """What is said of an option of the command line is said of /set's."""
    flag = "temp" if name == "temperature" else name.replace("_", "-")
    option = re.compile(rf"--{flag}(?![\w-])")
    try:
        yield
    except UsageError as error:
        hint = error.hint and _FOR_THE_SHELL.sub(r"\1", option.sub(f"/set {name}", error.hint))
        raise UsageError(option.sub(name, error.message), hint) from error


def _changed(sampling: Sampling, name: str, value: str) -> Sampling:
    try:
        changed = replace(sampling, **{name: _OPTIONS[name](value)})
    except ValueError:
        default = getattr(Sampling(), name)
        example = f"/set {name} {1 if default is None else default}"
        raise UsageError(
            f"{name} must be a number, not '{value}'", f"for example: {example}"
        ) from None
    check_sampling(changed)
    return changed


def _set_context_full(session: Session, value: str) -> str:
    if value.lower() in _FULL:
        session.context_full = value.lower()  # type: ignore[assignment]
    elif value:
        raise UsageError(f"context_full takes {', '.join(_FULL)}, not '{value}'")
    return _line("context_full", session.context_full)


def _options(session: Session) -> str:
    lines = [_line(name, _shown(session.sampling, name)) for name in _OPTIONS]
    lines.append(_line("context_full", session.context_full))
    if session.models:
        lines += [_line(name, value) for name, value in session.models.placement().items()]
    return "\n".join(lines)


def _line(name: str, shown: str) -> str:
    return f"{name:<18} {shown}"


def _shown(sampling: Sampling, name: str) -> str:
    value = getattr(sampling, name)
    if name == "seed" and value is None:
        return "random"
    if value is None or value == ():
        return "none"
    if name == "logit_bias":
        return " ".join(
            f"{json.dumps(token, ensure_ascii=False)}={bias:g}" for token, bias in value
        )
    if name == "stop":
        return json.dumps(value, ensure_ascii=False)
    return str(value)


@command(
    "/show",
    argument="[WHAT]",
    summary="what is set, loaded and in the context",
    choices=words("options", "model", "context", "plan"),
)
def show(talk: Talk, argument: str) -> str:
    """WHAT is options, model, context or plan. Alone: the options and the model."""
    wish = argument.lower()
    if wish == "options":
        return _options(talk.session)
    talk.wait()
    if wish == "context":
        return gauge_text(talk.session)
    if wish == "plan":
        return _models(talk.session).plan()
    if wish in ("", "model"):
        facts = talk.session.models.facts() if talk.session.models else talk.session.label
        return facts if wish else f"{facts}\n\n{_options(talk.session)}"
    raise UsageError(f"/show takes options, model, context or plan, not '{argument}'")


@command(
    "/model",
    argument="[NAME]",
    summary="go on with another model; alone: which it is",
    choices=lambda session, before: (
        [] if before or not session.models else [(name, "") for name in session.models.names()]
    ),
)
def model(talk: Talk, argument: str) -> str:
    """The conversation stays; the new model's own sampling is used but for what was set here.
    The old model is closed when the new one is ready; before, if memory does not hold both."""
    if argument:
        return _open(talk, argument, {})
    talk.wait()
    models = talk.session.models
    return models.facts() if models else talk.session.label


def _open(talk: Talk, name: str | None, changes: dict[str, str]) -> str:
    models = _models(talk.session)
    talk.wait()
    before = models.present
    try:
        notes = models.open(name, changes, talk.wait)
    finally:
        if models.present is not before:
            talk.session.use(models.present)
    return "\n".join(notes)


def _models(session: Session) -> Models:
    if session.models is None:
        raise GemmaError("this chat has one model, loaded in one way")
    return session.models
