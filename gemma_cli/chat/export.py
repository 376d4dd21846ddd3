"""Saved chats as text for people and other programs. Pure."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime

from gemma_cli.chat.conversation import Attachment, Conversation, Turn
from gemma_cli.chat.records import SavedChat

TREE_FORMAT, TREE_VERSION = "gemma-chat", 1

_SPEAKERS = {"user": "You", "assistant": "Gemma", "system": "Summary"}
_SHAREGPT = {"user": "human", "assistant": "gpt", "system": "system"}


def to_markdown(chat: SavedChat, *, all_branches: bool = False) -> str:
    """A heading for each turn of the branch one talks on, or of every branch."""
    conversation = chat.conversation
    parts = [f"# {chat.summary.title}"] if chat.summary.title else []
    if conversation.system:
        parts += ["## System", conversation.system.strip()]
    parts += [_attached("Pinned", each) for each in conversation.pinned]
    if all_branches:
        for turn, place in _walk(conversation):
            parts += ([f"---\n\n*{place}*"] if place else []) + _said(turn)
    else:
        for turn in conversation.path():
            parts += _said(turn)
    return "\n\n".join(parts) + "\n"


def to_json(chat: SavedChat) -> str:
    """The whole tree, so that it can be imported again: see `tree`."""
    return json.dumps(tree(chat), ensure_ascii=False, indent=2) + "\n"


def tree(chat: SavedChat) -> dict[str, object]:
    """Turns in order, each naming the number of its parent."""
    conversation = chat.conversation
    numbers = {turn.id: number for number, turn in enumerate(conversation, start=1)}
    leaf = conversation.leaf
    facts: dict[str, object] = {
        "format": TREE_FORMAT,
        "version": TREE_VERSION,
        "title": chat.summary.title,
        "model": chat.summary.model,
        "system": conversation.system,
        "leaf": None if leaf is None else numbers[leaf],
    }
    if conversation.pinned:
        facts["pinned"] = _documents(conversation.pinned)
    return facts | {"turns": [_turn(turn, numbers) for turn in conversation]}


def _trees(chats: Sequence[SavedChat]) -> str:
    return json.dumps([tree(chat) for chat in chats], ensure_ascii=False, indent=2) + "\n"


def _markdowns(chats: Sequence[SavedChat]) -> str:
    return "\n---\n\n".join(map(to_markdown, chats))


def to_jsonl(chat: SavedChat) -> str:
    """One line: an object whose "messages" are OpenAI-style, the branch one talks on."""
    messages = [{"role": role, "content": text} for role, text in _dialogue(chat.conversation)]
    return json.dumps({"messages": messages}, ensure_ascii=False) + "\n"


def _jsonls(chats: Sequence[SavedChat]) -> str:
    return "".join(map(to_jsonl, chats))


def _sharegpts(chats: Sequence[SavedChat]) -> str:
    listed = [
        {
            "id": f"gemma-{chat.summary.id}",
            "conversations": [
                {"from": _SHAREGPT[role], "value": text}
                for role, text in _dialogue(chat.conversation)
            ],
        }
        for chat in chats
    ]
    return json.dumps(listed, ensure_ascii=False, indent=2) + "\n"


# Several chats as one file.
FORMATS: Mapping[str, Callable[[Sequence[SavedChat]], str]] = {
    "md": _markdowns,
    "json": _trees,
    "jsonl": _jsonls,
    "sharegpt": _sharegpts,
}


def _dialogue(conversation: Conversation) -> Iterator[tuple[str, str]]:
    """(role, text) along the branch one talks on, documents included, nothing left out for space.

    A question that has no answer is left out unless it is the last, as is an empty answer.
    """
    system = "\n\n".join(
        text for text in (conversation.system, *(each.text for each in conversation.pinned)) if text
    )
    if system:
        yield "system", system
    path = conversation.path()
    for turn, follower in zip(path, [*path[1:], None], strict=True):
        if turn.role == "user" and (follower is None or _answers(follower)):
            yield "user", turn.sent
        elif _answers(turn):
            yield "assistant", turn.text


def _answers(turn: Turn) -> bool:
    return turn.role == "assistant" and bool(turn.text.strip())


def _walk(conversation: Conversation) -> Iterator[tuple[Turn, str]]:
    """Every turn, a branch to its end before the next begins; where a branch begins, which."""
    children: dict[int | None, list[Turn]] = {}
    for turn in conversation:
        children.setdefault(turn.parent, []).append(turn)
    waiting: list[tuple[Turn, str]] = []

    def follow(parent: int | None) -> None:
        branches = children.get(parent, [])
        for number, turn in reversed(list(enumerate(branches, start=1))):
            place = f"Branch {number} of {len(branches)}" if len(branches) > 1 else ""
            waiting.append((turn, place))

    follow(None)
    while waiting:
        turn, place = waiting.pop()
        if place and turn.parent is not None:
            before = " ".join(conversation[turn.parent].text.split())
            place += f", after “{before[:60]}{'…' if len(before) > 60 else ''}”"
        yield turn, place
        follow(turn.id)


def _said(turn: Turn) -> list[str]:
    mark = "" if turn.status == "complete" else f" ({turn.status})"
    documents = [_attached("Attached", each) for each in turn.attachments]
    return [f"## {_SPEAKERS[turn.role]}{mark}", *documents, turn.text.strip()]


def _attached(word: str, document: Attachment) -> str:
    return f"*{word}: {document.name}, {len(document.text):,} characters*"


def _documents(attachments: Sequence[Attachment]) -> list[dict[str, str]]:
    return [{"name": each.name, "text": each.text} for each in attachments]


def _turn(turn: Turn, numbers: Mapping[int, int]) -> dict[str, object]:
    entry: dict[str, object] = {
        "turn": numbers[turn.id],
        "parent": None if turn.parent is None else numbers[turn.parent],
        "role": turn.role,
        # What is still on its way now has ended here for whoever reads this later.
        "status": "cancelled" if turn.status == "streaming" else turn.status,
        "created": datetime.fromtimestamp(turn.created, UTC).isoformat(timespec="milliseconds"),
        "text": turn.text,
    }
    if turn.attachments:
        entry["attachments"] = _documents(turn.attachments)
    if turn.thoughts:
        entry["thoughts"] = turn.thoughts
    if turn.origin is not None:
        entry["model"] = turn.origin.model
        entry["model_sha256"] = turn.origin.model_sha
        entry["params"] = dict(turn.origin.params)
        entry["counts"] = dict(turn.origin.counts)
    return entry
