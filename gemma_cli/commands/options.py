"""The generation options, declared once: every command that generates takes the same ones."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Annotated, Any, get_type_hints

import typer

from gemma_cli.errors import UsageError

if TYPE_CHECKING:
    from gemma_cli.settings import Settings

# More threads end llama.cpp (GGML_MAX_N_THREADS); more of the others is no C integer.
_MOST = {"--threads": 512, "--ctx": 2**31 - 1, "--gpu-layers": 2**31 - 1}


def _option(*names: str, help: str, **more: Any) -> Any:  # noqa: A002 - Typer's own name
    variable = "GEMMA_" + names[-1].removeprefix("--").replace("-", "_").upper()
    return typer.Option(*names, help=help, envvar=variable, **more)


ModelArgument = Annotated[
    str | None,
    typer.Argument(
        metavar="[MODEL]", help="gemma3:4b, gemma3:27b:q5_k_m, hf:OWNER/REPO or a .gguf file."
    ),
]
ModelOption = Annotated[
    str | None, typer.Option("-m", "--model", help="The model (GEMMA_MODEL).", metavar="MODEL")
]


@dataclass(frozen=True, slots=True)
class GenerationOptions:
    """What was said about an answer and its model's place in memory; None: nothing.

    A field is an option of the command line and a key of config.toml.
    """

    system: Annotated[
        str | None,
        _option("-s", "--system", help="What the model should know and how to behave."),
    ] = None
    temp: Annotated[
        float | None,
        _option("-t", "--temp", help="Temperature; 0 always takes the likeliest token."),
    ] = None
    top_k: Annotated[
        int | None, _option("--top-k", help="Only the K likeliest tokens; 0: all.")
    ] = None
    top_p: Annotated[
        float | None, _option("--top-p", help="Only the likeliest tokens that sum to P.")
    ] = None
    min_p: Annotated[
        float | None,
        _option("--min-p", help="Only tokens at least P times as likely as the best."),
    ] = None
    repeat_penalty: Annotated[
        float | None, _option("--repeat-penalty", help="Above 1: repeat less. 1 is off.")
    ] = None
    presence_penalty: Annotated[
        float | None,
        _option("--presence-penalty", help="Make every token said before less likely. 0 is off."),
    ] = None
    frequency_penalty: Annotated[
        float | None,
        _option("--frequency-penalty", help="The same, for each time it was said. 0 is off."),
    ] = None
    repeat_last_n: Annotated[
        int | None, _option("--repeat-last-n", help="Tokens that these penalties look back on.")
    ] = None
    dry_multiplier: Annotated[
        float | None, _option("--dry-multiplier", help="DRY: repeat no phrases. 0 is off.")
    ] = None
    dry_base: Annotated[
        float | None, _option("--dry-base", help="DRY: growth with each token of a phrase.")
    ] = None
    dry_allowed_length: Annotated[
        int | None, _option("--dry-allowed-length", help="DRY: tokens that may be repeated.")
    ] = None
    dry_last_n: Annotated[
        int | None, _option("--dry-last-n", help="DRY: tokens that it looks back on.")
    ] = None
    xtc_probability: Annotated[
        float | None,
        _option("--xtc-probability", help="XTC: how often to leave out the likeliest tokens."),
    ] = None
    xtc_threshold: Annotated[
        float | None,
        _option("--xtc-threshold", help="XTC: how likely these are; one of them always stays."),
    ] = None
    logit_bias: Annotated[
        list[str] | None,
        typer.Option(
            "--logit-bias",
            metavar="TOKEN=BIAS",
            help="Make one token, by number or text, more or less likely (repeatable).",
        ),
    ] = None
    stop: Annotated[
        list[str] | None,
        typer.Option("--stop", metavar="TEXT", help="End the answer before TEXT (repeatable)."),
    ] = None
    seed: Annotated[int | None, _option("--seed", help="The same seed gives the same answer.")] = (
        None
    )
    max_tokens: Annotated[
        int | None, _option("-n", "--max-tokens", help="Stop the answer after N tokens.")
    ] = None
    think: Annotated[
        bool | None,
        typer.Option(
            "--think/--no-think",
            envvar="GEMMA_THINK",
            help="Let a model that can think do so before it answers. Thoughts are no part of "
            "the answer: they are seen on a terminal, or in the JSON of gemma run.",
        ),
    ] = None
    ctx: Annotated[
        str | None, _option("--ctx", help="Context window in tokens, auto or max.", metavar="N")
    ] = None
    ctx_beyond_training: Annotated[
        bool | None,
        typer.Option(
            "--ctx-beyond-training",
            envvar="GEMMA_CTX_BEYOND_TRAINING",
            help="Let --ctx be more than the model was trained on.",
        ),
    ] = None
    gpu_layers: Annotated[
        str | None, _option("--gpu-layers", help="Layers on the GPU, auto or all.", metavar="N")
    ] = None
    threads: Annotated[
        str | None, _option("--threads", help="CPU threads, or auto.", metavar="N")
    ] = None
    kv_type: Annotated[
        str | None, _option("--kv-type", help="KV cache: f16, q8_0 or q4_0.", metavar="TYPE")
    ] = None
    gpu_margin: Annotated[
        str | None,
        _option("--gpu-margin", help="Memory to leave free on each GPU; 1GiB.", metavar="SIZE"),
    ] = None
    force: Annotated[
        bool | None,
        typer.Option("--force", help="Try to load what does not fit by the plan."),
    ] = None
    speculate: Annotated[
        bool | None,
        typer.Option(
            "--speculate/--no-speculate",
            envvar="GEMMA_SPECULATE",
            help="Guess tokens from what was said and check them together. As it is set: unless "
            "a seed or temperature 0 asks for an answer that comes out the same each time.",
        ),
    ] = None
    draft: Annotated[
        str | None,
        _option(
            "--draft",
            metavar="MODEL",
            help="A small model of the same generation that guesses tokens for a large one.",
        ),
    ] = None
    lora: Annotated[
        list[str] | None,
        typer.Option(
            "--lora",
            metavar="FILE[:SCALE]",
            help="A LoRA adapter (GGUF) for the model; 1 is its trained strength (repeatable).",
        ),
    ] = None

    def over(self, settings: Settings) -> GenerationOptions:
        """These, and config.toml's where nothing was said."""
        unsaid = [field.name for field in fields(self) if getattr(self, field.name) is None]
        return replace(self, **{name: getattr(settings, name) for name in unsaid})


