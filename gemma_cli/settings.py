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
    seed: int | None = None
    max_tokens: int | None = None
    think: bool | None = None
    ctx: str | None = None
    ctx_beyond_training: bool | None = None
    gpu_layers: str | None = None
    threads: str | None = None
    kv_type: str | None = None
    lora: list[str] | None = None


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
        raise UsageError(f"cannot read {path}: {error}") from error
    try:
        table = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise UsageError(f"{path} is not valid TOML: {error}", f"correct it: {path}") from error
    known = [field.name for field in fields(Settings)]
    for key in table:
        if key not in known:
            raise UsageError(f"{path}: unknown key '{key}'", f"known keys: {', '.join(known)}")
    return Settings(**{key: _value(path, key, value) for key, value in table.items()})


def _value(path: Path, key: str, value: object) -> Any:
    """The value in the field's type; raises UsageError for one that cannot be meant."""
    wanted, accepted = _ACCEPTED.get(key, ("a text", (str,)))
    if isinstance(value, bool) is not (bool in accepted) or not isinstance(value, accepted):
        raise UsageError(f"{path}: '{key}' must be {wanted}, not {value!r}")
    if str in accepted:
        return str(value)
    return float(str(value)) if float in accepted else value


_NUMBER = ("a number", (int, float))
_INTEGER = ("a whole number", (int,))
_COUNT_OR_WORD = ("a whole number or a word", (int, str))
_ACCEPTED: dict[str, tuple[str, tuple[type, ...]]] = {
    "temp": _NUMBER,
    "top_p": _NUMBER,
    "min_p": _NUMBER,
    "repeat_penalty": _NUMBER,
    "top_k": _INTEGER,
    "seed": _INTEGER,
    "max_tokens": _INTEGER,
    "think": ("true or false", (bool,)),
    "ctx": _COUNT_OR_WORD,
    "ctx_beyond_training": ("true or false", (bool,)),
    "lora": ("a list of texts", (list,)),
    "gpu_layers": _COUNT_OR_WORD,
    "threads": _COUNT_OR_WORD,
}
