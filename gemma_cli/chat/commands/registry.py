"""The registry of slash commands, and what help and completion read from it."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from gemma_cli.chat.interface import Talk
from gemma_cli.chat.session import Session


class Leave(Exception):  # noqa: N818 - a wish, not an error
    """The user wants to end the chat."""


Action = Callable[[Talk, str], str | None]
Choices = Callable[[Session, list[str]], Iterable[tuple[str, str]]]


@dataclass(frozen=True, slots=True)
class Command:
    """names: the first is shown, the others do the same. run: (talk, argument) -> what to say.

    choices: (session, words before) -> the words that completion offers next,
    with their meanings; paths: and files. run's docstring is the long help.
    """

    names: tuple[str, ...]
    argument: str
    summary: str
    choices: Choices
    run: Action
    paths: bool = False

    @property
    def usage(self) -> str:
        return ", ".join(self.names) + (f" {self.argument}" if self.argument else "")

    @property
    def help(self) -> str:
        more = _LINE_END.sub(" ", inspect.getdoc(self.run) or "")  # a terminal breaks lines itself
        return f"{self.usage}\n{self.summary}" + (f"\n\n{more}" if more else "")


_LINE_END = re.compile(r"(?<!\n)\n(?!\n)")
# Each word, the empty last one too; in double quotes one may hold spaces.
_WORD = re.compile(r'(?:^|(?<= ))(?:"[^"]*"?|[^ "])*')

_REGISTRY: dict[str, Command] = {}


def words(*offered: str) -> Choices:
    """Choices for the first word alone."""
    return lambda _session, before: [(word, "") for word in offered] if not before else []


def command(
    *names: str,
    summary: str,
    argument: str = "",
    choices: Choices | None = None,
    paths: bool = False,
) -> Callable[[Action], Action]:
    """Register a function as the command of these names."""

    def register(action: Action) -> Action:
        made = Command(names, argument, summary, choices or words(), action, paths)
        _REGISTRY.update(dict.fromkeys(names, made))
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

    if len(word) < 3:  # too short to resemble one
        return None
    matches = difflib.get_close_matches(word.lower(), _REGISTRY, n=1, cutoff=0.6)
    return matches[0] if matches else None


def completions(text: str, session: Session) -> Iterator[tuple[str, str]]:
    """(replacement for the last word, its meaning) for a command that is being typed."""
    word, space, rest = text.partition(" ")
    if not word.startswith("/") or "\n" in text:
        return
    if not space:
        for each in commands():
            for name in each.names:
                if name.startswith(word.lower()):
                    yield name, each.summary
    elif found := find(word):
        *before, last = _WORD.findall(rest)
        offered = found.choices(session, before)
        yield from ((choice, meaning) for choice, meaning in offered if choice.startswith(last))
        if found.paths and session.documents is not None:
            yield from ((path, "") for path in session.documents.complete(last))
