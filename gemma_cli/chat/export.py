"""A saved chat as text for other programs. Pure."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from datetime import UTC, datetime

from gemma_cli.chat.conversation import Turn
from gemma_cli.chat.records import SavedChat

_SPEAKERS = {"user": "You", "assistant": "Gemma", "system": "System"}


def to_markdown(chat: SavedChat) -> str:
    """The branch one talks on, a heading for each turn."""
    parts = [f"# {chat.summary.title}"] if chat.summary.title else []
    if chat.conversation.system:
        parts += ["## System", chat.conversation.system.strip()]
    for turn in chat.conversation.path():
        mark = "" if turn.status == "complete" else f" ({turn.status})"
        parts += [f"## {_SPEAKERS[turn.role]}{mark}", turn.text.strip()]
    return "\n\n".join(parts) + "\n"


def to_jsonl(chat: SavedChat) -> str:
    """One line: an object whose "messages" are OpenAI-style, the branch one talks on."""
    said = chat.conversation.messages()
    messages = [{"role": message.role, "content": message.text} for message in said]
    return json.dumps({"messages": messages}, ensure_ascii=False) + "\n"


def to_json(chat: SavedChat) -> str:
    """The whole tree: turns in order, each naming the number of its parent."""
    numbers = {turn.id: number for number, turn in enumerate(chat.conversation, start=1)}
    leaf = chat.conversation.leaf
    tree = {
        "format": "gemma-chat",
        "version": 1,
        "title": chat.summary.title,
        "model": chat.summary.model,
        "system": chat.conversation.system,
        "leaf": numbers.get(leaf) if leaf is not None else None,
        "turns": [_turn(turn, numbers) for turn in chat.conversation],
    }
    return json.dumps(tree, ensure_ascii=False, indent=2) + "\n"


def _turn(turn: Turn, numbers: Mapping[int, int]) -> dict[str, object]:
    entry: dict[str, object] = {
        "turn": numbers[turn.id],
        "parent": None if turn.parent is None else numbers[turn.parent],
        "role": turn.role,
        "status": turn.status,
        "created": datetime.fromtimestamp(turn.created, UTC).isoformat(timespec="milliseconds"),
        "text": turn.text,
    }
    if turn.thoughts:
        entry["thoughts"] = turn.thoughts
    if turn.origin is not None:
        entry["model"] = turn.origin.model
        entry["model_sha256"] = turn.origin.model_sha
        entry["params"] = dict(turn.origin.params)
        entry["counts"] = dict(turn.origin.counts)
    return entry


FORMATS: Mapping[str, Callable[[SavedChat], str]] = {
    "md": to_markdown,
    "json": to_json,
    "jsonl": to_jsonl,
}
