"""From a file's text to a Prompt: Markdown with TOML between +++ lines, or TOML alone."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any

from gemma_cli.errors import UsageError
from gemma_cli.prompts.prompt import TEXT, Prompt
from gemma_cli.prompts.template import variables
from gemma_cli.settings import Settings, checked

# What a prompt may say about its answer. The model and its place in memory are a machine's.
OPTIONS = (
    *("temp", "top_k", "top_p", "min_p", "repeat_penalty", "presence_penalty"),
    *("frequency_penalty", "stop", "seed", "max_tokens", "think"),
)
_TEXTS = ("description", "system", "message")
_FENCE = "+++"
_AT_LINE = re.compile(r" \(at line (\d+), column \d+\)$")


def parse(text: str, path: Path, source: str) -> Prompt:
    """Raises UsageError that names the file, the line and the cause."""
    text = text.replace("\r\n", "\n")
    if not text.strip():
        raise _wrong(path, 1, "there is nothing in it")
    if path.suffix.lower() == ".toml":
        head, body, body_line = text, None, 0
    else:
        head, body, body_line = _split(text, path)
    table = _table(head, path)
    if body is not None and "message" in table:
        raise _wrong(path, _line_of("message", head), "the message stands below the second +++")
    if body is not None:
        table["message"] = body
    values = {key: _text(table, key, path, head) for key in _TEXTS}
    options = _options(table.pop("options", {}), path, head)
    for key in table:
        if key not in _TEXTS:
            known = ", ".join((*_TEXTS, "[options]"))
            raise _wrong(path, _line_of(key, head), f"unknown key '{key}' (known: {known})")
    values["message"] = values["message"].strip("\n") or f"{{{{{TEXT}}}}}"
    message_line = _line_of("message", head) if body is None else _first_line(text, body_line)
    _check_variables(values["system"], path, _line_of("system", head), is_message=False)
    _check_variables(values["message"], path, message_line, is_message=True)
    return Prompt(
        path.stem,
        " ".join(values["description"].split()),
        values["system"],
        values["message"],
        Settings(**options),
        source,
    )


def _split(text: str, path: Path) -> tuple[str, str, int]:
    """(TOML, body, its first line from 0). The TOML keeps the file's line numbers."""
    lines = text.split("\n")
    if lines[0].strip() != _FENCE:
        return "", text, 0
    for number, line in enumerate(lines[1:], 1):
        if line.strip() == _FENCE:
            return "\n".join(["", *lines[1:number]]), "\n".join(lines[number + 1 :]), number + 1
    raise _wrong(path, 1, "a second line of +++ must end what the first begins")


def _table(head: str, path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(head)
    except tomllib.TOMLDecodeError as error:
        found = _AT_LINE.search(str(error))
        line = int(found[1]) if found else head.count("\n") + 1
        raise _wrong(path, line, _AT_LINE.sub("", str(error))) from error


def _text(table: dict[str, Any], key: str, path: Path, head: str) -> str:
    value = table.get(key, "")
    if not isinstance(value, str):
        raise _wrong(path, _line_of(key, head), f"'{key}' must be a text")
    return value


def _options(given: object, path: Path, head: str) -> dict[str, Any]:
    if not isinstance(given, dict):
        raise _wrong(path, _line_of("options", head), "'options' must be a table: [options]")
    for key, value in given.items():
        line = _line_of(key, head)
        if key not in OPTIONS:
            raise _wrong(path, line, f"no option '{key}' (options: {', '.join(OPTIONS)})")
        try:
            checked(key, value, "options")
        except UsageError as error:
            raise _wrong(path, line, error.message) from error
    return {key: checked(key, value, "options") for key, value in given.items()}


def _check_variables(text: str, path: Path, line: int, *, is_message: bool) -> None:
    try:
        names = [(at, name) for at, name, _ in variables(text)]
    except ValueError as error:
        at, cause = error.args
        raise _wrong(path, line + at, cause) from error
    for at, name in names:
        if name == TEXT and not is_message:
            raise _wrong(path, line + at, f"{{{{{TEXT}}}}} stands in the message, not in 'system'")
    if is_message and TEXT not in [name for _, name in names]:
        raise _wrong(path, line, f"the message has no {{{{{TEXT}}}}}: what is asked would be lost")


def _first_line(text: str, start: int) -> int:
    """The number, from 1, of the first line from `start` (from 0) on that is not empty."""
    lines = text.split("\n")
    filled = (number for number, line in enumerate(lines[start:], start + 1) if line.strip())
    return next(filled, start + 1)


def _line_of(key: str, head: str) -> int:
    """Where a key stands, for a message."""
    pattern = re.compile(rf"\s*\[?[\"']?{re.escape(key)}[\"']?\s*[=\].]")
    lines = head.split("\n")
    return next((number for number, line in enumerate(lines, 1) if pattern.match(line)), 1)


def _wrong(path: Path, line: int, cause: str) -> UsageError:
    return UsageError(
        f"{path}, line {line}: {cause}", f"correct it: gemma prompts edit {path.stem}"
    )
