"""Small facts remembered between runs, as JSON in the state folder.

Losing them is a small matter: a file that is broken counts as empty, and a
folder that cannot be written to is no reason to fail.
"""

from __future__ import annotations

import contextlib
import json
import os
from typing import Any

from gemma_cli import paths


def read_state(name: str) -> dict[str, Any]:
    try:
        data = json.loads((paths.state_dir() / name).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return data if isinstance(data, dict) else {}


def write_state(name: str, data: dict[str, Any]) -> None:
    target = paths.state_dir() / name
    temporary = target.with_name(f"{name}.{os.getpid()}.tmp")
    try:
        paths.private_dir(target.parent)
        temporary.write_text(json.dumps(data, indent=1), encoding="utf-8")
        temporary.replace(target)
    except OSError:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
