#!/usr/bin/env python3
"""What choosing a token costs: each sampling option in ms, and JSON by schema against free text.

usage: scripts/bench_sampling.py [--model FILE] [--threads N] [--tokens N] [--rounds N]

Options: medians over the real logits of one answer, all options on each of
them in turn. Schemas: decoding speed of the same number of tokens, free and
under the schema in turn; medians of the ratios.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from gemma_cli.commands.loading.opening import plan_for
from gemma_cli.engine.library import C
from gemma_cli.engine.llama import LlamaEngine
from gemma_cli.engine.model import Model
from gemma_cli.engine.protocol import Done, Sampling
from gemma_cli.engine.sampling import Sampler
from gemma_cli.engine.setup import Setup, Weights
from gemma_cli.machine.memory import Wishes
from gemma_cli.models.demo import assemble
from gemma_cli.models.gguf import read_header

_TEXT = "Once upon a time there was a"

_OPTIONS: dict[str, Sampling] = {
    "greedy": Sampling(temperature=0),
    "greedy, repeat penalty": Sampling(temperature=0, repeat_penalty=1.1),
    "top-k 64, top-p 0.95": Sampling(),
    "  and penalties": Sampling(repeat_penalty=1.1, presence_penalty=0.1),
    "  and DRY": Sampling(dry_multiplier=0.8),
    "  and XTC": Sampling(xtc_probability=0.5),
    "  and logit bias": Sampling(logit_bias=((5, 1.0), (9, -100.0))),
    "top-p 0.95 alone": Sampling(top_k=0),
    "min-p 0.05 alone": Sampling(top_k=0, top_p=1, min_p=0.05),
    "temperature alone": Sampling(top_k=0, top_p=1),
    "  and penalties, no top-k": Sampling(top_k=0, top_p=1, repeat_penalty=1.1),
    "  and DRY, no top-k": Sampling(top_k=0, top_p=1, dry_multiplier=0.8),
    "  and XTC, no top-k": Sampling(top_k=0, top_p=1, xtc_probability=0.5),
    "top-k 1000": Sampling(top_k=1000),
}

_PERSON: dict[str, Any] = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 30},
        "age": {"type": "integer", "minimum": 0, "maximum": 120},
        "kind": {"enum": ["friend", "colleague", "neighbour"]},
        "born": {"type": "string", "format": "date"},
    },
    "required": ["name", "age", "kind", "born"],
    "additionalProperties": False,
}
_SCHEMAS: dict[str, dict[str, Any]] = {
    "object of fields": {"type": "array", "items": _PERSON, "minItems": 4, "maxItems": 4},
    "long strings": {
        "type": "array", "items": {"type": "string", "minLength": 60}, "minItems": 8
    },
    "numbers": {
        "type": "array", "items": {"type": "number", "minimum": -9, "maximum": 9}, "minItems": 60
    },
    "any JSON": {"type": "array", "items": {}, "minItems": 40},
    "patterns": {
        "type": "array", "items": {"type": "string", "pattern": "^[A-Z]{3}-[0-9]{4}$"},
        "minItems": 20,
    },
}  # fmt: skip


def main() -> None:
    arguments = _arguments()
    print(f"{'option':<28}{'ms':>7}  slowest tenth from")
    for name, times in _option_times(arguments).items():
        times.sort()
        print(f"{name:<28}{statistics.median(times):7.3f}{times[len(times) * 9 // 10]:8.3f}")
    print(f"\n{'schema':<28}{'of free':>8}   rounds       tokens")
    for name, ratios, tokens in _schema_ratios(arguments):
        spread = f"{min(ratios):.3f}-{max(ratios):.3f}"
        print(f"{name:<28}{statistics.median(ratios):8.3f}   {spread}  {tokens}")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", type=Path, help="a .gguf file (default: the embedded 270M)")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--tokens", type=int, default=64, help="positions to sample at")
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    arguments.model = arguments.model or assemble()
    return arguments


def _option_times(arguments: argparse.Namespace) -> dict[str, list[float]]:
    """Milliseconds for each option and position; the answer itself is the default's."""
    model = Model(arguments.model, 0)
    params = C.llama_context_default_params()
    params.n_ctx = arguments.tokens + 64
    params.n_threads = params.n_threads_batch = arguments.threads
    context = C.llama_init_from_model(model.pointer, params)
    prompt = [model.vocabulary.bos, *model.vocabulary.plain(_TEXT)]
    samplers = {name: Sampler(sampling, model.vocabulary) for name, sampling in _OPTIONS.items()}
    for sampler in samplers.values():
        sampler.accept_prompt(prompt)
    leader = Sampler(Sampling(seed=1), model.vocabulary)
    times: dict[str, list[float]] = {name: [] for name in samplers}
    following = prompt
    for position in range(arguments.tokens):
        batch = (C.llama_token * len(following))(*following)
        if C.llama_decode(context, C.llama_batch_get_one(batch, len(following))) != 0:
            raise SystemExit("llama.cpp failed while evaluating")
        for name, sampler in samplers.items():
            start = time.perf_counter()
            sampler.sample(context)
            if position:  # the first waits for NumPy
                times[name].append((time.perf_counter() - start) * 1000)
        following = [leader.sample(context)]
    for sampler in (*samplers.values(), leader):
        sampler.close()
    C.llama_free(context)
    model.close()
    return times


def _schema_ratios(arguments: argparse.Namespace) -> Iterator[tuple[str, list[float], int]]:
    """(name, decode speed under the schema over free speed for each round, tokens of an answer)."""
    header = read_header(arguments.model)
    wishes = Wishes(n_ctx=1024, threads=arguments.threads)
    engine = LlamaEngine(
        Setup(Weights(arguments.model, header, plan_for(header, wishes)), speculate=False)
    )
    for name, schema in _SCHEMAS.items():
        ratios, tokens = [], 0
        for seed in range(arguments.rounds + 1):
            held = _decode(engine, Sampling(seed=seed, max_tokens=160, schema=json.dumps(schema)))
            tokens = held.usage.completion_tokens
            free = _decode(engine, Sampling(seed=seed, max_tokens=tokens))
            while free.usage.completion_tokens < tokens:  # it ended early: another answer
                seed += 1000
                free = _decode(engine, Sampling(seed=seed, max_tokens=tokens))
            ratios.append(held.timings.decode_tps / free.timings.decode_tps)
        yield name, ratios[1:], tokens
    engine.close()


def _decode(engine: LlamaEngine, sampling: Sampling) -> Done:
    *_, done = engine.generate(engine.raw("Some examples as JSON, one after the other: "), sampling)
    assert isinstance(done, Done)
    return done


if __name__ == "__main__":
    main()
