"""Completion for bash, from 3.2 on."""

from __future__ import annotations

from collections.abc import Sequence

from gemma_cli.commands.shells.offers import keys, made_by, model_names, prompt_names, quoted
from gemma_cli.commands.surface import Command, Parameter

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


def script(commands: Sequence[Command]) -> str:
    paths = "|".join(
        f"{quoted(' '.join(each.path[:-1]))}/{each.path[-1]}" for each in commands if each.path
    )
    cases = "".join(_bash_case(each) for each in commands)
    complete = f'\n_gemma_complete() {{\n    case "$path" in\n{cases}    esac\n}}\n'
    head = _BASH_HEAD.replace("@PROMPTS@", " ".join(prompt_names()))
    head = made_by("bash") + head.replace("@MODELS@", " ".join(model_names()))
    return head + complete + _BASH_END.replace("@PATHS@", paths)


def _bash_case(command: Command) -> str:
    lines = [f"        {quoted(' '.join(command.path))})"]
    valued = [each for each in command.options if each.kind != "flag"]
    if valued:
        lines.append('            case "$prev" in')
        for each in valued:
            lines.append(f"                {'|'.join(each.names)}) {_bash_offer(each)}return ;;")
        lines.append("            esac")
    names = " ".join(name for each in command.options for name in each.names)
    lines.append(f"            if [[ $cur == -* ]]; then _gemma_words {names}; return; fi")
    offers = [_bash_offer(each) for each in command.arguments[:1]]
    if len(command.arguments) > 1:  # what follows the first is another thing
        offers = [f"[[ $prev == {command.path[-1]} ]] && {offer}" for offer in offers]
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
        "key": f"_gemma_words {' '.join(keys())}; ",
    }.get(parameter.kind, "")
