"""Completion for fish."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from gemma_cli.commands.shells.offers import keys, made_by, model_names, prompt_names
from gemma_cli.commands.surface import Command, Parameter

_FISH_HEAD = r"""
function __gemma_at
    set -l words (commandline -opc | string match -v -- '-*')
    set -e words[1]
    if test (count $argv) -eq 0
        test (count $words) -eq 0
    else if test $argv[-1] = --
        set -e argv[-1]
        test "$words" = "$argv"
    else
        test "$words[1..$(count $argv)]" = "$argv"
    end 2>/dev/null
end

function __gemma_installed
    set -l place $HOME/.cache/gemma-cli
    set -q XDG_CACHE_HOME; and set place $XDG_CACHE_HOME/gemma-cli
    test (uname) = Darwin; and set place $HOME/Library/Caches/gemma-cli
    test -n "$GEMMA_HOME"; and set place $GEMMA_HOME/cache
    test -r $place/completion/models; and string split \n < $place/completion/models
end

function __gemma_own_prompts
    set -l place $HOME/.config/gemma-cli
    set -q XDG_CONFIG_HOME; and set place $XDG_CONFIG_HOME/gemma-cli
    test (uname) = Darwin; and set place "$HOME/Library/Application Support/gemma-cli"
    test -n "$GEMMA_HOME"; and set place $GEMMA_HOME/config
    set -l files $place/prompts/*.md $place/prompts/*.toml
    string replace -r '.*/(.*)\.[a-z]+$' '$1' -- $files
end

complete -c gemma -f
"""


def script(commands: Sequence[Command]) -> str:
    lines = [line for each in commands for line in _fish_lines(each, commands)]
    return made_by("fish") + _FISH_HEAD + "\n".join(lines) + "\n"


def _fish_lines(command: Command, commands: Sequence[Command]) -> Iterable[str]:
    where = " ".join(("__gemma_at", *command.path))
    exactly = f"{where} --" if command.path else where
    start = f"complete -c gemma -n {_fish(exactly if command.commands else where)}"
    for word in command.commands:
        short = next(each.short for each in commands if each.path == (*command.path, word))
        yield f"{start} -a {word} -d {_fish(short)}"
    for option in command.options:
        spellings = " ".join(
            f"-l {name[2:]}" if name.startswith("--") else f"-s {name[1:]}" for name in option.names
        )
        yield f"{start} {spellings}{_fish_value(option)} -d {_fish(option.help)}"
    for argument in command.arguments[:1]:
        offer = _fish_value(argument)
        if offer not in ("", " -x"):
            if len(command.arguments) > 1:  # what follows the first is another thing
                start = f"complete -c gemma -n {_fish(exactly)}"
            yield start + offer.replace(" -x", "").replace(" -r", "")


def _fish_value(parameter: Parameter) -> str:
    """The part of a `complete` command that says what a value may be."""
    if parameter.kind == "flag":
        return ""
    offers = {
        "words": " ".join(parameter.words),
        "installed": "(__gemma_installed)",
        "any_model": f"(__gemma_installed) {' '.join(model_names())}",
        "prompt": f"(__gemma_own_prompts) {' '.join(prompt_names())}",
        "key": " ".join(keys()),
    }
    if parameter.kind == "file":
        return " -r -F"
    return f" -x -a {_fish(offers[parameter.kind])}" if parameter.kind in offers else " -x"


def _fish(text: str) -> str:
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"
