"""The history as the commands open it, and what they print of it."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

from gemma_cli.errors import HistoryError
from gemma_cli.terminal.notices import say

if TYPE_CHECKING:
    from gemma_cli.chat.history import History
    from gemma_cli.chat.records import SavedChat

NO_CHAT_HINT = "begin one: gemma chat"


def history_file() -> Path:
    from gemma_cli.paths import data_dir

    return data_dir() / "history.db"


@contextmanager
def opened_history(*, begin: bool = False) -> Iterator[History | None]:
    """The history; None when there is none yet, unless one is to begin. Its notices are said."""
    from contextlib import closing

    from gemma_cli.chat.history import History

    path = history_file()
    if not begin and not path.exists():
        yield None
        return
    with closing(History(path)) as history:
        for notice in history.notices:
            say(notice)
        yield history


def load_chat(chat_id: int) -> SavedChat:
    """One saved chat. Raises HistoryError."""
    with opened_history() as history:
        if history is None:
            raise HistoryError(f"there is no chat {chat_id}", NO_CHAT_HINT)
        return history.load(chat_id)


def write_text(text: str) -> None:
    """To stdout: as stored in a pipe, without anything that steers a terminal on one."""
    from gemma_cli.terminal.sanitize import clean

    sys.stdout.write(clean(text) if sys.stdout.isatty() else text)


def write_json(text: str) -> None:
    """To stdout: what would steer a terminal is spelled \\uXXXX there, which means the same."""
    from gemma_cli.terminal.sanitize import clean

    if sys.stdout.isatty():
        text = text.translate({ord(char): _spelled(char) for char in set(text) - set(clean(text))})
    sys.stdout.write(text)


def _spelled(char: str) -> str:
    """JSON has escapes of 16 bits: two of them for what is beyond."""
    units = char.encode("utf-16-be", "surrogatepass").hex()
    return "".join(f"\\u{units[at : at + 4]}" for at in range(0, len(units), 4))


def print_json(value: object) -> None:
    write_json(json.dumps(value, ensure_ascii=False, indent=2) + "\n")


def iso(seconds: float) -> str:
    return datetime.fromtimestamp(seconds).astimezone().isoformat(timespec="seconds")


def day(seconds: float) -> str:
    return datetime.fromtimestamp(seconds).strftime("%Y-%m-%d %H:%M")
