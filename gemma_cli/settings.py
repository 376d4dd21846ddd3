"""config.toml: what a person sets once. Flags and GEMMA_* variables win over it."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from gemma_cli.errors import UsageError
from gemma_cli.paths import config_dir


@dataclass(frozen=True, slots=True)
class Settings:
    """Every known key; None where config.toml says nothing. Units as for the flags."""

    model: str | None = None
    system: str | None = None
    temp: float | None = None
    top_k: int | None = None
    top_p: float | None = None
    min_p: float | None = None
    repeat_penalty: float | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    repeat_last_n: int | None = None
    dry_multiplier: float | None = None
    dry_base: float | None = None
    dry_allowed_length: int | None = None
    dry_last_n: int | None = None
    xtc_probability: float | None = None
    xtc_threshold: float | None = None
    logit_bias: list[str] | None = None
    stop: list[str] | None = None
    seed: int | None = None
    max_tokens: int | None = None
    think: bool | None = None
    ctx: str | None = None
    ctx_beyond_training: bool | None = None
    gpu_layers: str | None = None
    threads: str | None = None
    kv_type: str | None = None
    gpu_margin: str | None = None
    force: bool | None = None
    speculate: bool | None = None
    draft: str | None = None
    lora: list[str] | None = None
    kv_cache: str | None = None
    history: bool | None = None
    history_days: int | None = None
    save_runs: bool | None = None
    context_full: str | None = None
    edit_mode: str | None = None


def settings_file() -> Path:
    return config_dir() / "config.toml"


def load_settings() -> Settings:
    """Read config.toml; a missing file is an empty one. Raises UsageError that names the key."""
    path = settings_file()
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return Settings()
    except (OSError, UnicodeDecodeError) as error:
        raise unreadable(path, error) from error
    return parse_settings(text, path)


def unreadable(path: Path, error: OSError | UnicodeDecodeError) -> UsageError:
    """The error that says why a settings file cannot be read."""
    if isinstance(error, UnicodeDecodeError):
        return UsageError(f"cannot read {path}: it is not UTF-8", f"save it as UTF-8: {path}")
    hint = f"make it readable: {path}"
    if isinstance(error, NotADirectoryError):
        hint = "name a folder: GEMMA_HOME=FOLDER, or leave it unset"
    return UsageError(f"cannot read {path}: {error.strerror or error}", hint)


def parse_settings(text: str, path: Path) -> Settings:
    """Settings of a TOML text. Raises UsageError that names path and the key."""
    try:
        table = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise UsageError(f"{path} is not valid TOML: {error}", f"correct it: {path}") from error
    for key in table:
        check_key(key, str(path))
    return Settings(**{key: checked(key, value, str(path)) for key, value in table.items()})


def every_key() -> list[str]:
    """Every known key, in the order that people are shown."""
    return [field.name for field in fields(Settings)]


def check_key(key: str, source: str) -> None:
    """Raises UsageError, with near keys, for one that is not known."""
    if key not in every_key():
        import difflib

        near = difflib.get_close_matches(key.replace("-", "_").lower(), every_key(), n=3)
        known = ", ".join(every_key())
        hint = f"did you mean {' or '.join(near)}?" if near else f"known keys: {known}"
        raise UsageError(f"{source}: unknown key '{key}'", hint)


def accepted_types(key: str) -> tuple[type, ...]:
    """Types of TOML values that a key takes."""
    return _ACCEPTED.get(key, ("a text", (str,)))[1]


def wanted(key: str) -> str:
    """What a key takes, in words: "a whole number"."""
    words = WORDS.get(key)
    return " or ".join(words) if words else _ACCEPTED.get(key, ("a text", ()))[0]


def checked(key: str, value: object, source: str) -> Any:
    """A known key's value in its field's type; raises UsageError for one that cannot be meant.

    source: where it was said, for the message.
    """
    wanted, accepted = _ACCEPTED.get(key, ("a text", (str,)))
    is_other_list = isinstance(value, list) and not all(isinstance(each, str) for each in value)
    is_bool = isinstance(value, bool)
    if is_bool is not (bool in accepted) or not isinstance(value, accepted) or is_other_list:
        raise UsageError(f"{source}: '{key}' must be {wanted}, not {value!r}")
    words = WORDS.get(key)
    if words and value not in words:
        *first, last = words
        raise UsageError(f"{source}: '{key}' must be {', '.join(first)} or {last}, not {value!r}")
    if str in accepted:
        return str(value)
    return float(str(value)) if float in accepted else value


# Keys whose value is one of some words.
WORDS: dict[str, tuple[str, ...]] = {
    "context_full": ("drop", "compact", "stop"),
    "edit_mode": ("emacs", "vi"),
}

_NUMBER = ("a number", (int, float))
_INTEGER = ("a whole number", (int,))
_TEXTS = ("a list of texts", (list,))
_COUNT_OR_WORD = ("a whole number or a word", (int, str))
_ACCEPTED: dict[str, tuple[str, tuple[type, ...]]] = {
    "temp": _NUMBER,
    "top_p": _NUMBER,
    "min_p": _NUMBER,
    "repeat_penalty": _NUMBER,
    **dict.fromkeys(("presence_penalty", "frequency_penalty", "dry_multiplier"), _NUMBER),
    **dict.fromkeys(("dry_base", "xtc_probability", "xtc_threshold"), _NUMBER),
    **dict.fromkeys(("repeat_last_n", "dry_allowed_length", "dry_last_n"), _INTEGER),
    "logit_bias": _TEXTS,
    "stop": _TEXTS,
    "top_k": _INTEGER,
    "seed": _INTEGER,
    "max_tokens": _INTEGER,
    "think": ("true or false", (bool,)),
    "ctx": _COUNT_OR_WORD,
    "ctx_beyond_training": ("true or false", (bool,)),
    "speculate": ("true or false", (bool,)),
    "lora": _TEXTS,
    "gpu_layers": _COUNT_OR_WORD,
    "threads": _COUNT_OR_WORD,
    "gpu_margin": ("an amount of memory", (int, str)),
    "force": ("true or false", (bool,)),
    "kv_cache": ("an amount of memory", (int, str)),
    **dict.fromkeys(("history", "save_runs"), ("true or false", (bool,))),
    "history_days": _INTEGER,
}
