"""Which terms the user has accepted, remembered once for all models under them."""

from __future__ import annotations

import json
import os
from datetime import UTC, datetime
from pathlib import Path

from gemma_cli import paths
from gemma_cli.models.entries import License


def is_accepted(terms: License) -> bool:
    return not terms.accept or terms.id in _read()


def accept(terms: License) -> None:
    """Remember it; a state folder that cannot be written to asks again next time."""
    accepted = _read() | {terms.id: datetime.now(UTC).isoformat(timespec="seconds")}
    target = _path()
    temporary = target.with_suffix(f".{os.getpid()}.tmp")
    try:
        paths.private_dir(target.parent)
        temporary.write_text(json.dumps(accepted), encoding="utf-8")
        temporary.replace(target)
    except OSError:
        temporary.unlink(missing_ok=True)


def _path() -> Path:
    return paths.state_dir() / "accepted-licenses.json"


def _read() -> dict[str, str]:
    try:
        data = json.loads(_path().read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return {str(k): str(v) for k, v in data.items()} if isinstance(data, dict) else {}
