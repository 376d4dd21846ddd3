"""Completion scripts for bash, zsh and fish. What they offer is in them, but for what changes:

the models that are here (a file that gemma writes) and a person's own prompts (a folder).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from gemma_cli.commands.shells import bash, fish, zsh
from gemma_cli.commands.surface import Command

SCRIPTS: dict[str, Callable[[Sequence[Command]], str]] = {
    "bash": bash.script,
    "zsh": zsh.script,
    "fish": fish.script,
}
