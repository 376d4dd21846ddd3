"""The documents of chats cut into passages, in which a search finds words quickly.

The attachments of a message and of a chat stay as they were sent; the passages are
made of them, and the full-text index follows the passages by triggers. What is
removed or replaced takes its passages along, by triggers too.
"""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Iterator, Sequence

from gemma_cli.chat import records
from gemma_cli.chat.conversation import Attachment

# Characters, three pages. To mark a common word costs 2 ms in a text of 32,000 and
# 1.5 s in one of a million; words that are looked for together stand near each other.
LENGTH = 8_000

_FENCE = re.compile("`{3,}")
_ADD = "INSERT INTO passage (conversation_id, message_id, name, text) VALUES (?, ?, ?, ?)"


def index(
    database: sqlite3.Connection,
    chat: int,
    message: int | None,
    documents: Sequence[Attachment],
) -> None:
    """Make a message's documents findable, or a chat's pinned ones (no message), once."""
    if not documents:
        return
    there = "SELECT 1 FROM passage WHERE conversation_id = ? AND message_id IS ? LIMIT 1"
    if database.execute(there, (chat, message)).fetchone():
        return
    for document in documents:
        name = records.storable(document.name)
        parts = split(records.storable(inside(document)))
        database.executemany(_ADD, [(chat, message, name, part) for part in parts])


def index_all(database: sqlite3.Connection) -> None:
    """Make the documents of an older file findable; what is damaged is passed over."""
    for kept in (
        "SELECT conversation_id, id, CAST(attachments AS BLOB) FROM message"
        " WHERE attachments <> '[]' ORDER BY id",
        "SELECT conversation_id, NULL, CAST(attachments AS BLOB) FROM pinned",
    ):
        for chat, message, listed in database.execute(kept):
            text = (listed or b"").decode("utf-8", "replace")
            index(database, chat, message, records.attachments(text))


def inside(document: Attachment) -> str:
    """What the document says, without the name and the fence in which the model is shown it."""
    shown = document.text.removeprefix(f"{document.name}:\n")
    fence = _FENCE.match(shown)
    if shown == document.text or not fence or not shown.endswith(f"\n{fence[0]}"):
        return document.text
    return shown.partition("\n")[2].removesuffix(fence[0])


def split(text: str) -> Iterator[str]:
    """The text in parts of at most LENGTH characters, one at least; cut where the least is torn."""
    start = 0
    while len(text) - start > LENGTH:
        end = start + LENGTH
        for gap in ("\n\n", "\n", " "):
            found = text.rfind(gap, start + LENGTH // 2, end)
            if found >= 0:
                end = found + len(gap)
                break
        yield text[start:end]
        start = end
    yield text[start:]
