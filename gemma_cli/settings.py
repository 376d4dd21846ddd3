"""config.toml: what a person sets once. Flags and GEMMA_* variables win over it."""

from __future__ import annotations

import tomllib
from collections.abc import Callable
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
    ctx: str | None = None
    gpu_layers: str | None = None
    threads: str | None = None
    kv_type: str | None = None


_NUMBERS = {"temp", "top_p", "min_p", "repeat_penalty"}
_INTEGERS = {"top_k", "seed", "max_tokens"}
_WORDS_OR_INTEGERS = {"ctx", "gpu_layers", "threads"}


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
    checks: tuple[tuple[set[str], str, Callable[[object], Any]], ...] = (
        (_NUMBERS, "a number", lambda v: float(v) if _is_number(v) else None),  # type: ignore[arg-type]
        (_INTEGERS, "a whole number", lambda v: v if _is_integer(v) else None),
        (
            _WORDS_OR_INTEGERS,
            "a whole number or a word",
            lambda v: str(v) if _is_integer(v) or isinstance(v, str) else None,
        ),
    )
    for keys, wanted, convert in checks:
        if key in keys:
            result = convert(value)
            break
    else:
        wanted, result = "a text", value if isinstance(value, str) else None
    if result is None:
        raise UsageError(f"{path}: '{key}' must be {wanted}, not {value!r}")
    return result


def _is_integer(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(value: object) -> bool:
    return _is_integer(value) or isinstance(value, float)
