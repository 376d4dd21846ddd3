"""Questions with a yes or a no, on stderr."""

from __future__ import annotations

import typer

from gemma_cli.errors import Cancelled


def confirm(question: str, *, nothing_done: str, default: bool = False) -> bool:
    """Ask. Ctrl-C and the end of input are Cancelled with `nothing_done` as its message."""
    try:
        return typer.confirm(question, default=default, err=True)
    except typer.Abort as error:
        typer.echo(err=True)  # the cursor stands behind the question
        raise Cancelled(nothing_done) from error
