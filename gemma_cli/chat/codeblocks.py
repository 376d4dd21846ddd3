"""Blocks of code in Markdown. Pure."""

from __future__ import annotations

import re

# Deeper than CommonMark's three spaces: in a list a fence stands as deep as its item's text.
_FENCE = re.compile(r"( *)(`{3,}(?=[^`]*$)|~{3,})(.*)")
_DEEPER = 3  # spaces that a closing fence may stand deeper than its opening one


class CodeLines:
    """Tells code from the text around it, line by line.

    blocks: fenced blocks begun so far. inside: the last one is still open.
    """

    def __init__(self) -> None:
        self.blocks = 0
        self.inside = False
        self._fence = ""
        self._indent = 0

    def code(self, line: str) -> str | None:
        """The next line (without its end) as code; None if it is text, or a fence."""
        match = _FENCE.fullmatch(line)
        if not self.inside:
            if match:
                self._fence, self._indent = match[2], len(match[1])
                self.inside = True
                self.blocks += 1
            return None
        if match and self._closes(len(match[1]), match[2], match[3]):
            self.inside = False
            return None
        return re.sub(rf"^ {{0,{self._indent}}}", "", line)

    def _closes(self, indent: int, fence: str, rest: str) -> bool:
        same = fence[0] == self._fence[0] and len(fence) >= len(self._fence)
        return same and not rest.strip() and indent <= self._indent + _DEEPER


def code_blocks(text: str) -> list[str]:
    """The fenced blocks as they are, without their fences; one that is cut goes to the end."""
    reader = CodeLines()
    blocks: list[str] = []
    for line in text.removesuffix("\n").split("\n"):
        code = reader.code(line)
        blocks += [""] * (reader.blocks - len(blocks))
        if code is not None:
            blocks[-1] += f"{code}\n"
    return blocks
