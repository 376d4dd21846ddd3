"""What a person types to find a message, as SQLite's full-text search is to read it. Pure."""

from __future__ import annotations

import re
import unicodedata

# A quoted phrase (its end may be missing), or what stands between white space.
_TERM = re.compile(r'"([^"]*)("|$)|[^\s"]+')


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
