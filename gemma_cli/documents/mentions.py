"""Files that a typed text names: @path, @"path with spaces", @~/notes/*.md."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from gemma_cli.documents.gathering import expanded, has_match, is_pattern
from gemma_cli.documents.languages import language_of

_LONGEST = 4096  # characters; no system takes a longer path
_MOST_TRIED = 32  # ends of one path that are tried

# At the beginning, or after white space or an opening bracket: no e-mail address.
_MENTION = re.compile(r'(?<![^\s(\[{<])@(?:"((?:[^"\\\n]|\\.)+)"|([^\s"]\S*))')
_WORD = re.compile(r"\w")
_FROM_HERE = ("./", "../", "~/", ".\\", "..\\", "~\\")
_SENTENCE_END = ".,;:!?]}"
_AFTER_A_NAME = re.compile(r"[()<>'\"]")
_PROSE = {"txt", "md", "rst", "log", "pdf", "docx", "html", "htm"}
# Where a path may end inside a word: @notes.txt's, (@notes.txt), @notes.txt、
_NOT_OF_A_PATH = re.compile(r"[^\w.\-/\\~+@*?\[\]{}]|(?<=[\x00-\x7f])[^\x00-\x7f]")


@dataclass(frozen=True, slots=True)
class Mention:
    """text[start:end] is the mention with its @; path is what gather takes."""

    start: int
    end: int
    path: str


def mentions(text: str) -> list[Mention]:
    """The files, folders and patterns that a text names and that exist; in order.

    What names nothing stays text: e-mail addresses, decorators, names of people.
    """
    found = []
    for match in _MENTION.finditer(text):
        path = _path(match)
        if path and match[1] is not None:
            found.append(Mention(match.start(), match.end(), path))
        elif path:
            found.append(Mention(match.start(), match.start() + 1 + len(path), path))
    return found


def missing(text: str) -> list[str]:
    """What was probably meant as a file and names nothing: in quotes, with a slash, or with
    a suffix that texts and programs have. Each once, as typed."""
    names = []
    for match in _MENTION.finditer(text):
        name = match[1] or _AFTER_A_NAME.split(match[2])[0].rstrip(_SENTENCE_END)
        if (match[1] is not None or _is_a_path(name)) and not _path(match):
            names.append(name)
    return list(dict.fromkeys(names))


def _path(match: re.Match[str]) -> str:
    """The path that stands there; "": none that exists."""
    if match[1] is not None:
        path = match[1].replace('\\"', '"')
        return path if _names_something(path) else ""
    return next(filter(_names_something, _candidates(match[2])), "")


def _is_a_path(name: str) -> bool:
    if name.startswith(("//", "\\\\")) or not _WORD.search(name):
        return False
    _, dot, suffix = name.rpartition(".")
    known = suffix.lower() in _PROSE or bool(language_of(name, ""))
    return "/" in name or "\\" in name or bool(dot and known)


def _candidates(word: str) -> Iterator[str]:
    """What of a word may be the path, the longest first."""
    ends = [
        len(word),
        *sorted((cut.start() for cut in _NOT_OF_A_PATH.finditer(word)), reverse=True),
    ]
    for end in ends[:_MOST_TRIED]:
        yield word[:end]
        without_end = word[:end].rstrip(_SENTENCE_END)
        if len(without_end) < end:
            yield without_end


def _names_something(path: str) -> bool:
    # "//host" and "\\host": another machine would be asked, for a mere word in a text.
    if not path or len(path) > _LONGEST or path[:2] in ("//", "\\\\"):
        return False
    if not _WORD.search(path) and not path.startswith(_FROM_HERE):
        return False  # "@...", "@/" and "@*" are no files that one means; "@./" is
    try:
        if expanded(path).exists():
            return True
    except (OSError, ValueError):
        return False
    return is_pattern(path) and has_match(path)
