"""Finding messages: what a person types, as SQLite's full-text search reads it, and its answer."""

from __future__ import annotations

import json
import re
import secrets
import sqlite3
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from operator import itemgetter

# To rank every message that holds "the" takes 100 ms in 100,000 messages; to rank
# the newest of them 10.
_RANKED = 200
_EXCERPT_WORDS = 16

# What can be searched; an older file that may only be read has fewer.
INDEXES = ("message_text", "title_text", "passage_text")

_NEWEST = """SELECT rowid AS id, bm25({index}) AS score FROM {index}
    WHERE {index} MATCH :wanted ORDER BY rowid DESC LIMIT :ranked"""

_MESSAGES = f"""SELECT found.score, found.id, c.id, c.title, m.role, m.created, NULL
    FROM ({_NEWEST.format(index="message_text")}) found
    JOIN message m ON m.id = found.id
    JOIN conversation c ON c.id = m.conversation_id
    ORDER BY found.score, m.id DESC LIMIT :limit"""

# A title that nobody set is the beginning of the first message, which is found itself.
_TITLES = """SELECT bm25(title_text), c.id, c.id, c.title, 'title', c.updated, NULL
    FROM title_text JOIN conversation c ON c.id = title_text.rowid
    WHERE title_text MATCH :wanted AND c.named ORDER BY 1, c.id DESC LIMIT :limit"""

# The best passage of each document. A pinned one is shown to the model as a part of the
# system text, and has no date but its chat's.
_DOCUMENTS = f"""SELECT min(found.score), found.id, c.id, c.title, coalesce(m.role, 'system'),
        coalesce(m.created, c.updated), p.name
    FROM ({_NEWEST.format(index="passage_text")}) found
    JOIN passage p ON p.id = found.id
    JOIN conversation c ON c.id = p.conversation_id
    LEFT JOIN message m ON m.id = p.message_id
    GROUP BY p.conversation_id, p.message_id, p.name
    ORDER BY 1, found.id DESC LIMIT :limit"""

_FIND = {"message_text": _MESSAGES, "title_text": _TITLES, "passage_text": _DOCUMENTS}

# An excerpt costs more than a rank, so only of what is shown; but each looked up by itself
# would cost a walk through all that holds a common word.
_EXCERPT = f"""SELECT rowid, CASE WHEN rowid IN (SELECT value FROM json_each(:shown))
        THEN snippet({{index}}, {{column}}, :opening, :closing, '…', {_EXCERPT_WORDS}) END
    FROM {{index}} WHERE {{index}} MATCH :wanted ORDER BY rowid DESC LIMIT :ranked"""

# Which chats hold the words in a message, in a document or in the title.
_HOLDING = {
    "message_text": """c.id IN (SELECT m.conversation_id FROM message_text
        JOIN message m ON m.id = message_text.rowid WHERE message_text MATCH :wanted)""",
    "title_text": "c.id IN (SELECT rowid FROM title_text WHERE title_text MATCH :wanted)",
    "passage_text": """c.id IN (SELECT p.conversation_id FROM passage_text
        JOIN passage p ON p.id = passage_text.rowid WHERE passage_text MATCH :wanted)""",
}

# A quoted phrase (its end may be missing), or what stands between white space.
_TERM = re.compile(r'"([^"]*)("|$)|[^\s"]+')


@dataclass(frozen=True, slots=True)
class Hit:
    """A message, a document in a chat, or a title that somebody set, that a search found.

    document: its name, if it is one. role: of the message, of the one that the document
    was sent with, "system" where that is pinned; or "title".
    excerpt: the words around the match; matches: where in it the words stand
    that were looked for, as (start, end); none where only the name holds them.
    """

    conversation: int
    title: str
    role: str
    created: float
    excerpt: str
    matches: tuple[tuple[int, int], ...] = ()
    document: str | None = None


def holding(indexes: Sequence[str]) -> str:
    """A condition on conversation c: what a match_expression finds is in one of these indexes."""
    return " OR ".join(_HOLDING[index] for index in indexes)


def find(
    database: sqlite3.Connection, indexes: Sequence[str], wanted: str, limit: int
) -> list[Hit]:
    """What a match_expression finds in those indexes, the best of the newest first."""
    values: dict[str, object] = {"wanted": wanted, "ranked": max(_RANKED, limit), "limit": limit}
    found = [(index, *row) for index in indexes for row in database.execute(_FIND[index], values)]
    found.sort(key=itemgetter(1))
    del found[limit:]
    excerpts = {
        (index, row_id): excerpt
        for index in indexes
        for row_id, excerpt in _excerpts(
            database, index, values, [row[2] for row in found if row[0] == index]
        )
    }
    return [
        Hit(chat, title, role, created, *excerpts[index, row_id], document)
        for index, _, row_id, chat, title, role, created, document in found
        if (index, row_id) in excerpts  # else another program has just removed it
    ]


def _excerpts(
    database: sqlite3.Connection,
    index: str,
    values: Mapping[str, object],
    shown: Sequence[int],
) -> Iterator[tuple[int, tuple[str, tuple[tuple[int, int], ...]]]]:
    """(rowid, (text, matches)) of those rows of an index."""
    if not shown:
        return
    # The message may hold any text, so what marks a match must be past guessing.
    mark = secrets.token_hex(8)
    opening, closing = f"\1{mark}\2", f"\3{mark}\4"
    asked = {**values, "shown": json.dumps(shown), "opening": opening, "closing": closing}
    if index == "title_text":
        asked["ranked"] = -1  # of all titles those that somebody set were judged
    query = _EXCERPT.format(index=index, column=int(index == "passage_text"))
    for row_id, excerpt in database.execute(query, asked):
        if excerpt is not None:
            yield row_id, _unmarked(excerpt, opening, closing)


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
