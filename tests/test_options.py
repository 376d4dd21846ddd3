"""The generation options: one declaration that every command expands."""

from __future__ import annotations

import inspect
from dataclasses import fields
from typing import Any

from gemma_cli.commands.chat import chat
from gemma_cli.commands.options import GenerationOptions, takes_generation_options
from gemma_cli.commands.run import run
from gemma_cli.settings import Settings

OPTIONS = [field.name for field in fields(GenerationOptions)]


def test_every_generation_option_is_a_parameter_of_run_and_chat() -> None:
    for command in (run, chat):
        parameters = inspect.signature(command).parameters
        assert list(parameters)[-len(OPTIONS) :] == OPTIONS
        assert "generation" not in parameters


def test_every_generation_option_is_a_setting() -> None:
    assert {*OPTIONS} <= {field.name for field in fields(Settings)}


def test_a_command_gets_its_own_values_and_one_of_generation_options() -> None:
    got: dict[str, Any] = {}

    @takes_generation_options
    def command(*, name: str, generation: GenerationOptions) -> None:
        got.update(name=name, generation=generation)

    command(name="x", **dict.fromkeys(OPTIONS))
    assert got == {"name": "x", "generation": GenerationOptions()}


def test_what_is_said_wins_over_what_is_set() -> None:
    settings = Settings(temp=0.3, top_k=5, seed=1)
    asked = GenerationOptions(temp=0.0, system="").over(settings)
    assert asked == GenerationOptions(temp=0.0, top_k=5, seed=1, system="")
