"""`gemma history export` and `import`: chats to files and from them."""

from __future__ import annotations

import contextlib
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from gemma_cli.errors import GemmaError, HistoryError, UsageError
from gemma_cli.terminal.notices import say

if TYPE_CHECKING:
    from gemma_cli.chat.importing import Imported
    from gemma_cli.chat.records import SavedChat


def export(
    chat_ids: Annotated[
        list[int] | None, typer.Argument(metavar="[ID]...", help="As gemma history list shows it.")
    ] = None,
    every: Annotated[bool, typer.Option("--all", help="Every chat, the oldest first.")] = False,
    form: Annotated[
        str | None,
        typer.Option(
            "--format",
            metavar="md|json|jsonl|sharegpt",
            help="json is the whole tree. Not given: by the ending of FILE, else md.",
        ),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option("-o", "--output", metavar="FILE", help="Write there, not to stdout."),
    ] = None,
    yes: Annotated[bool, typer.Option("-y", "--yes", help="Replace FILE if it is there.")] = False,
) -> None:
    """Print chats as Markdown, as JSON with every branch, as OpenAI's or as ShareGPT's messages."""
    from gemma_cli.chat.export import FORMATS, to_json
    from gemma_cli.commands.past.remembering import write_json, write_text

    if form is None:
        ending = "" if output is None else output.suffix.removeprefix(".").lower()
        form = ending if ending in FORMATS else "md"
    if form not in FORMATS:
        raise UsageError(f"there is no format '{form}'", f"formats: {', '.join(FORMATS)}")
    if bool(chat_ids) is every:
        raise UsageError(
            "which chats are to be exported?", "give their numbers (gemma history list), or --all"
        )
    chats = _chats(chat_ids or [])
    is_one_tree = form == "json" and not every and len(chats) == 1
    text = to_json(chats[0]) if is_one_tree else FORMATS[form](chats)
    if output is None or str(output) == "-":
        (write_text if form == "md" else write_json)(text)
        return
    _write_file(output, text, replace=yes)
    count = f"{len(chats):,} chat" + ("" if len(chats) == 1 else "s")
    typer.echo(f"{count} written to {_shown(output)}", err=True)


def import_chats(
    files: Annotated[
        list[str], typer.Argument(metavar="FILE...", help="JSON or JSONL; - is standard input.")
    ],
) -> None:
    """Take in chats: exported ones, OpenAI-style messages, ShareGPT. All of them, or none."""
    from gemma_cli.commands.past.remembering import opened_history
    from gemma_cli.terminal.tables import table

    chats = [chat for name in files for chat in _read(name)]
    with opened_history(begin=True) as history:
        assert history is not None
        ids = history.import_chats((chat.conversation, chat.model) for chat in chats)
        titles = {found.id: found for found in history.conversations()}
    rows = [(str(each), str(titles[each].turns), titles[each].title) for each in ids]
    typer.echo(table(("ID", "TURNS", "TITLE"), rows, right=(1,)))
    _tell_left_out(chats)
    count = f"{len(ids):,} chat" + ("" if len(ids) == 1 else "s")
    typer.echo(f"{count} imported. Go on with one: gemma chat --resume {ids[-1]}", err=True)


def _chats(chat_ids: list[int]) -> list[SavedChat]:
    """Those chats in that order; all of them when none is named."""
    from gemma_cli.commands.past.remembering import NO_CHAT_HINT, opened_history

    with opened_history() as history:
        if history is None:
            raise HistoryError("no chat is saved yet", NO_CHAT_HINT)
        wanted = chat_ids or [chat.id for chat in reversed(history.conversations())]
        return [history.load(chat_id) for chat_id in wanted]


def _read(name: str) -> list[Imported]:
    from gemma_cli.chat.importing import read_chats

    source = "standard input" if name == "-" else _shown(Path(name))
    if name == "-" and sys.stdin is None:
        raise UsageError("standard input is closed", "name a file: gemma history import FILE")
    try:
        raw = sys.stdin.buffer.read() if name == "-" else Path(name).read_bytes()
        # PowerShell redirects as UTF-16, with a mark that says so.
        is_utf16 = raw.startswith((b"\xff\xfe", b"\xfe\xff"))
        text = raw.decode("utf-16" if is_utf16 else "utf-8-sig")
    except OSError as error:
        raise UsageError(f"cannot read {source}: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise UsageError(f"{source} is not UTF-8: {error.reason} at byte {error.start}") from error
    return read_chats(text, source, time.time)


def _tell_left_out(chats: list[Imported]) -> None:
    counts: dict[str, int] = {}
    for chat in chats:
        for what, count in chat.left_out.items():
            counts[what] = counts.get(what, 0) + count
    if counts:
        listed = ", ".join(f"{what}: {count:,}" for what, count in counts.items())
        say(f"only text is taken in; left out or moved: {listed}")


def _write_file(path: Path, text: str, *, replace: bool) -> None:
    """Whole or not at all, readable by its owner only; a pipe or device is written as it is."""
    data = text.encode("utf-8", "replace")
    try:
        if path.exists() and not path.is_file():
            path.write_bytes(data)
            return
        if path.exists() and not replace and not _may_replace(path):
            raise GemmaError(f"{_shown(path)} was left as it is")
        target = path.resolve()
        handle, draft = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.")
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            Path(draft).replace(target)
        except BaseException:
            with contextlib.suppress(OSError):
                Path(draft).unlink()
            raise
    except OSError as error:
        raise GemmaError(f"cannot write {_shown(path)}: {error.strerror or error}") from error


def _may_replace(path: Path) -> bool:
    from gemma_cli.commands.asking import confirm

    if not (sys.stdin and sys.stdin.isatty()):
        raise UsageError(f"{_shown(path)} is there already", "replace it with: -y")
    return confirm(f"Replace {_shown(path)}?", nothing_done=f"{_shown(path)} was left as it is")


def _shown(path: Path) -> str:
    from gemma_cli.terminal.sanitize import clean_line

    return clean_line(str(path))
