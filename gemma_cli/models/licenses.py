"""Which terms the user has accepted, remembered once for all models under them."""

from __future__ import annotations

from datetime import UTC, datetime

from gemma_cli.models.entries import License
from gemma_cli.models.state import read_state, write_state

_FILE = "accepted-licenses.json"


def is_accepted(terms: License) -> bool:
    return not terms.accept or terms.id in read_state(_FILE)


def accept(terms: License) -> None:
    """Remember it, with the time."""
    now = datetime.now(UTC).isoformat(timespec="seconds")
    write_state(_FILE, read_state(_FILE) | {terms.id: now})
