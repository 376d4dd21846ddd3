"""What the command line of `gemma chat` begins with, as one would type it in the chat."""

from __future__ import annotations

import json
from dataclasses import fields

from gemma_cli.chat.attaching import quoted
from gemma_cli.commands.chatting.personas import PromptsHere
from gemma_cli.commands.options import GenerationOptions
from gemma_cli.commands.prompts import values
from gemma_cli.engine.protocol import Sampling
from gemma_cli.errors import UsageError


def said_sampling(generation: GenerationOptions) -> set[str]:
    """Ways of sampling that the command line names."""
    names = {field.name for field in fields(Sampling)} - {"schema"}
    said = {name for name in names if getattr(generation, name, None) is not None}
    return said | ({"temperature"} if generation.temp is not None else set())


def prompt_command(
    prompt: str | None, variables: list[str], generation: GenerationOptions
) -> list[str]:
    """What one would type to use that prompt. UsageError before anything is loaded."""
    if prompt is None:
        if variables:
            raise UsageError("--var belongs to a kept prompt, and none is named", "--prompt NAME")
        return []
    if generation.system is not None:
        raise UsageError("--system and --prompt both give a system text", "give one of them")
    given = values(variables)
    PromptsHere().use(prompt, given, Sampling())
    pairs = (f"{name}={json.dumps(value)}" for name, value in given.items())
    return [" ".join(("/prompt", prompt, *pairs))]


def file_commands(files: list[str], pins: list[str]) -> list[str]:
    """What one would type in the chat to the same end."""
    pinned = [f"/file --pin {quoted(path)}" for path in pins]
    return [*pinned, *(f"/file {quoted(path)}" for path in files)]
