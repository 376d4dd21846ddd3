"""Slash commands: one decorated function each. Help and completion read one registry."""

from gemma_cli.chat.commands import general, settings, manner, tree, answers, context, files, past  # noqa: F401, I001 - the help's order
from gemma_cli.chat.commands.past import recall
from gemma_cli.chat.commands.registry import (
    Command,
    Leave,
    command,
    commands,
    completions,
    find,
    near,
    split,
)

__all__ = [
    "Command",
    "Leave",
    "command",
    "commands",
    "completions",
    "find",
    "near",
    "recall",
    "split",
]
