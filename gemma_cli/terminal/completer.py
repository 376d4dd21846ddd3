"""What Tab offers: commands and their arguments, and files after @."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator

from prompt_toolkit.completion import (
    CompleteEvent,
    Completer,
    Completion,
    ThreadedCompleter,
    merge_completers,
)
from prompt_toolkit.document import Document

from gemma_cli.terminal.sanitize import clean_line, strip_controls

# The word being typed; one in double quotes may hold spaces.
_LAST_WORD = re.compile(r'(?:"(?:[^"\\\n]|\\.)*"?|[^\s"])*$')
# At the beginning, or after white space or an opening bracket: no e-mail address.
_MENTION = re.compile(r'(?<![^\s(\[{<])@("(?:[^"\\\n]|\\.)*|[^\s"]*)$')
# Of a path its last part, with the slash of a folder and without quotes.
_NAME = re.compile(r'([^/\\"]*/?)"?$')

Complete = Callable[[str], Iterable[tuple[str, str]]]
CompletePath = Callable[[str], Iterable[str]]


def chat_completer(complete: Complete, complete_path: CompletePath) -> Completer:
    """complete: (line so far) -> (replacement of its last word, meaning), here and now.

    complete_path: what is typed after @ -> what it may become; asked in a thread, for a
    disk may sleep.
    """
    return merge_completers([_Commands(complete), ThreadedCompleter(_Mentions(complete_path))])


def is_completed(before_cursor: str) -> bool:
    """Whether completion is offered without being asked for: a command, a mention."""
    if before_cursor.startswith("/"):
        return "\n" not in before_cursor
    return _mention(before_cursor) is not None


def _mention(before_cursor: str) -> str | None:
    match = _MENTION.search(before_cursor.rpartition("\n")[2])
    return match[1] if match else None


class _Commands(Completer):
    def __init__(self, complete: Complete) -> None:
        self._complete = complete

    def get_completions(
        self,
        document: Document,
        complete_event: CompleteEvent,  # noqa: ARG002 - its signature
    ) -> Iterator[Completion]:
        line = document.text_before_cursor
        if not line.startswith("/") or "\n" in line:
            return
        word = _LAST_WORD.search(line)
        length = len(word[0]) if word else 0
        for replacement, meaning in self._complete(line):
            yield _completion(replacement, length, replacement, meaning)


class _Mentions(Completer):
    def __init__(self, complete_path: CompletePath) -> None:
        self._complete_path = complete_path

    def get_completions(
        self,
        document: Document,
        complete_event: CompleteEvent,  # noqa: ARG002 - its signature
    ) -> Iterator[Completion]:
        line = document.text_before_cursor
        typed = None if line.startswith("/") else _mention(line)
        if typed is None:
            return
        for path in self._complete_path(typed):
            name = _NAME.search(path)
            yield _completion(path, len(typed), name[1] if name else path)


def _completion(text: str, replaced: int, shown: str, meaning: str = "") -> Completion:
    """What is inserted is data; what the menu shows is safe to see."""
    return Completion(
        strip_controls(text),
        -replaced,
        display=clean_line(shown),
        display_meta=clean_line(meaning),
    )
