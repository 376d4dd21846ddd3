"""What can be typed: every command, option and argument, read from the program itself."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

# flag: takes no value. installed, any_model: names of models. text: nothing is known about it.
Kind = Literal["flag", "words", "installed", "any_model", "prompt", "key", "file", "text"]

_WORDS = {
    "--ctx": ("auto", "max"),
    "--gpu-layers": ("auto", "all"),
    "--threads": ("auto",),
    "--kv-type": ("f16", "q8_0", "q4_0"),
}
_KINDS: dict[str, Kind] = {
    "PROMPT": "prompt",
    "KEY": "key",
    "FILE": "file",
    "PATH": "file",
    "SHELL": "words",
}
_NOT_YET_HERE = {("pull",), ("plan",), ("show",)}  # they take models that must be fetched first


@dataclass(frozen=True, slots=True)
class Parameter:
    """An option, or an argument: then names is empty.

    metavar: "" for a flag. words: all that it may be. variable: of the environment.
    """

    names: tuple[str, ...]
    metavar: str
    help: str
    kind: Kind
    words: tuple[str, ...] = ()
    variable: str | None = None
    repeats: bool = False


@dataclass(frozen=True, slots=True)
class Command:
    """path: ("history", "list"); () is gemma itself. help: its whole text; short: one sentence."""

    path: tuple[str, ...]
    help: str
    short: str
    parameters: tuple[Parameter, ...]
    commands: tuple[str, ...] = ()

    @property
    def options(self) -> list[Parameter]:
        return [each for each in self.parameters if each.names]

    @property
    def arguments(self) -> list[Parameter]:
        return [each for each in self.parameters if not each.names]


def commands(root: Any) -> list[Command]:
    """Every command below Typer's own one for the program, a group before what is in it."""
    return list(_walk(root, ()))


def _walk(command: Any, path: tuple[str, ...]) -> Iterator[Command]:
    inside = {
        name: each for name, each in getattr(command, "commands", {}).items() if not each.hidden
    }
    parameters = [_parameter(each, path) for each in command.params if not _hidden(each)]
    text = "\n".join(line.strip() for line in (command.help or "").strip().split("\n"))
    short = " ".join(text.split("\n\n")[0].split())
    yield Command(path, text, short, (*parameters, _HELP), tuple(inside))
    for name, each in inside.items():
        yield from _walk(each, (*path, name))


_HELP = Parameter(("-h", "--help"), "", "Show the help and exit.", "flag")


def _hidden(parameter: Any) -> bool:
    return bool(getattr(parameter, "hidden", False)) or parameter.name == "help"


def _parameter(parameter: Any, path: tuple[str, ...]) -> Parameter:
    is_option = parameter.param_type_name == "option"
    names = (*parameter.opts, *parameter.secondary_opts) if is_option else ()
    text = " ".join((getattr(parameter, "help", "") or "").split())
    if getattr(parameter, "is_flag", False):
        return Parameter(names, "", text, "flag", variable=parameter.envvar)
    metavar = parameter.metavar or _metavar(parameter)
    kind, words = _kind(names, metavar, parameter, path)
    repeats = bool(getattr(parameter, "multiple", False)) or parameter.nargs == -1
    return Parameter(names, metavar, text, kind, words, parameter.envvar, repeats)


def _metavar(parameter: Any) -> str:
    if parameter.name.startswith("model"):
        return "[MODEL]"
    if type(parameter.type).__name__ == "TyperPath":
        return "PATH"
    return "TEXT" if type(parameter.type).__name__.startswith("String") else "N"


def _kind(
    names: tuple[str, ...], metavar: str, parameter: Any, path: tuple[str, ...]
) -> tuple[Kind, tuple[str, ...]]:
    parts = metavar.strip("[].").split("|")
    words = tuple(part for part in parts if part.islower())
    if words:
        return "words", words
    for name in names:
        if name in _WORDS and not parameter.multiple:
            return "words", _WORDS[name]
    if "--prompt" in names:
        return "prompt", ()
    if parts[0].startswith("MODEL"):
        return ("any_model" if path in _NOT_YET_HERE else "installed"), ()
    if "PROMPT" in parts and path == ("run",):
        return "text", ()
    return next((_KINDS[part] for part in parts if part in _KINDS), "text"), ()
