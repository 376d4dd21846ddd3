"""Completion of paths, quick even where a folder is on a slow or sleeping disk."""

from __future__ import annotations

import os
import re
import threading
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

from gemma_cli.documents.document import clean_name
from gemma_cli.documents.gathering import expanded

_PATIENCE = 0.05  # seconds
_MOST = 200
_MOST_LISTED = 20_000
_SEPARATORS = "/\\" if os.name == "nt" else "/"
_NEEDS_QUOTES = re.compile(r'[\s"]')

_listing: set[Path] = set()  # folders whose listing has not come back


def complete(prefix: str) -> list[str]:
    """What prefix may become, whole: as typed after @ (without it) or as an argument.

    Sorted, 200 at most. Folders end with /, ~ stays, names with spaces are put in
    double quotes (of a folder only the first one, so that typing can go on). Hidden
    names only after a dot. What cannot be typed, or takes over 50 ms, is not offered.
    """
    typed = prefix[1:].replace('\\"', '"') if prefix.startswith('"') else prefix
    if typed[:2] in ("//", "\\\\"):
        return []  # another machine would be asked
    if typed == "~":
        return ["~/"]
    cut = max(typed.rfind(separator) for separator in _SEPARATORS) + 1
    place, start = typed[:cut], typed[cut:]
    names = sorted(_names(expanded(place or "."), start), key=lambda each: each[0].casefold())
    quoted = prefix.startswith('"')
    return [_written(place + name, is_folder, quoted=quoted) for name, is_folder in names[:_MOST]]


def _written(path: str, is_folder: bool, *, quoted: bool) -> str:
    if not quoted and not _NEEDS_QUOTES.search(path):
        return path + "/" * is_folder
    escaped = path.replace('"', '\\"')
    return f'"{escaped}/' if is_folder else f'"{escaped}"'


def _names(folder: Path, start: str) -> list[tuple[str, bool]]:
    """Names that begin so, and whether each is a folder; what came back in time."""
    if folder in _listing:
        return []
    found: list[tuple[str, bool]] = []

    def look() -> None:
        try:
            found.extend(_look(folder, start))
        finally:
            _listing.discard(folder)

    _listing.add(folder)
    thread = threading.Thread(target=look, name="path completion", daemon=True)
    thread.start()
    thread.join(_PATIENCE)
    return list(found)


def _look(folder: Path, start: str) -> Iterator[tuple[str, bool]]:
    wanted = os.path.normcase(start)
    try:
        with os.scandir(folder) as entries:
            for entry in islice(entries, _MOST_LISTED):
                name = entry.name
                hidden = name.startswith(".") and not start.startswith(".")
                if not hidden and os.path.normcase(name).startswith(wanted) and _typeable(name):
                    yield name, entry.is_dir()
    except (OSError, ValueError):
        return


def _typeable(name: str) -> bool:
    return clean_name(name) == name
