"""`gemma rm`: free what only this model uses."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from pathlib import Path

    from gemma_cli.models.catalog import ModelRef
    from gemma_cli.models.removal import Removal
    from gemma_cli.models.store import InstalledModel


def rm(
    models: Annotated[
        list[str], typer.Argument(metavar="MODEL...", help="As `gemma list` names them.")
    ],
    yes: Annotated[bool, typer.Option("-y", "--yes", help="Do not ask.")] = False,
) -> None:
    """Remove models from this machine. Without a quantization: all that are here of it."""
    from gemma_cli.commands.completion import remember_models
    from gemma_cli.models.catalog import parse_name
    from gemma_cli.terminal.tables import size

    chosen = [model for name in models for model in _installed(parse_name(name))]
    chosen = list({model.source: model for model in chosen}.values())
    _may_remove(chosen, yes)
    freed = sum(_remove(model, chosen, yes) for model in chosen)
    remember_models()
    typer.echo(f"{size(freed)} freed", err=True)


def _installed(ref: ModelRef) -> list[InstalledModel]:
    """Every file here that the name means."""
    from gemma_cli.errors import UsageError
    from gemma_cli.models.store import find_all

    if ref.kind == "path":
        raise UsageError(
            f"{ref.name} is your own file: gemma removes only what it downloaded",
            f"delete it yourself: {ref.path}",
        )
    return find_all(ref)


def _may_remove(chosen: list[InstalledModel], yes: bool) -> None:
    """Ask once for everything. Without a terminal to ask on, -y must be given."""
    import sys

    from gemma_cli.commands.asking import confirm
    from gemma_cli.errors import Cancelled, UsageError
    from gemma_cli.terminal.tables import size

    if yes:
        return
    if not (sys.stdin and sys.stdin.isatty()):
        raise UsageError("nobody can be asked here, so nothing is removed", "add -y to remove")
    for model in chosen:
        typer.echo(f"{model.ref}  {size(model.bytes)}", err=True)
    nothing = "nothing was removed"
    if not confirm("Remove?", nothing_done=nothing):
        raise Cancelled(nothing)


def _remove(model: InstalledModel, chosen: list[InstalledModel], yes: bool) -> int:
    """Remove one model; the bytes that became free."""
    from gemma_cli.errors import GemmaError
    from gemma_cli.models import demo
    from gemma_cli.models.removal import plan_removal, remove

    try:
        if model.name == demo.DEMO_ID:
            freed = demo.remove_assembled()
            _say(f'{model.ref} stays in its Python package: pip uninstall "{_packages()}"')
            return freed
        files = _files_of(model, chosen)
        removal = plan_removal(files)
        if removal.kept and _also_others(removal, yes):
            removal = plan_removal(files, others_too=True)
        remove(removal)
    except OSError as error:
        raise GemmaError(
            f"cannot remove {model.ref}: {error.strerror or error}",
            f"the file is {error.filename or model.path}",
        ) from error
    return removal.freed


def _files_of(model: InstalledModel, chosen: list[InstalledModel]) -> list[Path]:
    """Its parts, and its vision part if no other quantization stays that needs it."""
    from gemma_cli.models.store import installed, parts_of, projector_of

    sources = {one.source for one in chosen}
    stays = any(o.name == model.name and o.source not in sources for o in installed())
    projector = None if stays else projector_of(model)
    return [*parts_of(model), *([projector] if projector else [])]


def _also_others(removal: Removal, yes: bool) -> bool:
    """Whether references that are not this model's go as well; never without being asked."""
    from gemma_cli.commands.asking import confirm

    others = "\n".join(f"  {path}" for path in removal.kept)
    _say(f"other references hold the same bytes:\n{others}")
    if yes:
        _say("they stay, and so do the bytes")
        return False
    return confirm("Remove them too?", nothing_done="this model was not removed")


def _packages() -> str:
    from gemma_cli.models.demo import demo_entry

    return (demo_entry()[1].package or "").replace("_", "-")


def _say(text: str) -> None:
    from gemma_cli.terminal.sanitize import clean

    typer.echo(clean(text), err=True)
