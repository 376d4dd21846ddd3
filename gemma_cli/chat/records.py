"""Rows of the history as values, and values as rows."""

from __future__ import annotations

import json
import secrets
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from gemma_cli.chat.conversation import Attachment, Conversation, Origin, Turn

_TITLE_LENGTH = 80

# As in a conversation's own ids: milliseconds, then these.
_RANDOM_BITS = 20

# Columns that came with a migration: what stands for each in an older file.
_LATER = {"thoughts": "''", "attachments": "'[]'"}
_TURN_COLUMNS = (
    *("id", "parent_id", "role", "text", "status", "created"),
    *("model", "model_sha", "params", "counts", "thoughts", "attachments"),
)


@dataclass(frozen=True, slots=True)
class Summary:
    """One chat in a list. updated: seconds since 1970; turns: questions asked, branches too."""

    id: int
    updated: float
    turns: int
    model: str
    title: str


@dataclass(frozen=True, slots=True)
class SavedChat:
    """A whole chat, ready to be continued or exported."""

    summary: Summary
    conversation: Conversation


def title_of(conversation: Conversation) -> str:
    """A chat's title: as somebody set it, else the beginning of its first question.

    One that was imported may hold answers only: then of the first of these.
    """
    title = conversation.title.strip()
    for role in ("user", "assistant"):
        for turn in conversation:
            if title:
                break
            if turn.role == role:
                title = turn.text.strip() or ", ".join(each.name for each in turn.attachments)
    line = " ".join(storable(title).split())
    return line if len(line) <= _TITLE_LENGTH else line[: _TITLE_LENGTH - 1] + "…"


def turn_columns(there: Sequence[str]) -> str:
    """What to select for `turn` from a message table that has those columns."""
    return ", ".join(
        name if name in there or name not in _LATER else _LATER[name] for name in _TURN_COLUMNS
    )


def turn(row: Sequence[object]) -> Turn:
    """A turn from a row of turn_columns."""
    turn_id, parent, role, text, status, created, model, sha, params, counts, thoughts, more = row
    origin = None
    if model is not None:
        origin = Origin(model, sha, _object(params), _object(counts))  # type: ignore[arg-type]
    documents = attachments(more)
    return Turn(turn_id, parent, role, text, status, created, origin, thoughts, documents)  # type: ignore[arg-type]


def turn_row(conversation_id: int, turn: Turn, owner: str) -> tuple[object, ...]:
    """In the order of History's INSERT. owner: the process that writes an unfinished answer."""
    origin = turn.origin
    return (
        turn.id,
        conversation_id,
        turn.parent,
        turn.role,
        turn.status,
        storable(turn.text),
        turn.created,
        origin and storable(origin.model),
        origin and origin.model_sha,
        origin and json.dumps(dict(origin.params)),
        origin and json.dumps(dict(origin.counts)),
        owner if turn.status == "streaming" else None,
        storable(turn.thoughts),
        attachments_text(turn.attachments),
    )


def with_free_ids(conversation: Conversation, is_taken: Callable[[int], bool]) -> Conversation:
    """The same conversation, its turns numbered as if it had been held here when it was held.

    is_taken: whether an id is used already.
    """
    now = time.time()
    copy = Conversation(conversation.system)
    copy.title, copy.pinned = conversation.title, conversation.pinned
    ids: dict[int | None, int | None] = {None: None}
    newest = 0
    for old in conversation:
        moment = int(max(min(old.created, now), 0.0) * 1000)
        newest = max((moment << _RANDOM_BITS) | secrets.randbits(_RANDOM_BITS), newest + 1)
        while is_taken(newest):
            newest += 1
        ids[old.id] = newest
        copy.insert(replace(old, id=newest, parent=ids[old.parent]))
    copy.go_to(ids[conversation.leaf])
    return copy


def attachments_text(documents: Sequence[Attachment]) -> str:
    return json.dumps([{"name": each.name, "text": each.text} for each in documents])


def attachments(text: object) -> tuple[Attachment, ...]:
    """The documents of such a text; what is none is passed over."""
    try:
        listed = json.loads(text) if isinstance(text, str) else []
        return tuple(Attachment(str(each["name"]), str(each["text"])) for each in listed)
    except (ValueError, KeyError, TypeError, RecursionError):
        return ()


def storable(text: str) -> str:
    """SQLite keeps UTF-8, in which half of a surrogate pair cannot be written."""
    return text if text.isascii() else text.encode("utf-8", "replace").decode()


def _object(text: object) -> dict[str, object]:
    try:
        value = json.loads(text) if isinstance(text, str) else {}
    except ValueError:
        value = {}
    return value if isinstance(value, dict) else {}
