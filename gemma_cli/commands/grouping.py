"""Commands below one name, listed by their help."""

from __future__ import annotations

from typing import Any

from typer.core import TyperGroup

_WHOLE = 1_000


class CommandGroup(TyperGroup):
    """Its help shows a whole sentence of each command; Typer's cuts them off at the line's end."""

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        for command in self.commands.values():
            command.short_help = command.get_short_help_str(limit=_WHOLE)
        super().format_commands(ctx, formatter)
