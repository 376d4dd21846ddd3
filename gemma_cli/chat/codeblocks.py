"""Blocks of code in Markdown. Pure."""

from __future__ import annotations

import re

_OPENING = re.compile(r" {0,3}(`{3,}(?=[^`]*$)|~{3,})")


def code_blocks(text: str) -> list[str]:
    """The fenced blocks as they are, without their fences; one that is cut goes to the end."""
    blocks: list[str] = []
    lines: list[str] = []
    fence = ""
    indent = 0
    for line in text.splitlines():
        opening = _OPENING.match(line)
        if not fence:
            if opening:
                fence, indent, lines = opening[1], len(line) - len(line.lstrip(" ")), []
        elif opening and not line.strip().strip(fence[0]) and len(opening[1]) >= len(fence):
            blocks.append("".join(lines))
            fence = ""
        else:
            lines.append(re.sub(rf"^ {{0,{indent}}}", "", line) + "\n")
    if fence:
        blocks.append("".join(lines))
    return blocks
