"""Chats that other programs wrote, or this one exported: text to conversations. Pure."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from gemma_cli.chat.conversation import Conversation, Origin
from gemma_cli.chat.export import TREE_FORMAT
from gemma_cli.chat.trees import Wrong, as_list, as_object, as_text, read_tree
from gemma_cli.engine.protocol import Role
from gemma_cli.errors import UsageError

# By the words that datasets use; None: the message is no part of what was said.
_ROLES: Mapping[str, Role | None] = {
    **dict.fromkeys(("system", "developer"), "system"),
    **dict.fromkeys(("user", "human"), "user"),
    **dict.fromkeys(("assistant", "model", "gpt", "chatgpt"), "assistant"),
    **dict.fromkeys(("tool", "function", "observation")),
    **dict.fromkeys(("function_call", "function_response")),
}
_TEXT_PARTS = ("text", "input_text", "output_text")
_FORMS = (
    "forms: gemma history export --format json, jsonl or sharegpt; "
    'a list of {"role": "user", "content": "Hello"}; lines of {"messages": [...]}'
)


@dataclass(slots=True)
class Imported:
    """One chat that was read. left_out: what was in it and is no text, in words, with counts.

    model: the name that stood with it; "" if none did.
    """

    conversation: Conversation
    model: str
    left_out: dict[str, int]


def read_chats(text: str, source: str, clock: Callable[[], float]) -> list[Imported]:
    """Every chat of a file: a JSON value, or lines of them. Raises UsageError naming the place.

    clock: when something was said that has no date.
    """
    chats = [
        chat
        for place, value in _values(text, source)
        for chat in _chats(value, f"{source}{place}", clock)
    ]
    if not chats:
        raise UsageError(f"{source} holds no chat", _FORMS)
    return chats


def _values(text: str, source: str) -> Iterator[tuple[str, Any]]:
    """(which line it is, value): one for a JSON text, one a line for JSONL.

    Lines that are messages, each by itself, are one value: the list of them.
    """
    try:
        yield "", _parse(text)
        return
    except ValueError as error:
        lines = [(n, line) for n, line in enumerate(text.split("\n"), 1) if line.strip()]
        if len(lines) < 2 or not _is_json(lines[0][1]):
            raise UsageError(f"{source} is not valid JSON: {error}", _FORMS) from error
    values = []
    for number, line in lines:
        try:
            values.append((f", line {number}", _parse(line, number)))
        except ValueError as error:
            raise UsageError(f"{source} is not valid JSON: {error}", _FORMS) from error
    if all(_is_message(value) for _, value in values):
        yield "", [value for _, value in values]
    else:
        yield from values


def _parse(text: str, line: int = 1) -> Any:
    """A JSON value; line: where in its file the text begins, for the ValueError."""
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        place = f"line {line + error.lineno - 1}, column {error.colno}"
        raise ValueError(f"{error.msg} ({place})") from error
    except ValueError as error:
        raise ValueError("a number in it has thousands of digits") from error
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error


def _is_json(text: str) -> bool:
    try:
        _parse(text)
    except ValueError:
        return False
    return True


def _chats(value: Any, place: str, clock: Callable[[], float]) -> Iterator[Imported]:
    if not isinstance(value, list) or _is_dialogue(value):
        yield _chat(value, place, clock)
        return
    for number, entry in enumerate(value, start=1):
        yield _chat(entry, f"{place}, chat {number}", clock)


def _is_dialogue(value: list[Any]) -> bool:
    return any(map(_is_message, value))


def _is_message(value: Any) -> bool:
    return isinstance(value, dict) and ("role" in value or "from" in value)


def _chat(value: Any, place: str, clock: Callable[[], float]) -> Imported:
    try:
        if isinstance(value, list):
            return _dialogue({"messages": value}, clock)
        facts = as_object(value, "the chat")
        if facts.get("format") == TREE_FORMAT:
            return Imported(*read_tree(facts), {})
        return _dialogue(facts, clock)
    except Wrong as wrong:
        raise UsageError(f"{place}: {wrong}", _FORMS) from wrong


def _dialogue(facts: Mapping[str, Any], clock: Callable[[], float]) -> Imported:
    """A chat without branches: OpenAI's messages, or ShareGPT's."""
    conversation = Conversation(clock=clock)
    conversation.title = as_text(facts.get("title") or "", "title")
    model = as_text(facts.get("model") or "", "model")
    left_out: dict[str, int] = {}
    system = []
    for role, text in _messages(facts, left_out):
        if role == "system":
            if len(conversation):
                _count(left_out, "later system text, put into the first")
            system.append(text)
        else:
            origin = Origin(model) if role == "assistant" and model else None
            conversation.add(role, text, origin=origin)
    if not len(conversation):
        raise Wrong("it holds no message of a user or a model")
    conversation.system = "\n\n".join(filter(None, system))
    return Imported(conversation, model, left_out)


def _messages(facts: Mapping[str, Any], left_out: dict[str, int]) -> Iterator[tuple[Role, str]]:
    entries = next((key for key in ("messages", "conversations") if key in facts), None)
    if entries is None:
        raise Wrong('there is neither "messages" nor "conversations" nor a tree of turns')
    for number, entry in enumerate(as_list(facts[entries], entries), start=1):
        try:
            role, text = _message(as_object(entry, "it"), left_out)
        except Wrong as wrong:
            raise Wrong(f"message {number}: {wrong}") from wrong
        if role is not None:
            yield role, text


def _message(entry: Mapping[str, Any], left_out: dict[str, int]) -> tuple[Role | None, str]:
    """(role, text); no role: it is to be left out, which is counted."""
    is_sharegpt = "from" in entry and "role" not in entry
    role_key, text_key = ("from", "value") if is_sharegpt else ("role", "content")
    name = as_text(entry.get(role_key), role_key)
    if name not in _ROLES:
        raise Wrong(f"the role is {name!r}, not one of {', '.join(_ROLES)}")
    role = _ROLES[name]
    if role is None:
        _count(left_out, "tool message")
        return None, ""
    if entry.get("tool_calls") or entry.get("function_call"):
        _count(left_out, "tool call")
        if not entry.get(text_key):
            return None, ""
    return role, _content(entry.get(text_key), text_key, left_out)


def _content(content: Any, key: str, left_out: dict[str, int]) -> str:
    """A text, or the texts of a list of parts joined; parts that are none are counted."""
    if not isinstance(content, list):
        return as_text(content, key)
    texts = []
    for part in content:
        if isinstance(part, str):
            texts.append(as_text(part, key))
            continue
        kind = as_object(part, f"a part of {key}").get("type", "text")
        if kind in _TEXT_PARTS:
            texts.append(as_text(part.get("text"), "text"))
        else:
            _count(left_out, re.sub(r"[^a-z]+", " ", str(kind).lower()).strip() or "other part")
    return "".join(texts)


def _count(left_out: dict[str, int], what: str) -> None:
    left_out[what] = left_out.get(what, 0) + 1
