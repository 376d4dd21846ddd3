"""Markdown taken off an answer while it streams: what remains is for a reader without it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from copy import deepcopy
from typing import Any

from markdown_it import MarkdownIt
from markdown_it.token import Token


class PlainText:
    """Takes Markdown piece by piece and gives the text of each block once it is complete.

    Headings and emphasis lose their marks, code its fences; a link is its text and
    its address, a row of a table its cells with tabs between. Lists keep their marks.
    """

    def __init__(self) -> None:
        self._parser = MarkdownIt("commonmark", {"html": False})
        self._parser.enable(["strikethrough", "table"])
        self._env: dict[str, Any] = {}
        self._tail = ""
        self._begun = False

    def feed(self, text: str) -> str:
        """What is final now."""
        self._tail += text
        if "\n" not in text:
            return ""
        # A line that is not complete may still turn into part of the block before.
        whole = self._tail[: self._tail.rfind("\n") + 1]
        starts = [
            token.map[0]
            for token in self._parser.parse(whole, deepcopy(self._env))
            if token.level == 0 and token.nesting >= 0 and token.map
        ]
        if len(starts) < 2:
            return ""
        lines = self._tail.split("\n")
        final, self._tail = "\n".join(lines[: starts[-1]]), "\n".join(lines[starts[-1] :])
        return self._text(final)

    def end(self) -> str:
        """The rest."""
        tail, self._tail = self._tail, ""
        return self._text(tail)

    def _text(self, markdown: str) -> str:
        blocks = _blocks(self._parser.parse(markdown, self._env))
        text = ""
        for block in blocks:
            text += ("\n" if self._begun else "") + block + "\n"
            self._begun = True
        return text


def _blocks(tokens: Sequence[Token]) -> Iterator[str]:
    """The text of each block of one level, without empty ones."""
    at = 0
    while at < len(tokens):
        end = _end(tokens, at)
        text = _block(tokens[at], tokens[at + 1 : end])
        if text.strip():
            yield text
        at = end + 1


def _end(tokens: Sequence[Token], at: int) -> int:
    """Where the block that begins at `at` ends."""
    depth = 0
    for place in range(at, len(tokens)):
        depth += tokens[place].nesting
        if depth == 0:
            return place
    return len(tokens) - 1


def _block(head: Token, inside: Sequence[Token]) -> str:
    if head.type in ("fence", "code_block"):
        return head.content.removesuffix("\n")
    if head.type in ("paragraph_open", "heading_open"):
        return _inline(inside[0].children or [])
    if head.type in ("bullet_list_open", "ordered_list_open"):
        return _list(head, inside)
    if head.type == "table_open":
        return _table(inside)
    return "\n\n".join(_blocks(inside))  # a quotation; of a line across the page nothing


def _list(head: Token, inside: Sequence[Token]) -> str:
    number = int(head.attrs.get("start", 1))
    items = []
    loose = False
    at = 0
    while at < len(inside):
        end = _end(inside, at)
        content = inside[at + 1 : end]
        loose = loose or any(
            token.type == "paragraph_open" and not token.hidden and token.level == head.level + 2
            for token in content
        )
        mark = "- " if head.type == "bullet_list_open" else f"{number}. "
        body = ("\n\n" if loose else "\n").join(_blocks(content))
        items.append(mark + body.replace("\n", f"\n{' ' * len(mark)}"))
        at, number = end + 1, number + 1
    joined = ("\n\n" if loose else "\n").join(items)
    return "\n".join(line.rstrip() for line in joined.split("\n"))


def _table(inside: Sequence[Token]) -> str:
    rows: list[list[str]] = []
    for token in inside:
        if token.type == "tr_open":
            rows.append([])
        elif token.type == "inline":
            rows[-1].append(" ".join(_inline(token.children or []).split()))
    return "\n".join("\t".join(row) for row in rows)


def _inline(tokens: Sequence[Token]) -> str:
    text = ""
    links: list[tuple[int, str]] = []
    for token in tokens:
        if token.type in ("text", "code_inline"):
            text += token.content
        elif token.type in ("softbreak", "hardbreak"):
            text += "\n"
        elif token.type == "link_open":
            links.append((len(text), str(token.attrs.get("href", ""))))
        elif token.type == "link_close":
            start, address = links.pop()
            text += _address(text[start:], address)
        elif token.type == "image":
            shown = _inline(token.children or [])
            text += shown + _address(shown, str(token.attrs.get("src", "")))
    return text


def _address(shown: str, address: str) -> str:
    if address.removeprefix("mailto:") == shown or not address:
        return ""
    return f" ({address})" if shown else address
