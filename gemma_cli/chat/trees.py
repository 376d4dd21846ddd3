"""A chat that gemma exported as JSON, the whole tree, read again and checked. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, TypeGuard

from gemma_cli.chat.conversation import Attachment, Conversation, Origin, Turn
from gemma_cli.chat.export import TREE_VERSION
from gemma_cli.chat.records import title_of
from gemma_cli.engine.protocol import Role

_ROLES = ("system", "user", "assistant")
_STATUSES = ("complete", "cancelled", "error", "streaming")
_HALF = re.compile("[\ud800-\udfff]")


class Wrong(Exception):  # noqa: N818 - a finding about a file, told as a UsageError
    """What is wrong with a file, as the end of a sentence that names the place."""


def read_tree(facts: Mapping[str, Any]) -> tuple[Conversation, str]:
    """The conversation, its turns numbered as in the file, and its model. Raises Wrong."""
    version = facts.get("version")
    if not isinstance(version, int) or version < 1:
        raise Wrong("'version' is no number")
    if version > TREE_VERSION:
        raise Wrong("it was written by a newer gemma")
    conversation = Conversation(as_text(facts.get("system", ""), "system"))
    conversation.pinned = _documents(facts.get("pinned", []), "pinned")
    known: dict[int, Role] = {}
    for number, entry in enumerate(as_list(facts.get("turns"), "turns"), start=1):
        try:
            turn = _turn(as_object(entry, "it"), known)
            conversation.insert(turn)
            known[turn.id] = turn.role
        except Wrong as wrong:
            raise Wrong(f"turn {number}: {wrong}") from wrong
    if not len(conversation):
        raise Wrong("it holds no turn")
    leaf = facts.get("leaf")
    if leaf is not None and not _can_be_followed(leaf, known):
        raise Wrong("'leaf' is no question or answer of it")
    conversation.go_to(leaf)
    title = as_text(facts.get("title", ""), "title")
    # One that would be made of the first question again was not set by hand.
    conversation.title = "" if title == title_of(conversation) else title
    return conversation, as_text(facts.get("model", ""), "model")


def as_object(value: Any, name: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise Wrong(f"{name} is no object")
    return value


def as_list(value: Any, name: str) -> list[Any]:
    if not isinstance(value, list):
        raise Wrong(f"'{name}' is no list")
    return value


def as_text(value: Any, name: str) -> str:
    if not isinstance(value, str):
        raise Wrong(f"'{name}' is no text")
    if _HALF.search(value):
        raise Wrong(f"'{name}' holds half of a character (\\ud800 to \\udfff stand in pairs)")
    return value


def _turn(entry: Mapping[str, Any], known: Mapping[int, Role]) -> Turn:
    number, parent = entry.get("turn"), entry.get("parent")
    if not _is_number(number) or number in known:
        raise Wrong("'turn' is no number of its own")
    if parent is not None and not _can_be_followed(parent, known):
        raise Wrong("'parent' is no question or answer before it")
    role, status = entry.get("role"), entry.get("status", "complete")
    if role not in _ROLES:
        raise Wrong(f"'role' is {role!r}, not one of {', '.join(_ROLES)}")
    if status not in _STATUSES:
        raise Wrong(f"'status' is {status!r}, not one of {', '.join(_STATUSES)}")
    return Turn(
        id=number,
        parent=parent,
        role=role,
        text=as_text(entry.get("text"), "text"),
        status="cancelled" if status == "streaming" else status,
        created=_moment(entry.get("created")),
        origin=_origin(entry),
        thoughts=as_text(entry.get("thoughts", ""), "thoughts"),
        attachments=_documents(entry.get("attachments", []), "attachments"),
    )


def _is_number(value: Any) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool)


def _can_be_followed(number: Any, known: Mapping[int, Role]) -> bool:
    """A summary stands beside what was said; nothing comes after it."""
    return _is_number(number) and known.get(number, "system") != "system"


def _moment(value: Any) -> float:
    """An ISO date as seconds since 1970; without a zone it is UTC."""
    try:
        moment = datetime.fromisoformat(as_text(value, "created"))
    except ValueError as error:
        raise Wrong(f"'created' is no date: {value!r}") from error
    if not 1970 <= moment.year < 2200:
        raise Wrong(f"'created' is no date between 1970 and 2200: {value!r}")
    moment = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    return max(moment.timestamp(), 0.0)


def _origin(entry: Mapping[str, Any]) -> Origin | None:
    if entry.get("model") is None:
        return None
    sha = entry.get("model_sha256")
    return Origin(
        as_text(entry["model"], "model"),
        None if sha is None else as_text(sha, "model_sha256"),
        as_object(entry.get("params", {}), "'params'"),
        as_object(entry.get("counts", {}), "'counts'"),
    )


def _documents(value: Any, name: str) -> tuple[Attachment, ...]:
    entries = [as_object(each, f"'{name}'") for each in as_list(value, name)]
    return tuple(
        Attachment(as_text(each.get("name"), "name"), as_text(each.get("text"), "text"))
        for each in entries
    )
