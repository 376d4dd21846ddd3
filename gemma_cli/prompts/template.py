"""Texts with variables: {{name}} and {{name=default}}. Pure, filled in one pass."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

# A backslash before the braces means the braces themselves.
_BRACES = re.compile(r"(\\?)\{\{(.*?)\}\}")
_VARIABLE = re.compile(r"\s*([A-Za-z][A-Za-z0-9_]*)\s*(?:=(.*))?")
_PARAGRAPHS = re.compile(r"(\n[ \t]*\n\s*)")


def variables(text: str) -> Iterator[tuple[int, str, str | None]]:
    """(line, name, default) of each variable, in order; the line counts from 0.

    Raises ValueError (line, message) for braces that hold no variable.
    """
    for match in _BRACES.finditer(text):
        if match[1]:
            continue
        found = _VARIABLE.fullmatch(match[2])
        line = text.count("\n", 0, match.start())
        if found is None:
            raise ValueError(
                line, f"{match[0]} is no variable such as {{{{text}}}}; \\{match[0]} is the text"
            )
        yield line, found[1], None if found[2] is None else found[2].strip()


def fill(text: str, values: Mapping[str, str]) -> str:
    """The text with its variables replaced; a paragraph whose variables are all empty is left out.

    values: of every variable. What they hold is data: braces in it stay braces.
    """
    parts = _PARAGRAPHS.split(text)
    kept = ""
    for at in range(0, len(parts), 2):
        names = [name for _, name, _ in variables(parts[at])]
        if names and not any(values[name].strip() for name in names):
            continue
        between = parts[at - 1] if at and kept else ""
        kept += between + _BRACES.sub(lambda match: _value(match, values), parts[at])
    return kept


def _value(match: re.Match[str], values: Mapping[str, str]) -> str:
    if match[1]:
        return match[0][1:]
    found = _VARIABLE.fullmatch(match[2])
    assert found is not None, "checked when the prompt was read"
    return values[found[1]]
