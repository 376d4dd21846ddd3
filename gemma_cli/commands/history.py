"""`gemma history`: past chats listed, shown, searched, exported and removed."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from typing import TYPE_CHECKING, Annotated

import typer

from gemma_cli.errors import ExitCode, HistoryError, UsageError

if TYPE_CHECKING:
    from gemma_cli.chat.history import History
    from gemma_cli.chat.records import SavedChat

app = typer.Typer(
    help="Past chats: list, show, search, export, rm.",
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)

_NOTHING = "No chat is saved yet. Begin one: gemma chat"

ChatId = Annotated[int, typer.Argument(metavar="ID", help="As gemma history list shows it.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]


@app.command("list")
def list_chats(
    limit: Annotated[int | None, typer.Option("-n", "--limit", min=1, help="Only N.")] = None,
    as_json: AsJson = False,
) -> None:
    """List the chats, the latest first."""
    with _history() as history:
        found = history.conversations(limit) if history else []
    if as_json:
        _print_json(
            [
                {
                    "id": chat.id,
                    "updated": _iso(chat.updated),
                    "turns": chat.turns,
                    "model": chat.model,
                    "title": chat.title,
                }
                for chat in found
            ]
        )
    elif found:
        rows = [
            (str(chat.id), _day(chat.updated), str(chat.turns), chat.model, chat.title)
            for chat in found
        ]
        _print_table(("ID", "WHEN", "TURNS", "MODEL", "TITLE"), rows)
    else:
        typer.echo(_NOTHING, err=True)


@app.command()
def show(chat_id: ChatId) -> None:
    """Print a chat as Markdown."""
    from gemma_cli.chat.export import to_markdown
    from gemma_cli.terminal.sanitize import clean

    text = to_markdown(_load(chat_id))
    typer.echo(clean(text) if sys.stdout.isatty() else text, nl=False)


@app.command()
def search(
    query: Annotated[list[str], typer.Argument(help="Words that a message must hold.")],
    as_json: AsJson = False,
) -> None:
    """Find messages; accents and case make no difference."""
    from gemma_cli.terminal.sanitize import clean_line

    with _history() as history:
        hits = history.search(" ".join(query)) if history else []
    if as_json:
        _print_json(
            [
                {
                    "id": hit.conversation,
                    "title": hit.title,
                    "role": hit.role,
                    "created": _iso(hit.created),
                    "excerpt": hit.excerpt,
                }
                for hit in hits
            ]
        )
        return
    for hit in hits:
        typer.echo(
            f"{hit.conversation}  {_day(hit.created)}  {hit.role}: {clean_line(hit.excerpt)}"
        )
    if not hits:
        typer.echo(f"Nothing holds: {clean_line(' '.join(query))}", err=True)


@app.command()
def export(
    chat_id: ChatId,
    form: Annotated[
        str, typer.Option("--format", metavar="md|json|jsonl", help="json is the whole tree.")
    ] = "md",
) -> None:
    """Print a chat as Markdown, as JSON with every branch, or as OpenAI messages in JSONL."""
    from gemma_cli.chat.export import FORMATS

    if form not in FORMATS:
        raise UsageError(f"there is no format '{form}'", f"formats: {', '.join(FORMATS)}")
    sys.stdout.write(FORMATS[form](_load(chat_id)))


@app.command()
def rm(
    chat_ids: Annotated[list[int], typer.Argument(metavar="ID...", help="Chats to forget.")],
    yes: Annotated[bool, typer.Option("-y", "--yes", help="Do not ask.")] = False,
) -> None:
    """Remove chats for good, and all evaluated prompts that are kept on disk."""
    from gemma_cli.engine.snapshots import trim
    from gemma_cli.paths import cache_dir
    from gemma_cli.terminal.sanitize import clean_line

    with _history() as history:
        if history is None:
            raise HistoryError("no chat is saved yet", "begin one: gemma chat")
        titles = {chat_id: history.load(chat_id).summary.title for chat_id in chat_ids}
        for chat_id, title in titles.items():
            label = f"{chat_id}: {clean_line(title)}"
            if not yes and not _agreed(f"Remove chat {label}?"):
                typer.echo(f"Kept {label}", err=True)
                continue
            history.remove(chat_id)
            trim(cache_dir() / "kv", 0)  # which of them hold this chat's words is not known
            typer.echo(f"Removed {label}", err=True)


@contextmanager
def _history() -> Iterator[History | None]:
    """The history, or None when there is none yet. What opening it did is said on stderr."""
    from contextlib import closing

    from gemma_cli.chat.history import History
    from gemma_cli.paths import data_dir

    path = data_dir() / "history.db"
    if not path.exists():
        yield None
        return
    with closing(History(path)) as history:
        for notice in history.notices:
            typer.echo(f"gemma: {notice}", err=True)
        yield history


def _load(chat_id: int) -> SavedChat:
    with _history() as history:
        if history is None:
            raise HistoryError(f"there is no chat {chat_id}", "begin one: gemma chat")
        return history.load(chat_id)


def _agreed(question: str) -> bool:
    if not sys.stdin.isatty():
        raise UsageError("removing asks first, and nobody can be asked", "say so with: -y")
    try:
        return typer.confirm(question, err=True)
    except typer.Abort:
        raise typer.Exit(ExitCode.CANCELLED) from None


def _print_table(head: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> None:
    from gemma_cli.terminal.sanitize import clean_line

    shown = [head, *(tuple(clean_line(cell) for cell in row) for row in rows)]
    widths = [max(len(row[column]) for row in shown) for column in range(len(head) - 1)]
    for row in shown:
        cells = [cell.ljust(width) for cell, width in zip(row, widths, strict=False)]
        typer.echo("  ".join((*cells, row[-1])))


def _print_json(value: object) -> None:
    typer.echo(json.dumps(value, ensure_ascii=False, indent=2))


def _iso(seconds: float) -> str:
    return datetime.fromtimestamp(seconds).astimezone().isoformat(timespec="seconds")


def _day(seconds: float) -> str:
    return datetime.fromtimestamp(seconds).strftime("%Y-%m-%d %H:%M")
