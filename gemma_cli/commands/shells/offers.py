"""What every completion script offers, and how a text is quoted in it."""

from __future__ import annotations

_MADE = "# Made by `gemma completion {}`; what it offers are the commands of gemma {}.\n"


def quoted(text: str) -> str:
    """As bash and zsh take it."""
    return "'" + text.replace("'", "'\\''") + "'"


def made_by(shell: str) -> str:
    """The first line of a script."""
    from gemma_cli import __version__

    return _MADE.format(shell, __version__)


def model_names() -> list[str]:
    """Every Gemma that can be fetched."""
    from gemma_cli.models.catalog import load_catalog

    return sorted(model.id for model in load_catalog().models)


def prompt_names() -> list[str]:
    """The built-in prompts."""
    from gemma_cli import prompts

    return [each.name for each in prompts.names() if each.source == prompts.BUILT_IN]


def keys() -> list[str]:
    """Of the settings."""
    from gemma_cli.settings import every_key

    return every_key()
