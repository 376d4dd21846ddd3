"""`gemma prompts`: personas and templates listed, shown and edited."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gemma_cli.commands.grouping import CommandGroup
from gemma_cli.errors import GemmaError, UsageError
from gemma_cli.terminal.notices import say

if TYPE_CHECKING:
    from collections.abc import Sequence

    from gemma_cli.prompts import Prompt
    from gemma_cli.settings import Settings

app = typer.Typer(
    cls=CommandGroup,
    help="Personas and templates for run -p and chat --prompt: list, show, edit, path.",
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)

Name = Annotated[str, typer.Argument(metavar="PROMPT", help="As gemma prompts list shows it.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]

_NEW = '''+++
description = ""

# What the model should know and how it should behave. {{name}} must be given with
# --var name=..., {{name=something}} need not be.
system = """
"""

[options]
# temp = 0.7
# max_tokens = 500
+++

{{text}}
'''


@app.command("list")
def list_prompts(as_json: AsJson = False) -> None:
    """List every prompt, and what is wrong with one that cannot be used."""
    from gemma_cli import prompts
    from gemma_cli.terminal.sanitize import clean_line

    found = prompts.names()
    if as_json:
        listed = [
            {
                "name": each.name,
                "description": each.description,
                "source": each.source,
                "problem": each.problem,
            }
            for each in found
        ]
        typer.echo(json.dumps(listed, ensure_ascii=False, indent=2))
        return
    width = max((len(each.name) for each in found), default=0)
    for each in found:
        own = "" if each.source == "built in" else "  (yours)"
        said = "cannot be used: see below" if each.problem else clean_line(each.description)
        typer.echo(f"{each.name:{width}}  {said}{own}")
    for each in found:
        if each.problem:
            say(clean_line(each.problem))


@app.command()
def show(name: Name, as_json: AsJson = False) -> None:
    """Print a prompt's file, or (--json) its parts."""
    from gemma_cli import prompts
    from gemma_cli.terminal.sanitize import clean

    if as_json:
        typer.echo(json.dumps(_parts(prompts.load(name)), ensure_ascii=False, indent=2))
        return
    text = prompts.text_of(name)
    typer.echo(clean(text) if sys.stdout.isatty() else text, nl=not text.endswith("\n"))
    usable(name)


@app.command()
def edit(name: Name) -> None:
    """Open a prompt of one's own in the editor: a copy of the built-in one, or a new one.

    It is taken over once it is right; until then it is kept as a draft, which
    the next edit goes on with.
    """
    from gemma_cli import prompts
    from gemma_cli.commands.editing import edit as open_editor
    from gemma_cli.prompts.drafts import Draft

    draft = Draft(prompts.check_name(name), _NEW)
    if draft.is_old:
        say(f"this goes on with a draft: {draft.path}")
    try:
        open_editor(draft.path)
        target = draft.take_over(usable)
    except UsageError as error:
        raise GemmaError(
            f"not taken over: {error.message}",
            f"your text is kept: gemma prompts edit {draft.name}",
        ) from error
    except GemmaError as error:
        if draft.drop_unchanged():
            raise
        raise GemmaError(
            error.message, f"your text is kept; go on with: gemma prompts edit {draft.name}"
        ) from error
    say(f"saved {target}" if target else "nothing was changed")


@app.command()
def rm(
    name: Name,
    yes: Annotated[bool, typer.Option("-y", "--yes", help="Do not ask.")] = False,
) -> None:
    """Remove a prompt of one's own; a built-in one of that name is there again."""
    from gemma_cli import prompts

    file = prompts.file_of(name)
    if prompts.source_of(file) == prompts.BUILT_IN:
        raise UsageError(f"{name.lower()} is built in and cannot be removed")
    if not yes and not _agreed(f"Remove {file}?"):
        say(f"kept {file}")
        return
    try:
        file.unlink()
    except OSError as error:
        raise GemmaError(f"cannot remove {file}: {error.strerror or error}") from error
    say(f"removed {file}")


@app.command()
def path(
    name: Annotated[
        str | None, typer.Argument(metavar="[PROMPT]", help="The file of this prompt.")
    ] = None,
) -> None:
    """Print the folder of one's own prompts, or a prompt's file."""
    from gemma_cli import prompts

    typer.echo(prompts.folder() if name is None else prompts.file_of(name))


def usable(name: str) -> Prompt:
    """The prompt of that name, or of a file. Raises UsageError: none, or one that asks too much."""
    from gemma_cli import prompts
    from gemma_cli.commands.loading.opening import sampling_from
    from gemma_cli.commands.options import GenerationOptions
    from gemma_cli.engine.protocol import Sampling

    prompt = prompts.load(name)
    try:
        sampling_from(Sampling(), GenerationOptions().over(prompt.options))
    except UsageError as error:
        raise UsageError(
            f"the prompt {prompt.name}: {error.message}", f"correct it: {prompt.source}"
        ) from error
    return prompt


def values(pairs: Sequence[str]) -> dict[str, str]:
    """--var KEY=VALUE as a mapping. Raises UsageError for one that has no = or comes twice."""
    found: dict[str, str] = {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if not equals or not name.strip():
            raise UsageError(
                f"--var takes NAME=VALUE, not '{pair}'", "for example: --var to=German"
            )
        if name.strip() in found:
            raise UsageError(f"--var gives '{name.strip()}' twice")
        found[name.strip()] = value
    return found


def _parts(prompt: Prompt) -> dict[str, Any]:
    return {
        "name": prompt.name,
        "description": prompt.description,
        "source": prompt.source,
        "system": prompt.system,
        "message": prompt.message,
        "variables": [{"name": each.name, "default": each.default} for each in prompt.variables],
        "options": _set(prompt.options),
    }


def _set(options: Settings) -> dict[str, Any]:
    from dataclasses import asdict

    return {key: value for key, value in asdict(options).items() if value is not None}


def _agreed(question: str) -> bool:
    from gemma_cli.commands.asking import confirm

    if sys.stdin is None or not sys.stdin.isatty():
        raise UsageError("removing asks first, and nobody can be asked", "say so with: -y")
    return confirm(question, nothing_done="nothing was removed")
