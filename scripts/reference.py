#!/usr/bin/env python3
"""Writes what is generated from the program: docs/reference.md, man/gemma.1, completions/.

usage: scripts/reference.py [--check]

--check: write nothing; exit 1 and name the files that are not as the program is.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import fields
from pathlib import Path

import typer

from gemma_cli import __version__, settings
from gemma_cli.cli import app
from gemma_cli.commands.config import variables
from gemma_cli.commands.options import GenerationOptions
from gemma_cli.commands.shells import SCRIPTS
from gemma_cli.commands.surface import Command, Parameter, commands
from gemma_cli.errors import ExitCode

ROOT = Path(__file__).parent.parent
_COMPLETIONS = {"bash": "gemma", "zsh": "_gemma", "fish": "gemma.fish"}

_EXIT_CODES = {
    ExitCode.OK: "It worked. An answer that --max-tokens cut is one, too; that is said on stderr.",
    ExitCode.FAILURE: "It failed: the model, its template, the history or the output; "
    "run --extract found no code.",
    ExitCode.USAGE: "The command line, a setting, a file or a prompt is wrong.",
    ExitCode.NO_MODEL: "There is no such model, or it is not here.",
    ExitCode.DOWNLOAD: "A download failed, or what came is not what was published.",
    ExitCode.MEMORY: "The model does not fit in this machine's memory.",
    ExitCode.CONTEXT: "The prompt does not fit in the context window.",
    ExitCode.CANCELLED: "Ctrl-C, or a question was answered with no.",
    ExitCode.READER_GONE: "Who read the output left, as head does.",
}
_VARIABLES = {
    "GEMMA_HOME": "One folder for settings, history, state and caches.",
    "GEMMA_DEBUG": "1: tracebacks and llama.cpp's log on stderr.",
    "GEMMA_READ_AHEAD": "As --read-ahead of gemma chat.",
    "HF_HOME, HF_HUB_CACHE": "Where downloaded models are.",
    "HF_ENDPOINT": "Another Hub to download from.",
    "HF_TOKEN": "The token for models whose terms must be accepted.",
    "HF_HUB_OFFLINE": "1: no network at all.",
    "NO_COLOR, CLICOLOR": "No colours.",
    "CLICOLOR_FORCE, FORCE_COLOR": "Colours in a pipe, too.",
    "TERM": "dumb: nothing is redrawn.",
    "VISUAL, EDITOR": "The editor, of gemma prompts edit for one.",
}
_SETTINGS = {
    "model": "The model where none is named.",
    "kv_cache": "How much disk evaluated prompts may take; 0 keeps none.",
    "history": "false: gemma chat saves nothing.",
    "history_days": "Chats that were not used for so many days are removed when a chat starts.",
    "save_runs": "true: gemma run saves its question and answer as a chat.",
    "context_full": "What happens when a chat no longer fits: its oldest turns leave (drop), a "
    "summary takes their place (compact), or nothing more is sent (stop).",
    "edit_mode": "The keys of the chat's prompt.",
}
_SETTINGS_NOTE = (
    "In `config.toml`; see `gemma config`. An option wins over the environment, the environment "
    "over config.toml, and that over the model's own."
)
_FILES = {
    "config.toml": "The settings. Where it is: gemma config path.",
    "prompts/NAME.md, prompts/NAME.toml": "Prompts of one's own, beside config.toml; they win "
    "over built-in ones of the same name.",
    "models.toml": "Models of one's own, beside config.toml.",
    "history.db": "The chats, in the data folder.",
}
_JSON = {
    "gemma run --json": "text, model, quant, stop_reason (end, length, cancelled, error), usage "
    "{prompt_tokens, cached_tokens, completion_tokens, ...}, timings {load_s, ttft_s, "
    "prompt_tps, decode_tps, total_s}, context {n_ctx, used}, gpu_layers, seed, threads, "
    "warnings; thoughts where there are any, parsed where a schema was satisfied, chat where it "
    "was saved, error where it failed.",
    "gemma run --show-prompt": "text, tokens, segments [{text, control}].",
    "gemma list --json": "a list of {name, quant, bytes, path, source, revision, sha256, "
    "license, last_used}.",
    "gemma plan --json": "model, quant, file_bytes, n_ctx, n_ctx_max, n_layers, gpu_layers, "
    "kv_type, devices [{name, kind, total, free, weights, kv, compute}], fits, why, "
    "alternatives [{quant, n_ctx, gpu_layers, fits}]. Bytes are whole numbers; gpu_layers counts "
    "the output as one more layer; the first device is the host.",
    "gemma history list --json": "a list of {id, updated, turns, model, title}.",
    "gemma prompts list --json": "a list of {name, description, source, problem}.",
    "gemma prompts show --json": "name, description, source, system, message, variables "
    "[{name, default}], options.",
    "gemma config show --json": "a list of {key, value, source}; source is default, config.toml "
    "or environment.",
}
_JSON_NOTE = "Keys are only ever added."


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true")
    arguments = parser.parse_args()
    wrong = [path for path, text in generated().items() if _content(path) != text]
    if arguments.check:
        for path in wrong:
            print(f"not as the program is: {path.relative_to(ROOT)}; run scripts/reference.py")
        return 1 if wrong else 0
    for path, text in generated().items():
        path.parent.mkdir(exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return 0


def generated() -> dict[Path, str]:
    """Each file that is generated, with its text."""
    # A person's own models and prompts are no part of it.
    with tempfile.TemporaryDirectory() as empty:
        before = os.environ.get("GEMMA_HOME")
        os.environ["GEMMA_HOME"] = empty
        try:
            every = commands(typer.main.get_command(app))
            scripts = {
                ROOT / "completions" / name: SCRIPTS[shell](every)
                for shell, name in _COMPLETIONS.items()
            }
            return scripts | {
                ROOT / "docs" / "reference.md": markdown(every),
                ROOT / "man" / "gemma.1": man(every),
            }
        finally:
            if before is None:
                del os.environ["GEMMA_HOME"]
            else:
                os.environ["GEMMA_HOME"] = before


def _content(path: Path) -> str:
    return path.read_text(encoding="utf-8") if path.exists() else ""


def usage(command: Command) -> str:
    """ "gemma show [OPTION]... MODEL"."""
    words = ["gemma", *command.path]
    if command.commands:
        return " ".join((*words, "COMMAND"))
    return " ".join((*words, "[OPTION]...", *(each.metavar for each in command.arguments)))


def spelled(parameter: Parameter) -> str:
    """ "-m, --model MODEL"."""
    names = ", ".join(parameter.names)
    return f"{names} {parameter.metavar}".strip()


def _generation() -> set[str]:
    return {field.name for field in fields(GenerationOptions)}


def _is_generation(option: Parameter) -> bool:
    return any(name[2:].replace("-", "_") in _generation() for name in option.names)


def _own(command: Command) -> list[Parameter]:
    """The options that are not the generation options of run and chat, which stand once."""
    shared = command.path in (("run",), ("chat",))
    return [each for each in command.options if not (shared and _is_generation(each))]


def _setting_rows(every: list[Command]) -> Iterator[tuple[str, str, str, str]]:
    """(key, what it takes, variable, meaning) of each setting."""
    (run,) = [each for each in every if each.path == ("run",)]
    meanings = {
        name[2:].replace("-", "_"): option.help for option in run.options for name in option.names
    }
    of_environment = variables()
    for key in settings.every_key():
        meaning = _SETTINGS.get(key) or meanings[key]
        yield key, settings.wanted(key), of_environment.get(key, ""), meaning


def markdown(every: list[Command]) -> str:
    lines = [
        "# Reference",
        "",
        f"Of gemma {__version__}. Written by `scripts/reference.py` from the program itself.",
        "",
        "## Commands",
    ]
    for command in every[1:]:
        lines += ["", f"### gemma {' '.join(command.path)}", "", f"    {usage(command)}", ""]
        lines += [_text(command.help), ""]
        if command.path in (("run",), ("chat",)):
            lines += ["Takes the [generation options](#generation-options), too.", ""]
        rows = [(each.metavar, each) for each in command.arguments if each.help]
        rows += [(spelled(each), each) for each in _own(command)]
        lines += _table(("option", "meaning"), [(f"`{name}`", each.help) for name, each in rows])
    (run,) = [each for each in every if each.path == ("run",)]
    shared = [each for each in run.options if _is_generation(each)]
    lines += ["", "## Generation options", "", "The same for `gemma run` and `gemma chat`.", ""]
    lines += _table(("option", "meaning"), [(f"`{spelled(each)}`", each.help) for each in shared])
    lines += ["", "## Exit codes", ""]
    lines += _table(("code", "meaning"), [(f"{code:d}", _EXIT_CODES[code]) for code in ExitCode])
    lines += [
        "",
        "## Settings",
        "",
        "In `config.toml`; see `gemma config`. An option wins over the",
    ]
    lines += ["environment, the environment over config.toml, and that over the model's own.", ""]
    rows4 = [(f"`{k}`", w, f"`{v}`" if v else "", m) for k, w, v, m in _setting_rows(every)]
    lines += _table(("key", "takes", "variable", "meaning"), rows4)
    lines += ["", "## Environment", "", "Besides the variables of the settings:", ""]
    lines += _table(("variable", "meaning"), [(f"`{k}`", v) for k, v in _VARIABLES.items()])
    lines += ["", "## Files", ""]
    lines += _table(("file", "what it is"), [(f"`{k}`", v) for k, v in _FILES.items()])
    lines += ["", "## JSON", "", _JSON_NOTE, ""]
    lines += _table(("command", "keys"), [(f"`{k}`", v) for k, v in _JSON.items()])
    return "\n".join(lines) + "\n"


def _text(text: str) -> str:
    return text.replace("<", "\\<")


def _table(head: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> list[str]:
    lines = [head, tuple("---" for _ in head), *rows]
    return [f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in row)} |" for row in lines]


def man(every: list[Command]) -> str:
    lines = [
        f'.TH GEMMA 1 "" "gemma {__version__}" "User Commands"',
        *(".SH NAME", f"gemma \\- {_roff(every[0].short.rstrip('.'))}"),
        *(".SH SYNOPSIS", ".B gemma", ".I COMMAND", "[\\fIOPTION\\fR]..."),
        ".SH COMMANDS",
    ]
    for command in every[1:]:
        lines += [".SS " + _roff(usage(command)), _roff(command.help)]
        for name, each in [(each.metavar, each) for each in command.arguments if each.help]:
            lines += [".TP", f"\\fI{_roff(name)}\\fR", _roff(each.help)]
        lines += _man_options(_own(command))
    (run,) = [each for each in every if each.path == ("run",)]
    lines += [".SH GENERATION OPTIONS", _roff("The same for gemma run and gemma chat.")]
    lines += _man_options([each for each in run.options if _is_generation(each)])
    lines.append(".SH EXIT STATUS")
    lines += _man_list({f"{code:d}": _EXIT_CODES[code] for code in ExitCode})
    lines += [".SH SETTINGS", _roff(_SETTINGS_NOTE.replace("`", ""))]
    rows = list(_setting_rows(every))
    lines += _man_list({f"{k} ({w}{', ' + v if v else ''})": m for k, w, v, m in rows})
    lines.append(".SH ENVIRONMENT")
    lines += _man_list(_VARIABLES)
    lines.append(".SH FILES")
    lines += _man_list(_FILES)
    lines += [".SH JSON", _roff(_JSON_NOTE), *_man_list(_JSON)]
    return "\n".join(lines) + "\n"


def _man_options(options: list[Parameter]) -> Iterator[str]:
    for option in options:
        names = ", ".join(f"\\fB{_roff(name)}\\fR" for name in option.names)
        value = f" \\fI{_roff(option.metavar)}\\fR" if option.metavar else ""
        yield from (".TP", names + value, _roff(option.help))


def _man_list(entries: dict[str, str]) -> Iterator[str]:
    for name, text in entries.items():
        yield from (".TP", f"\\fB{_roff(name)}\\fR", _roff(text))


def _roff(text: str) -> str:
    escaped = text.replace("\\", "\\e").replace("-", "\\-")
    paragraphs = [" ".join(part.split()) for part in escaped.split("\n\n")]
    return "\n.PP\n".join(f"\\&{part}" if part[:1] in (".", "'") else part for part in paragraphs)


if __name__ == "__main__":
    sys.exit(main())