def takes_generation_options(command: Callable[..., None]) -> Callable[..., None]:
    """Replace a command's parameter `generation` by one parameter for each generation option.

    Typer reads a command's signature; the command itself gets one GenerationOptions.
    """
    declared = inspect.signature(command, eval_str=True)
    types = get_type_hints(GenerationOptions, include_extras=True)
    expanded = [
        inspect.Parameter(
            field.name,
            inspect.Parameter.KEYWORD_ONLY,
            default=field.default,
            annotation=types[field.name],
        )
        for field in fields(GenerationOptions)
    ]
    own = [
        parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY)
        for parameter in declared.parameters.values()
        if parameter.name != "generation"
    ]

    @functools.wraps(command)
    def expanding(**given: Any) -> None:
        generation = GenerationOptions(**{name: given.pop(name) for name in types})
        command(**given, generation=generation)

    parameters = [*own, *expanded]
    vars(expanding)["__signature__"] = declared.replace(parameters=parameters)
    expanding.__annotations__ = {each.name: each.annotation for each in parameters}
    return expanding


def one_model(argument: str | None, option: str | None) -> str | None:
    """MODEL and -m MODEL mean the same; both at once must agree."""
    if argument and option and argument != option:
        raise UsageError(f"two models are named: {argument} and {option}", "name one")
    return argument or option


def number_or_word(name: str, value: str | None, words: tuple[str, ...], least: int) -> Any:
    """An option that takes a count or a word: an int, the word, or None for "auto" and nothing."""
    if value is None or value.lower() == "auto":
        return None
    if value.lower() in words:
        return value.lower()
    choices = ", ".join(("auto", *words))
    try:
        number = int(value)
    except ValueError:
        raise UsageError(f"{name} takes a number or {choices}, not '{value}'") from None
    if number < least:
        raise UsageError(f"{name} must be {least} or more, not {number}")
    if number > (most := _MOST.get(name, number)):
        raise UsageError(f"{name} must be {most} or less, not {number}")
    return number
