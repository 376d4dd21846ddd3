"""One file's text, as it takes part in a conversation."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

# Control characters, line separators, bidirectional controls and lone surrogates: a file
# name may hold all of them, and each could make one line look like two, or like another.
_UNSHOWABLE = re.compile(
    "[\\x00-\\x1f\\x7f-\\x9f\u061c\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]"
)
_BACKTICKS = re.compile("`+")


@dataclass(frozen=True, slots=True)
class Document:
    """What a file says. name: one line, safe to show; text: its line ends are line feeds.

    language: what a code fence names; "" for prose (Markdown, and whatever was PDF,
    Word or HTML). notes: sentences about the file without a subject, which a person
    must be told ("is not UTF-8: read as cp1252"). bytes: of the file, not of the text.
    """

    name: str
    text: str
    language: str = ""
    notes: tuple[str, ...] = ()
    bytes: int = 0

    def rendered(self) -> str:
        """As a model is shown it: the name, then the text in a fence that it cannot end."""
        longest = max(map(len, _BACKTICKS.findall(self.text)), default=0)
        fence = "`" * max(3, longest + 1)
        end = "" if self.text.endswith("\n") or not self.text else "\n"
        return f"{self.name}:\n{fence}{self.language}\n{self.text}{end}{fence}"


def shown_name(path: Path) -> str:
    """Below the current folder: the way from there; below one's home: with ~; else all of it."""
    whole = Path.cwd() / path
    if ".." not in whole.parts:
        for place, sign in ((Path.cwd(), Path()), (_home(), Path("~"))):
            if place is not None and whole.is_relative_to(place) and whole != place:
                path = sign / whole.relative_to(place)
                break
    return clean_name(path.as_posix())


def clean_name(name: str) -> str:
    """A file name on one line; what cannot be shown, or would steer a terminal, is U+FFFD."""
    return _UNSHOWABLE.sub("\N{REPLACEMENT CHARACTER}", name)


def _home() -> Path | None:
    try:
        return Path.home()
    except RuntimeError:  # an account without a home folder
        return None
