"""`gemma history`: past chats listed, shown, searched, carried elsewhere and back, removed."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated

import typer

from gemma_cli.commands.grouping import CommandGroup
from gemma_cli.commands.past.forgetting import rm
from gemma_cli.commands.past.transferring import export, import_chats
from gemma_cli.errors import UsageError

if TYPE_CHECKING:
    from gemma_cli.chat.records import Summary
    from gemma_cli.chat.search import Hit

app = typer.Typer(
    cls=CommandGroup,
    help="Past chats: list, show, search, export, import, rm.",
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)

_NOTHING = "No chat is saved yet. Begin one: gemma chat"
_MODEL_WIDTH = 22

ChatId = Annotated[int, typer.Argument(metavar="ID", help="As gemma history list shows it.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Limit = Annotated[int | None, typer.Option("-n", "--limit", min=1, max=10**9, help="Only N.")]


@app.command("list")
def list_chats(limit: Limit = None, as_json: AsJson = False) -> None:
    """List the chats, the latest first."""
    from gemma_cli.commands.past.remembering import day, opened_history, print_json
    from gemma_cli.terminal.tables import table

    with opened_history() as history:
        found = history.conversations(limit) if history else []
    if as_json:
        print_json([_chat_facts(chat) for chat in found])
    elif found:
        rows = [
            (str(chat.id), day(chat.updated), str(chat.turns), _model(chat), chat.title)
            for chat in found
        ]
        typer.echo(table(("ID", "WHEN", "TURNS", "MODEL", "TITLE"), rows, right=(2,)))
    else:
        typer.echo(_NOTHING, err=True)


@app.command()
def show(
    chat_id: ChatId,
    all_branches: Annotated[
        bool, typer.Option("--all", "--branches", help="Every branch, not only the present one.")
    ] = False,
) -> None:
    """Print a chat as Markdown."""
    from gemma_cli.chat.export import to_markdown
    from gemma_cli.commands.past.remembering import load_chat, write_text

    write_text(to_markdown(load_chat(chat_id), all_branches=all_branches))


@app.command()
def search(
    query: Annotated[
        list[str],
        typer.Argument(
            metavar="WORD...", help='Words that must all be there; "several words" together.'
        ),
    ],
    limit: Limit = None,
    as_json: AsJson = False,
) -> None:
    """Find messages, documents and titles; accents and case make no difference.

    The last word may be a beginning.
    """
    from gemma_cli.chat.search import match_expression
    from gemma_cli.commands.past.remembering import opened_history, print_json
    from gemma_cli.terminal.sanitize import clean_line

    wanted = " ".join(_quoted(word) for word in query)
    if not match_expression(wanted):
        raise UsageError("there is no word to search for", "for example: gemma history search rome")
    with opened_history() as history:
        hits = history.search(wanted, limit or 50) if history else []
    if as_json:
        print_json([_hit_facts(hit) for hit in hits])
    elif hits:
        for hit in hits:
            _print_hit(hit)
    else:
        typer.echo(f"Nothing holds: {clean_line(' '.join(query))}", err=True)


def _quoted(word: str) -> str:
    """The shell took the quotes of an argument of several words: they belong together."""
    is_phrase = len(word.split()) > 1 and '"' not in word
    return f'"{word}"' if is_phrase else word


def _print_hit(hit: Hit) -> None:
    from gemma_cli.commands.past.remembering import day
    from gemma_cli.terminal.sanitize import clean_line
    from gemma_cli.terminal.writer import wants_style

    before, after = ("\x1b[1m", "\x1b[22m") if wants_style(sys.stdout) else ("", "")
    shown, end = "", 0
    for start, stop in hit.matches:
        shown += clean_line(hit.excerpt[end:start])
        shown += before + clean_line(hit.excerpt[start:stop]) + after
        end = stop
    shown += clean_line(hit.excerpt[end:])
    title = clean_line(hit.title)
    place = hit.role if hit.document is None else clean_line(hit.document)
    print(f"{hit.conversation}  {day(hit.created)}  {place}  {title}\n    {shown.strip()}")


def _hit_facts(hit: Hit) -> dict[str, object]:
    from gemma_cli.commands.past.remembering import iso

    return {
        "id": hit.conversation,
        "title": hit.title,
        "role": hit.role,
        "document": hit.document,
        "created": iso(hit.created),
        "excerpt": hit.excerpt,
        "matches": [list(span) for span in hit.matches],
    }


def _chat_facts(chat: Summary) -> dict[str, object]:
    from gemma_cli.commands.past.remembering import iso

    return {
        "id": chat.id,
        "updated": iso(chat.updated),
        "turns": chat.turns,
        "model": chat.model,
        "title": chat.title,
    }


def _model(chat: Summary) -> str:
    """A long name (a file of the hub) leaves room for the title on a terminal."""
    if not sys.stdout.isatty() or len(chat.model) <= _MODEL_WIDTH:
        return chat.model
    return f"…{chat.model[1 - _MODEL_WIDTH :]}"


# Below the others: help lists them in this order.
app.command()(export)
app.command("import")(import_chats)
app.command()(rm)
