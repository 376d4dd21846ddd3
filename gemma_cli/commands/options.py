"""The generation options, declared once: `run` and `chat` take the same ones."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from gemma_cli.errors import UsageError


def _option(*names: str, help: str, **more: Any) -> Any:  # noqa: A002 - Typer's own name
    variable = "GEMMA_" + names[-1].removeprefix("--").replace("-", "_").upper()
    return typer.Option(*names, help=help, envvar=variable, **more)


ModelArgument = Annotated[
    str | None,
    typer.Argument(help="gemma3:4b, gemma3:27b:q5_k_m, hf:OWNER/REPO or a .gguf file."),
]
ModelOption = Annotated[
    str | None, typer.Option("-m", "--model", help="The model (GEMMA_MODEL).", metavar="MODEL")
]
System = Annotated[
    str | None, _option("-s", "--system", help="What the model should know and how to behave.")
]
Temp = Annotated[
    float | None, _option("-t", "--temp", help="Temperature; 0 always takes the likeliest token.")
]
TopK = Annotated[int | None, _option("--top-k", help="Only the K likeliest tokens; 0: all.")]
TopP = Annotated[float | None, _option("--top-p", help="Only the likeliest tokens that sum to P.")]
MinP = Annotated[
    float | None, _option("--min-p", help="Only tokens at least P times as likely as the best.")
]
RepeatPenalty = Annotated[
    float | None, _option("--repeat-penalty", help="Above 1: repeat less. 1 is off.")
]
Seed = Annotated[int | None, _option("--seed", help="The same seed gives the same answer.")]
MaxTokens = Annotated[
    int | None, _option("-n", "--max-tokens", help="Stop the answer after N tokens.")
]
Ctx = Annotated[
    str | None,
    _option("--ctx", help="Context window in tokens, auto or max.", metavar="N"),
]
GpuLayers = Annotated[
    str | None,
    _option("--gpu-layers", help="Layers on the GPU, auto or all.", metavar="N"),
]
Threads = Annotated[str | None, _option("--threads", help="CPU threads, or auto.", metavar="N")]
KVTypeOption = Annotated[
    str | None,
    _option("--kv-type", help="KV cache: f16, q8_0 or q4_0.", metavar="TYPE"),
]


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
    return number
