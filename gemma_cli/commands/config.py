"""`gemma config`: what is set, and where; changed without touching the rest of the file."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Annotated, Any, get_type_hints

import typer

from gemma_cli import settings as known
from gemma_cli.commands.grouping import CommandGroup
from gemma_cli.errors import ExitCode, GemmaError, UsageError
from gemma_cli.terminal.notices import say

app = typer.Typer(
    cls=CommandGroup,
    help="Settings: show, get, set, unset, path.",
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)

Key = Annotated[str, typer.Argument(metavar="KEY", help="As gemma config show lists it.")]

_DEFAULT, _FILE, _ENVIRONMENT = "default", "config.toml", "environment"
_OTHER_VARIABLES = {
    "model": "GEMMA_MODEL",
    "kv_cache": "GEMMA_KV_CACHE",
    "edit_mode": "GEMMA_EDIT_MODE",
}
_WORDS_FOR_BOOL = {"true": True, "yes": True, "on": True, "false": False, "no": False, "off": False}


@app.command()
def show(as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False) -> None:
    """Show every setting: its value, and where that comes from."""
    from gemma_cli.terminal.sanitize import clean_line

    rows = [(key, *_effective(key, known.load_settings())) for key in known.every_key()]
    if as_json:
        listed = [{"key": key, "value": value, "source": source} for key, value, source in rows]
        typer.echo(json.dumps(listed, ensure_ascii=False, indent=2))
        return
    width = max(len(key) for key, _, _ in rows)
    for key, value, source in rows:
        shown = "" if value is None else f"{clean_line(_toml(value))}  "
        typer.echo(f"{key:{width}}  {shown}({source})")


@app.command()
def get(key: Key) -> None:
    """Print the value of one setting, a list line by line; exit 1 where nothing is set."""
    key = _checked_key(key)
    value, _ = _effective(key, known.load_settings())
    if value is None:
        say(f"{key} is not set: the default holds")
        raise typer.Exit(ExitCode.FAILURE)
    for each in value if isinstance(value, list) else [value]:
        typer.echo(json.dumps(each) if isinstance(each, bool) else each)


@app.command("set", context_settings={"ignore_unknown_options": True})
def set_value(
    key: Key,
    values: Annotated[
        list[str], typer.Argument(metavar="VALUE...", help="Several for a list, such as stop.")
    ],
) -> None:
    """Set a value in config.toml; its comments and its order stay."""
    key = _checked_key(key)
    value = _typed(key, values)
    _check_meant(key, known.checked(key, value, "config set"))
    _change(lambda document: document.__setitem__(key, value))
    variable = variables().get(key)
    if variable and variable in os.environ:
        say(f"{variable} is set too, and wins over config.toml")


@app.command()
def unset(key: Key) -> None:
    """Take a key out of config.toml, a wrong one too."""
    text = _read()
    if key not in _document(text):
        known.check_key(key, "config unset")
        say(f"{key} is not in {known.settings_file()}")
        return
    _change(lambda document: document.__delitem__(key), check=False)


@app.command()
def path() -> None:
    """Print where config.toml is, or would be."""
    typer.echo(known.settings_file())


def _checked_key(key: str) -> str:
    """The key; an option's spelling (--top-k) means it too."""
    key = key.removeprefix("--").replace("-", "_")
    known.check_key(key, "config")
    return key


def _effective(key: str, settings: known.Settings) -> tuple[Any, str]:
    """(value, where from); the value of the environment is the text that it is."""
    variable = variables().get(key)
    if variable and os.environ.get(variable):
        return os.environ[variable], _ENVIRONMENT
    value = getattr(settings, key)
    return value, _DEFAULT if value is None else _FILE


def variables() -> dict[str, str]:
    """key -> the environment variable that wins over it."""
    from gemma_cli.commands.options import GenerationOptions

    found = dict(_OTHER_VARIABLES)
    hints = get_type_hints(GenerationOptions, include_extras=True)
    for field in fields(GenerationOptions):
        (option,) = hints[field.name].__metadata__
        if option.envvar:
            found[field.name] = option.envvar
    return found


def _typed(key: str, values: list[str]) -> Any:
    """The words as the key's kind of value; a word that is none stays one, to be refused."""
    accepted = known.accepted_types(key)
    if list in accepted:
        return values
    if len(values) > 1:
        raise UsageError(
            f"'{key}' takes one value, not {len(values)}", f'quote it: gemma config set {key} "..."'
        )
    word = values[0]
    if bool in accepted:
        return _WORDS_FOR_BOOL.get(word.lower(), word)
    for kind in (int, float):
        if kind in accepted:
            try:
                return kind(word)
            except ValueError:
                continue
    return word


def _check_meant(key: str, value: Any) -> None:
    """Raises UsageError for a value of the right kind that no command would take."""
    from gemma_cli.machine.sizes import parse_size

    texts = value if isinstance(value, list) else [value]
    may_be_blank = key in ("system", "stop")
    if not may_be_blank and any(isinstance(each, str) and not each.strip() for each in texts):
        raise UsageError(
            f"'{key}' takes no empty text", f"to set nothing: gemma config unset {key}"
        )
    if key == "history_days" and value < 1:
        raise UsageError(
            f"history_days must be 1 or more, not {value}",
            "to keep no chats: gemma config set history false",
        )
    if key == "kv_cache":
        parse_size("kv_cache", value)
    check_option(key, value)


def check_option(key: str, value: Any) -> None:
    """Raises UsageError for a generation option's value that no command would take."""
    from gemma_cli.commands.loading import opening
    from gemma_cli.commands.options import GenerationOptions
    from gemma_cli.engine.protocol import Sampling

    if key in {field.name for field in fields(GenerationOptions)}:
        asked = GenerationOptions(**{key: value})
        opening.sampling_from(Sampling(), asked)
        opening.wishes_from(asked)


def _change(change: Callable[[Any], None], *, check: bool = True) -> None:
    """Write config.toml anew with one thing changed; on any failure it is as it was."""
    import tomlkit

    document = _document(_read())
    change(document)
    text = tomlkit.dumps(document)
    file = known.settings_file()
    if check:
        known.parse_settings(text, file)
    file = file.resolve()  # a link to somebody's dotfiles stays one
    temporary = file.with_name(f".{file.name}.{os.getpid()}.tmp")
    try:
        _write(temporary, text)
        temporary.replace(file)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise GemmaError(f"cannot write {file}: {error.strerror or error}") from error


def _write(path: Path, text: str) -> None:
    from gemma_cli.paths import private_dir

    private_dir(path.parent)
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8", newline="") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())


def _read() -> str:
    file = known.settings_file()
    try:
        return file.read_bytes().decode()  # its own line ends
    except FileNotFoundError:
        return ""
    except (OSError, UnicodeDecodeError) as error:
        raise known.unreadable(file, error) from error


def _document(text: str) -> Any:
    import tomlkit
    from tomlkit.exceptions import TOMLKitError

    try:
        return tomlkit.parse(text)
    except TOMLKitError as error:
        file = known.settings_file()
        raise UsageError(f"{file} is not valid TOML: {error}", f"correct it: {file}") from error


def _toml(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
