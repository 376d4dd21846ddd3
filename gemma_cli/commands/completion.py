"""`gemma completion`: a script for a shell, which then completes without starting Python."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable
from typing import TYPE_CHECKING, Annotated

import typer

from gemma_cli.errors import UsageError

if TYPE_CHECKING:
    from gemma_cli.models.store import InstalledModel


def completion(
    context: typer.Context,
    shell: Annotated[str, typer.Argument(metavar="bash|zsh|fish", help="The shell.")],
) -> None:
    """Print a completion script for a shell.

    bash: gemma completion bash > ~/.local/share/bash-completion/completions/gemma

    zsh: gemma completion zsh > a folder of $fpath, as _gemma

    fish: gemma completion fish > ~/.config/fish/completions/gemma.fish
    """
    from gemma_cli.commands.shells import SCRIPTS
    from gemma_cli.commands.surface import commands

    if shell not in SCRIPTS:
        raise UsageError(f"there is no completion for '{shell}'", f"shells: {', '.join(SCRIPTS)}")
    typer.echo(SCRIPTS[shell](commands(context.find_root().command)), nl=False)


def remember_models(here: Iterable[InstalledModel] | None = None) -> None:
    """Write the names that a Tab offers; None: look what is here. No failure of it is one."""
    from gemma_cli.models.store import installed
    from gemma_cli.paths import cache_dir, private_dir

    names = sorted({model.ref for model in (installed() if here is None else here)})
    target = cache_dir() / "completion" / "models"
    temporary = target.with_name(f"models.{os.getpid()}.tmp")
    with contextlib.suppress(OSError):
        private_dir(target.parent)
        temporary.write_text("".join(f"{name}\n" for name in names), encoding="utf-8")
        temporary.replace(target)
