"""Chats removed for good: `gemma history rm`, and those that are too old."""

from __future__ import annotations

import re
import sys
import time
from typing import TYPE_CHECKING, Annotated

import typer

from gemma_cli.errors import Cancelled, HistoryError, UsageError

if TYPE_CHECKING:
    from gemma_cli.chat.history import History
    from gemma_cli.chat.journal import HistoryJournal
    from gemma_cli.chat.records import Summary
    from gemma_cli.settings import Settings

_DAYS = {"d": 1, "w": 7, "y": 365}
_DAY_S = 86_400


def rm(
    chat_ids: Annotated[
        list[int] | None, typer.Argument(metavar="[ID]...", help="Chats to forget.")
    ] = None,
    older_than: Annotated[
        str | None,
        typer.Option(metavar="AGE", help="Chats not touched for so long: 90d, 12w, 1y."),
    ] = None,
    every: Annotated[
        bool, typer.Option("--all", help="Every chat, and all that was typed at the prompt.")
    ] = False,
    yes: Annotated[bool, typer.Option("-y", "--yes", help="Do not ask.")] = False,
) -> None:
    """Remove chats for good, and all evaluated prompts that are kept on disk."""
    from gemma_cli.commands.past.remembering import NO_CHAT_HINT, opened_history

    if (bool(chat_ids) + (older_than is not None) + every) != 1:
        raise UsageError(
            "which chats are to be removed?",
            "one of: gemma history rm ID..., --older-than 90d, --all",
        )
    before = None if older_than is None else time.time() - _seconds(older_than)
    with opened_history() as history:
        if history is None:
            raise HistoryError("no chat is saved yet", NO_CHAT_HINT)
        if chat_ids:
            _remove_named(history, chat_ids, yes)
        elif before is not None:
            _remove_many(
                history, history.untouched_since(before), f"not used for {older_than}", yes
            )
        else:
            if _remove_many(history, history.conversations(), "all there are", yes):
                history.remove_inputs()
    _tell_of_copies()


def _remove_named(history: History, chat_ids: list[int], yes: bool) -> None:
    from gemma_cli.terminal.sanitize import clean_line

    titles = {chat_id: history.load(chat_id).summary.title for chat_id in chat_ids}
    for chat_id, title in titles.items():
        label = f"{chat_id}: {clean_line(title)}"
        if not yes and not _agreed(f"Remove chat {label}?"):
            typer.echo(f"Kept {label}", err=True)
            continue
        history.remove(chat_id)
        forget_evaluated()
        typer.echo(f"Removed {label}", err=True)


def _remove_many(history: History, chats: list[Summary], which: str, yes: bool) -> bool:
    """Ask once, remove them all; False when there are none."""
    if not chats:
        typer.echo("There is no such chat: nothing was removed.", err=True)
        return False
    count = f"{len(chats):,} chat" + ("" if len(chats) == 1 else "s")
    if not yes and not _agreed(f"Remove {count} for good ({which})?"):
        raise Cancelled("nothing was removed")
    history.remove(*(chat.id for chat in chats))
    forget_evaluated()
    typer.echo(f"Removed {count}", err=True)
    return True


def expire_old_chats(journal: HistoryJournal, settings: Settings, keep: int | None) -> None:
    """What the setting history_days says is too old is removed; the journal says it.

    keep: the chat that is to be gone on with.
    """
    if settings.history_days is not None and journal.expire(settings.history_days, keep):
        forget_evaluated()


def forget_evaluated() -> None:
    """Remove the evaluated prompts on disk: which of them hold a chat's words is not known."""
    from gemma_cli.engine.snapshots import trim
    from gemma_cli.paths import cache_dir

    trim(cache_dir() / "kv", 0)


def _tell_of_copies() -> None:
    from gemma_cli.commands.past.remembering import history_file

    path = history_file()
    copies = sorted(
        copy
        for kind in ("backup", "broken")
        for copy in path.parent.glob(f"{path.name}.{kind}-*")
        if not copy.name.endswith(("-wal", "-shm"))
    )
    if copies:
        names = ", ".join(map(str, copies))
        typer.echo(f"Older copies of the history still hold what was in them: {names}", err=True)


def _seconds(age: str) -> float:
    found = re.fullmatch(r"([0-9]{1,6})([dwy])", age.strip().lower())
    if not found:
        raise UsageError(
            f"'{age}' is no age", "a number of days, weeks or years: --older-than 90d, 12w, 1y"
        )
    return int(found[1]) * _DAYS[found[2]] * _DAY_S


def _agreed(question: str) -> bool:
    from gemma_cli.commands.asking import confirm

    if not (sys.stdin and sys.stdin.isatty()):
        raise UsageError("removing asks first, and nobody can be asked", "say so with: -y")
    return confirm(question, nothing_done="nothing more was removed")
