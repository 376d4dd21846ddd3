"""Kept prompts in a chat: a system text, perhaps a message to fill in, and ways of sampling."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress

from gemma_cli import prompts
from gemma_cli.chat.session import Persona
from gemma_cli.commands.loading import opening
from gemma_cli.commands.options import GenerationOptions
from gemma_cli.commands.prompts import usable
from gemma_cli.engine.protocol import Sampling
from gemma_cli.errors import UsageError


class PromptsHere:
    """Satisfies chat.session's Prompts."""

    def names(self) -> list[tuple[str, str]]:
        return [(each.name, each.problem or each.description) for each in prompts.names()]

    def variables(self, name: str) -> list[tuple[str, str]]:
        with suppress(UsageError):
            return [(each.name, each.default or "") for each in usable(name).variables]
        return []

    def use(self, name: str, values: Mapping[str, str], sampling: Sampling) -> Persona:
        prompt = usable(name)
        # A prompt without words around the text is a persona: messages are as they are typed.
        is_template = prompt.message.strip() not in ("", "{{text}}")
        filled = prompt.fill(values, "" if is_template else None)
        asked = GenerationOptions().over(filled.options)
        message = (filled.message or "").rstrip() + "\n\n" if is_template else ""
        return Persona(filled.system, message, opening.sampling_from(sampling, asked))
