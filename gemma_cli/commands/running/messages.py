"""OpenAI-style messages from a file: checked, then values."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

from gemma_cli.errors import UsageError

if TYPE_CHECKING:
    from gemma_cli.engine.protocol import Message, Role

_ROLES: dict[str, Role] = {
    "system": "system",
    "developer": "system",
    "user": "user",
    "assistant": "assistant",
    "model": "assistant",
}
_HALF = re.compile("[\ud800-\udfff]")
_FORM = '[{"role": "user", "content": "Hello"}]'


def read_messages(text: str, source: str) -> list[Message]:
    """Messages of a JSON list (or of an object's "messages"). Raises UsageError.

    content: a string, or a list of {"type": "text", "text": ...} parts.
    """
    from gemma_cli.engine.protocol import Message

    try:
        data = json.loads(text)
    except (ValueError, RecursionError) as error:  # a number may be too long for Python
        reason = str(error).partition(";")[0]  # what follows is for programmers
        raise UsageError(
            f"{source} is not valid JSON: {reason}", f"it should be: {_FORM}"
        ) from error
    if isinstance(data, dict):
        data = data.get("messages")
    if not isinstance(data, list) or not data:
        raise UsageError(f"{source} holds no list of messages", f"it should be: {_FORM}")
    found = []
    for number, item in enumerate(data, 1):
        if not isinstance(item, dict):
            raise UsageError(f"{source}: message {number} is no object", f"it should be: {_FORM}")
        role = item.get("role")
        if not isinstance(role, str) or role not in _ROLES:
            raise UsageError(
                f"{source}: message {number} has the role {role!r}",
                f"roles are {', '.join(_ROLES)}",
            )
        found.append(Message(_ROLES[role], _content(item.get("content"), source, number)))
    if found[-1].role != "user":
        raise UsageError(
            f"{source}: the last message is not the user's",
            'add one: {"role": "user", "content": "..."}',
        )
    return found


def _content(content: Any, source: str, number: int) -> str:
    parts = content if isinstance(content, list) else [{"text": content}]
    found = [part.get("text") if isinstance(part, dict) else None for part in parts]
    texts = [text for text in found if isinstance(text, str)]
    if len(texts) == len(found):
        text = "".join(texts)
        if _HALF.search(text):
            raise UsageError(
                f"{source}: message {number} holds half of a character",
                "\\ud800 to \\udfff stand in pairs in JSON",
            )
        return text
    raise UsageError(
        f"{source}: the content of message {number} is no text",
        "only text can be sent: a string, or a list of text parts",
    )
