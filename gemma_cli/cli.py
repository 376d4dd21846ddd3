"""The command line: which verbs there are. Each is one file in commands/."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated, Any

import typer

from gemma_cli import __version__
from gemma_cli.commands.bench import bench
from gemma_cli.commands.chat import chat
from gemma_cli.commands.completion import completion
from gemma_cli.commands.config import app as config
from gemma_cli.commands.doctor import doctor
from gemma_cli.commands.grouping import CommandGroup
from gemma_cli.commands.history import app as history
from gemma_cli.commands.list import list_models
from gemma_cli.commands.plan import plan
from gemma_cli.commands.prompts import app as prompts
from gemma_cli.commands.pull import pull
from gemma_cli.commands.rm import rm
from gemma_cli.commands.run import run
from gemma_cli.commands.show import show
from gemma_cli.commands.verify import verify
from gemma_cli.errors import ExitCode

_EXIT_CODES = (
    "Exit codes: 0 ok, 1 failure, 2 usage, 3 no such model, 4 download failed, "
    "5 does not fit in memory, 6 prompt too long, 130 cancelled, 141 reader gone."
)


class _Program(CommandGroup):
    """All commands. To Typer a reader that left is a failure; here it is exit 141, quietly."""

    def make_context(self, *args: Any, **more: Any) -> Any:
        with _reader_may_leave():  # --help is printed while the arguments are read
            return super().make_context(*args, **more)

    def invoke(self, ctx: Any) -> Any:
        with _reader_may_leave():
            return super().invoke(ctx)


@contextmanager
def _reader_may_leave() -> Iterator[None]:
    try:
        yield
    except BrokenPipeError as error:
        from gemma_cli.__main__ import reader_gone

        raise typer.Exit(reader_gone()) from error


app = typer.Typer(
    cls=_Program,
    help="Talk to Google's Gemma models on your own machine.",
    epilog=_EXIT_CODES,
    no_args_is_help=True,
    add_completion=False,  # Typer's own starts Python at each Tab; ours: gemma completion
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command()(chat)
app.command()(run)
app.command()(pull)
app.command("list")(list_models)
app.command()(show)
app.command()(plan)
app.command()(rm)
app.command()(verify)
app.command()(doctor)
app.command()(bench)
app.add_typer(history, name="history")
app.add_typer(prompts, name="prompts")
app.add_typer(config, name="config")
app.command()(completion)


@app.callback()
def gemma(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version and exit.", is_eager=True)
    ] = False,
) -> None:
    if version:
        typer.echo(f"gemma {__version__}")
        raise typer.Exit(ExitCode.OK)
