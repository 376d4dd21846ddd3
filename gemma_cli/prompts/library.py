"""Where prompts are: those that come with gemma, and a person's own, which win."""

from __future__ import annotations

import difflib
import os
import re
from dataclasses import dataclass
from pathlib import Path

from gemma_cli.errors import UsageError
from gemma_cli.paths import config_dir
from gemma_cli.prompts.parsing import parse
from gemma_cli.prompts.prompt import Prompt

BUILT_IN = "built in"
_BUILT_IN_FILES = Path(__file__).parent / "builtin"
_SUFFIXES = (".md", ".toml")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")
_MOST_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class Listed:
    """A prompt in a list. source: "built in" or a path. problem: why it cannot be used."""

    name: str
    description: str
    source: str
    problem: str | None = None


def folder() -> Path:
    """A person's own prompts: NAME.md or NAME.toml. It may not exist yet."""
    return config_dir() / "prompts"


def names() -> list[Listed]:
    """Every prompt by name. A file that is wrong is listed with its problem; the others stand."""
    return [_listed(path) for _, path in sorted(_files().items())]


def load(name: str) -> Prompt:
    """The prompt of that name, or of a file named with its folder or suffix (./review.md).

    Raises UsageError: no such prompt (near names are suggested), or a wrong file.
    """
    if _is_path(name):
        path = Path(name).expanduser()
        try:
            return parse(_read(path), path, str(path))
        except UsageError as error:
            raise UsageError(error.message, f"correct it: {path}") from error
    path = file_of(name)
    return parse(_read(path), path, source_of(path))


def text_of(name: str) -> str:
    """The whole file of a prompt, wrong or not. Raises UsageError as load does."""
    return _read(Path(name).expanduser() if _is_path(name) else file_of(name))


def file_of(name: str) -> Path:
    """The file that a name means. Raises UsageError as load does."""
    files = _files()
    if name.lower() in files:
        return files[name.lower()]
    near = difflib.get_close_matches(name.lower(), files, n=3, cutoff=0.5)
    also = f"did you mean {' or '.join(near)}?    " if near else ""
    raise UsageError(f"there is no prompt '{name}'", f"{also}all of them: gemma prompts list")


def check_name(name: str) -> str:
    """A name for a new prompt, in lower case. Raises UsageError for one that is no file name."""
    if not _NAME.fullmatch(name) or Path(name).suffix.lower() in _SUFFIXES:
        raise UsageError(
            f"'{name}' is no name for a prompt", "letters, digits, - and _, for example: my-review"
        )
    return name.lower()


def source_of(path: Path) -> str:
    return BUILT_IN if path.parent == _BUILT_IN_FILES else str(path)


def _is_path(name: str) -> bool:
    separators = [each for each in (os.sep, os.altsep) if each]
    return Path(name).suffix.lower() in _SUFFIXES or any(each in name for each in separators)


def _files() -> dict[str, Path]:
    """name -> file; a person's own over ours, .md over .toml."""
    found: dict[str, Path] = {}
    for place in (_BUILT_IN_FILES, folder()):
        try:
            entries = sorted(place.iterdir(), key=lambda path: path.suffix, reverse=True)
        except FileNotFoundError:
            continue
        except OSError as error:
            raise UsageError(f"cannot read {place}: {error.strerror or error}") from error
        found |= {
            path.stem.lower(): path
            for path in entries
            if path.suffix.lower() in _SUFFIXES and _NAME.fullmatch(path.stem)
        }
    return found


def _listed(path: Path) -> Listed:
    source = source_of(path)
    try:
        prompt = parse(_read(path), path, source)
    except UsageError as error:
        return Listed(path.stem.lower(), "", source, error.message)
    return Listed(path.stem.lower(), prompt.description, source)


def _read(path: Path) -> str:
    try:
        with path.open("rb") as file:
            raw = file.read(_MOST_BYTES + 1)
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror or error}") from error
    if len(raw) > _MOST_BYTES:
        raise UsageError(f"{path} is larger than 1 MiB: no prompt is")
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise UsageError(
            f"{path}, line {line}: not UTF-8", f"save it as UTF-8: gemma prompts edit {path.stem}"
        ) from error
