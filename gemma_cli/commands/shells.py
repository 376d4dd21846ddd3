"""Completion scripts for bash, zsh and fish. What they offer is in them, but for what changes:

the models that are here (a file that gemma writes) and a person's own prompts (a folder).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from gemma_cli.commands.surface import Command, Parameter

_MADE = "# Made by `gemma completion {}`; what it offers are the commands of gemma {}.\n"

_BASH_HEAD = r"""
_gemma_offer() {
    local word
    while IFS= read -r word; do
        [[ -n $word && $word == "$cur"* ]] && COMPREPLY[${#COMPREPLY[@]}]=$word
    done <<< "$1"
}

_gemma_words() {
    local word
    for word in "$@"; do
        [[ $word == "$cur"* ]] && COMPREPLY[${#COMPREPLY[@]}]=$word
    done
}

_gemma_place() {
    if [[ -n $GEMMA_HOME ]]; then place=$GEMMA_HOME/$1
    elif [[ $OSTYPE == darwin* && $1 == cache ]]; then place=$HOME/Library/Caches/gemma-cli
    elif [[ $OSTYPE == darwin* ]]; then place="$HOME/Library/Application Support/gemma-cli"
    elif [[ $1 == cache ]]; then place=${XDG_CACHE_HOME:-$HOME/.cache}/gemma-cli
    else place=${XDG_CONFIG_HOME:-$HOME/.config}/gemma-cli; fi
}

_gemma_installed() {
    local place
    _gemma_place cache
    [[ -r $place/completion/models ]] && _gemma_offer "$(< "$place/completion/models")"
}

_gemma_known() {
    _gemma_words @MODELS@
}

_gemma_prompts() {
    local place file
    _gemma_words @PROMPTS@
    _gemma_place config
    for file in "$place"/prompts/*.md "$place"/prompts/*.toml; do
        [[ -f $file ]] && file=${file##*/} && _gemma_words "${file%.*}"
    done
}
"""

_BASH_END = r"""
_gemma() {
    local IFS=$' \t\n' line=${COMP_LINE:0:COMP_POINT} words i cur prev path='' word before=''
    COMPREPLY=()
    read -ra words <<< "$line"
    [[ $line == *[[:space:]] ]] && words[${#words[@]}]=''
    cur=${words[${#words[@]}-1]}
    prev=${words[${#words[@]}-2]}
    for ((i = 1; i < ${#words[@]} - 1; i++)); do
        word=${words[i]}
        case "$path/$word" in
            @PATHS@) path="$path${path:+ }$word" ;;
        esac
    done
    if [[ $cur == --*=* ]]; then
        prev=${cur%%=*}
        cur=${cur#*=}
        [[ $COMP_WORDBREAKS == *=* ]] || before=$prev=
    fi
    _gemma_complete
    if [[ $cur == *:* && $COMP_WORDBREAKS == *:* ]]; then
        before=${cur%"${cur##*:}"}
        for i in "${!COMPREPLY[@]}"; do COMPREPLY[i]=${COMPREPLY[i]#"$before"}; done
    elif [[ -n $before ]]; then
        for i in "${!COMPREPLY[@]}"; do COMPREPLY[i]=$before${COMPREPLY[i]}; done
    fi
}
complete -o bashdefault -o default -F _gemma gemma
"""


def bash(commands: Sequence[Command]) -> str:
    paths = "|".join(
        f"{_quoted(' '.join(each.path[:-1]))}/{each.path[-1]}" for each in commands if each.path
    )
    cases = "".join(_bash_case(each) for each in commands)
    complete = f'\n_gemma_complete() {{\n    case "$path" in\n{cases}    esac\n}}\n'
    head = _BASH_HEAD.replace("@PROMPTS@", " ".join(_prompt_names()))
    head = _made("bash") + head.replace("@MODELS@", " ".join(_model_names()))
    return head + complete + _BASH_END.replace("@PATHS@", paths)


def _bash_case(command: Command) -> str:
    lines = [f"        {_quoted(' '.join(command.path))})"]
    valued = [each for each in command.options if each.kind != "flag"]
    if valued:
        lines.append('            case "$prev" in')
        for each in valued:
            lines.append(f"                {'|'.join(each.names)}) {_bash_offer(each)}return ;;")
        lines.append("            esac")
    names = " ".join(name for each in command.options for name in each.names)
    lines.append(f"            if [[ $cur == -* ]]; then _gemma_words {names}; return; fi")
    offers = [_bash_offer(each) for each in command.arguments[:1]]
    if command.commands:
        offers = [f"_gemma_words {' '.join(command.commands)}; "]
    lines += [f"            {offer.rstrip('; ')}" for offer in offers if offer]
    lines.append("            ;;")
    return "\n".join(lines) + "\n"


def _bash_offer(parameter: Parameter) -> str:
    """A command that fills COMPREPLY; "": nothing does, and bash offers files."""
    return {
        "words": f"_gemma_words {' '.join(parameter.words)}; ",
        "installed": "_gemma_installed; ",
        "any_model": "_gemma_installed; _gemma_known; ",
        "prompt": "_gemma_prompts; ",
        "key": f"_gemma_words {' '.join(_keys())}; ",
    }.get(parameter.kind, "")


_ZSH_HEAD = r"""
_gemma__installed() {
    local place
    local -a found=($@)
    if [[ -n $GEMMA_HOME ]]; then place=$GEMMA_HOME/cache
    elif [[ $OSTYPE == darwin* ]]; then place=$HOME/Library/Caches/gemma-cli
    else place=${XDG_CACHE_HOME:-$HOME/.cache}/gemma-cli; fi
    [[ -r $place/completion/models ]] && found+=(${(f)"$(<$place/completion/models)"})
    compadd -a found || _files -g '*.gguf'
}

_gemma__prompts() {
    local place
    local -a found
    if [[ -n $GEMMA_HOME ]]; then place=$GEMMA_HOME/config
    elif [[ $OSTYPE == darwin* ]]; then place="$HOME/Library/Application Support/gemma-cli"
    else place=${XDG_CONFIG_HOME:-$HOME/.config}/gemma-cli; fi
    found=(@PROMPTS@ $place/prompts/*.(md|toml)(N:t:r))
    compadd -a found
}

_gemma__known() {
    _gemma__installed @MODELS@
}
"""


def zsh(commands: Sequence[Command]) -> str:
    head = _ZSH_HEAD.replace("@PROMPTS@", " ".join(_prompt_names()))
    head = head.replace("@MODELS@", " ".join(_model_names()))
    functions = "".join(_zsh_function(each, commands) for each in commands)
    end = 'if [[ $funcstack[1] == _gemma ]]; then _gemma "$@"; else compdef _gemma gemma; fi\n'
    return "#compdef gemma\n" + _made("zsh") + head + functions + "\n" + end


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
            _quoted(f"{word}:{_escaped(each.short, ':')}") for word, each in inside.items()
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
        return [_quoted(f"{others}{name}{shown}") for name in option.names]
    value = f":{_escaped(option.metavar, ':[]')}:{_zsh_action(option)}"
    return [
        _quoted(f"{others}{name}{'=' if name.startswith('--') else '+'}{shown}{value}")
        for name in option.names
    ]


def _zsh_argument(argument: Parameter) -> str:
    metavar = _escaped(argument.metavar.strip("[]."), ":[]")
    # Without any action zsh would offer no options either.
    action = _zsh_action(argument) or "_message text"
    return _quoted(f"{'*' if argument.repeats else ''}:{metavar}:{action}")


def _zsh_action(parameter: Parameter) -> str:
    return {
        "words": f"({' '.join(parameter.words)})",
        "installed": "_gemma__installed",
        "any_model": "_gemma__known",
        "prompt": "_gemma__prompts",
        "key": f"({' '.join(_keys())})",
        "file": "_files",
    }.get(parameter.kind, "")


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


def fish(commands: Sequence[Command]) -> str:
    lines = [line for each in commands for line in _fish_lines(each, commands)]
    return _made("fish") + _FISH_HEAD + "\n".join(lines) + "\n"


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
            yield start + offer.replace(" -x", "").replace(" -r", "")


def _fish_value(parameter: Parameter) -> str:
    """The part of a `complete` command that says what a value may be."""
    if parameter.kind == "flag":
        return ""
    offers = {
        "words": " ".join(parameter.words),
        "installed": "(__gemma_installed)",
        "any_model": f"(__gemma_installed) {' '.join(_model_names())}",
        "prompt": f"(__gemma_own_prompts) {' '.join(_prompt_names())}",
        "key": " ".join(_keys()),
    }
    if parameter.kind == "file":
        return " -r -F"
    return f" -x -a {_fish(offers[parameter.kind])}" if parameter.kind in offers else " -x"


def _fish(text: str) -> str:
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "'\\''") + "'"


def _escaped(text: str, characters: str) -> str:
    return "".join(f"\\{each}" if each in characters else each for each in text)


def _made(shell: str) -> str:
    from gemma_cli import __version__

    return _MADE.format(shell, __version__)


def _model_names() -> list[str]:
    from gemma_cli.models.catalog import load_catalog

    return sorted(model.id for model in load_catalog().models)


def _prompt_names() -> list[str]:
    from gemma_cli import prompts

    return [each.name for each in prompts.names() if each.source == prompts.BUILT_IN]


def _keys() -> list[str]:
    from gemma_cli.settings import every_key

    return every_key()


SCRIPTS: dict[str, Callable[[Sequence[Command]], str]] = {"bash": bash, "zsh": zsh, "fish": fish}
