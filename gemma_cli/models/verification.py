"""When a model's bytes were last compared with the published ones, and what came of it."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime

from gemma_cli.models.demo import DEMO_ID
from gemma_cli.models.state import read_state, write_state
from gemma_cli.models.store import InstalledModel, parts_of

_STATE = "verified.json"


@dataclass(frozen=True, slots=True)
class Verification:
    """state: "ok", "damaged", "unknown" (no hash is published). at: when (ISO 8601, UTC)."""

    state: str
    at: str


def remember_verification(model: InstalledModel, state: str) -> None:
    """`gemma verify` has just hashed its files as they are now."""
    now = datetime.now(UTC).isoformat(timespec="seconds")
    entry = {"state": state, "at": now, "files": _stamps(model)}
    write_state(_STATE, read_state(_STATE) | {_key(model): entry})


def last_verification(model: InstalledModel) -> Verification | None:
    """None if it never was, or if its files have changed since.

    A download is hashed while it arrives: that counts as its first time.
    """
    entry = read_state(_STATE).get(_key(model))
    if isinstance(entry, dict) and entry.get("files") == _stamps(model):
        return Verification(str(entry.get("state")), str(entry.get("at")))
    if model.name != DEMO_ID and not (model.path.is_symlink() and model.sha256):
        return None
    try:
        arrived = model.path.stat().st_mtime
    except OSError:
        return None
    return Verification("ok", datetime.fromtimestamp(arrived, UTC).isoformat(timespec="seconds"))


def _key(model: InstalledModel) -> str:
    return f"{model.ref} {model.path.absolute()}"


def _stamps(model: InstalledModel) -> list[list[int]]:
    """What changes with the content of its files: their lengths and dates."""
    stamps = []
    for path in parts_of(model):
        try:
            status = path.stat()
        except OSError:
            stamps.append([-1, -1])
        else:
            stamps.append([status.st_size, status.st_mtime_ns])
    return stamps
