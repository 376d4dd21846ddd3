"""Completion for zsh."""

from __future__ import annotations

from collections.abc import Sequence

from gemma_cli.commands.shells.offers import keys, made_by, model_names, prompt_names, quoted
from gemma_cli.commands.surface import Command, Parameter

_ZSH_HEAD = r"""
_gemma__installed() {
    local place
    local -a found=($_gemma_catalogue)
    if [[ -n $GEMMA_HOME ]]; then place=$GEMMA_HOME/cache
    elif [[ $OSTYPE == darwin* ]]; then place=$HOME/Library/Caches/gemma-cli
    else place=${XDG_CACHE_HOME:-$HOME/.cache}/gemma-cli; fi
    [[ -r $place/completion/models ]] && found+=(${(f)"$(<$place/completion/models)"})
    compadd "$@" -a found || _files -g '*.gguf'
}

_gemma__prompts() {
    local place
    local -a found
    if [[ -n $GEMMA_HOME ]]; then place=$GEMMA_HOME/config
    elif [[ $OSTYPE == darwin* ]]; then place="$HOME/Library/Application Support/gemma-cli"
    else place=${XDG_CONFIG_HOME:-$HOME/.config}/gemma-cli; fi
    found=(@PROMPTS@ $place/prompts/*.(md|toml)(N:t:r))
    compadd "$@" -a found
}

_gemma__known() {
    local -a _gemma_catalogue=(@MODELS@)
    _gemma__installed "$@"
}
"""


def script(commands: Sequence[Command]) -> str:
    head = _ZSH_HEAD.replace("@PROMPTS@", " ".join(prompt_names()))
    head = head.replace("@MODELS@", " ".join(model_names()))
    functions = "".join(_zsh_function(each, commands) for each in commands)
    end = 'if [[ $funcstack[1] == _gemma ]]; then _gemma "$@"; else compdef _gemma gemma; fi\n'
    return "#compdef gemma\n" + made_by("zsh") + head + functions + "\n" + end


def _zsh_function(command: Command, commands: Sequence[Command]) -> str:
    name = "_".join(("_gemma", *command.path))
    lines = [f"\n{name}() {{"]
    specs = [spec for each in command.options for spec in _zsh_option(each)]
    if command.commands:
        lines.append("    local state line")
        specs += ["'1:command:->command'", "'*::argument:->argument'"]
    else:
        specs += [_zsh_argument(each) for each in command.arguments]
    flags = "-C" if command.commands else "-s -S"
    lines.append(f"    _arguments {flags} \\\n        " + " \\\n        ".join(specs))
    if command.commands:
        inside = {
            each.path[-1]: each for each in commands if each.path and each.path[:-1] == command.path
        }
        described = " ".join(
            quoted(f"{word}:{_escaped(each.short, ':')}") for word, each in inside.items()
        )
        lines += ["    case $state in", "        command)"]
        lines += [f"            local -a inside=({described})"]
        lines += ["            _describe command inside ;;", "        argument)"]
        lines += ["            case $line[1] in"]
        lines += [f"                {word}) {name}_{word} ;;" for word in command.commands]
        lines += ["            esac ;;", "    esac"]
    return "\n".join(lines) + "\n}\n"


def _zsh_option(option: Parameter) -> list[str]:
    """One specification for each spelling; a spelling that was used excludes the others."""
    shown = f"[{_escaped(option.help, '[]:')}]"
    others = "*" if option.repeats else f"({' '.join(option.names)})"
    if option.kind == "flag":
        return [quoted(f"{others}{name}{shown}") for name in option.names]
    value = f":{_escaped(option.metavar, ':[]')}:{_zsh_action(option)}"
    return [
        quoted(f"{others}{name}{'=' if name.startswith('--') else '+'}{shown}{value}")
        for name in option.names
    ]


def _zsh_argument(argument: Parameter) -> str:
    metavar = _escaped(argument.metavar.strip("[]."), ":[]")
    # Without any action zsh would offer no options either.
    action = _zsh_action(argument) or "_message text"
    return quoted(f"{'*' if argument.repeats else ''}:{metavar}:{action}")


def _zsh_action(parameter: Parameter) -> str:
    return {
        "words": f"({' '.join(parameter.words)})",
        "installed": "_gemma__installed",
        "any_model": "_gemma__known",
        "prompt": "_gemma__prompts",
        "key": f"({' '.join(keys())})",
        "file": "_files",
    }.get(parameter.kind, "")


def _escaped(text: str, characters: str) -> str:
    return "".join(f"\\{each}" if each in characters else each for each in text)
