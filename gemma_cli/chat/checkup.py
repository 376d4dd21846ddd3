"""Is the history sound? Looked at without changing, moving or creating anything."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from gemma_cli.chat.database import APPLICATION_ID, MIGRATIONS


@dataclass(frozen=True, slots=True)
class Checkup:
    """chats: how many there are. trouble: what is wrong with the file, None if nothing.

    newer: a newer gemma wrote it, so that this one only reads it.
    """

    chats: int = 0
    trouble: str | None = None
    newer: bool = False


def examine(path: Path) -> Checkup:
    """Read every page of the history file. OSError where it cannot be read at all."""
    with path.open("rb"):
        pass
    # An immutable view needs no -shm file; it would not see what is only in the log.
    log = path.with_name(f"{path.name}-wal")
    mode = "mode=ro" if log.exists() else "immutable=1"
    try:
        with closing(sqlite3.connect(f"{path.absolute().as_uri()}?{mode}", uri=True)) as database:
            return _examine(database)
    except sqlite3.Error as error:
        return Checkup(trouble=str(error))


def _examine(database: sqlite3.Connection) -> Checkup:
    def ask(question: str) -> object:
        return database.execute(question).fetchone()[0]

    version, owner = ask("PRAGMA user_version"), ask("PRAGMA application_id")
    if not ask("SELECT count(*) FROM sqlite_schema"):
        return Checkup()
    if owner != APPLICATION_ID or not isinstance(version, int):
        return Checkup(trouble="it is a database of another program")
    verdict = str(ask("PRAGMA integrity_check(1)"))
    if verdict != "ok":
        return Checkup(trouble=verdict.splitlines()[-1])
    chats = ask("SELECT count(*) FROM conversation")
    assert isinstance(chats, int)
    return Checkup(chats, newer=version > len(MIGRATIONS))
