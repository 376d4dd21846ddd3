"""Where gemma keeps its files. GEMMA_HOME puts all of them below one folder."""

from __future__ import annotations

import os
from pathlib import Path

_APP = "gemma-cli"


def _place(kind: str) -> Path:
    home = os.environ.get("GEMMA_HOME")
    if home:
        return Path(home).expanduser() / kind
    import platformdirs  # 24 ms: only when no GEMMA_HOME answers first

    return Path(getattr(platformdirs, f"user_{kind}_dir")(_APP, appauthor=False))


def config_dir() -> Path:
    """config.toml and the user's own models.toml."""
    return _place("config")


def data_dir() -> Path:
    """What must never be lost: the history."""
    return _place("data")


def state_dir() -> Path:
    """What one would miss a little: the last model, remembered answers."""
    return _place("state")


def cache_dir() -> Path:
    """What can be made again: the assembled demo model, KV snapshots."""
    return _place("cache")


def private_dir(path: Path) -> Path:
    """Make a folder (and its parents) that only its owner can read."""
    path.mkdir(parents=True, exist_ok=True, mode=0o700)
    return path
