"""Finding messages: what a person types, as SQLite's full-text search reads it, and its answer."""

from __future__ import annotations

import re
import secrets
import sqlite3
import unicodedata
from dataclasses import dataclass

# To rank every message that holds "the" takes 100 ms in 100,000 messages; to rank
# the newest of them, cut out excerpts and all, 10.
_RANKED = 200
_EXCERPT_WORDS = 16

_MESSAGES = f"""SELECT c.id, c.title, m.role, m.created, found.excerpt
    FROM (SELECT rowid AS id, bm25(message_text) AS score,
            snippet(message_text, 0, :opening, :closing, '…', {_EXCERPT_WORDS}) AS excerpt
        FROM message_text WHERE message_text MATCH :wanted ORDER BY rowid DESC LIMIT :ranked) found
    JOIN message m ON m.id = found.id
    JOIN conversation c ON c.id = m.conversation_id
    ORDER BY found.score, m.id DESC LIMIT :limit"""

# Which chats hold the words in a message or in the title that somebody gave them.
IN_MESSAGES = """c.id IN (SELECT m.conversation_id FROM message_text
    JOIN message m ON m.id = message_text.rowid WHERE message_text MATCH :wanted)"""
IN_TITLES = "c.id IN (SELECT rowid FROM title_text WHERE title_text MATCH :wanted)"

# A quoted phrase (its end may be missing), or what stands between white space.
_TERM = re.compile(r'"([^"]*)("|$)|[^\s"]+')


@dataclass(frozen=True, slots=True)
class Hit:
    """A message that a search found.

    excerpt: the words around the match; matches: where in it the words stand
    that were looked for, as (start, end).
    """

    conversation: int
    title: str
    role: str
    created: float
    excerpt: str
    matches: tuple[tuple[int, int], ...] = ()


def find_messages(database: sqlite3.Connection, wanted: str, limit: int) -> list[Hit]:
    """The messages that a match_expression finds, the best of the newest first."""
    # The message may hold any text, so what marks a match must be past guessing.
    mark = secrets.token_hex(8)
    opening, closing = f"\1{mark}\2", f"\3{mark}\4"
    rows = database.execute(
        _MESSAGES,
        {
            "wanted": wanted,
            "opening": opening,
            "closing": closing,
            "ranked": max(_RANKED, limit),
            "limit": limit,
        },
    ).fetchall()
    hits = []
    for chat, title, role, created, excerpt in rows:
        text, matches = _unmarked(excerpt, opening, closing)
        hits.append(Hit(chat, title, role, created, text, matches))
    return hits


def _unmarked(excerpt: str, opening: str, closing: str) -> tuple[str, tuple[tuple[int, int], ...]]:
    text, *marked = excerpt.split(opening)
    matches = []
    for part in marked:
        match, _, rest = part.partition(closing)
        matches.append((len(text), len(text) + len(match)))
        text += match + rest
    return text, tuple(matches)


def match_expression(query: str) -> str:
    """An FTS5 expression that every word and "quoted phrase" must match; "" if there is none.

    Nothing in the query is syntax but the double quotes: all of it is quoted. The
    last word may be a beginning, unless a closed quote ends the query.
    """
    terms = []
    is_open = False
    for found in _TERM.finditer(query):
        phrase = found.group(1) if found.group(0).startswith('"') else found.group(0)
        if any(map(_is_indexed, phrase)):
            terms.append(f'"{"".join(map(_plain, phrase))}"')
            is_open = not found.group(2)
    return " ".join(terms) + ("*" if terms and is_open else "")


def _is_indexed(character: str) -> bool:
    """Whether the tokenizer (unicode61) takes it for a part of a word."""
    kind = unicodedata.category(character)
    return kind[0] in "LN" or kind == "Co"


def _plain(character: str) -> str:
    """A NUL would end the expression, a lone surrogate cannot be handed over at all."""
    return " " if character == "\0" or unicodedata.category(character) == "Cs" else character
