"""A program of its own: load a model once and measure it; a JSON object a line on stdout.

Each configuration is measured in a process of its own, because thread pools of
two models in one process disturb each other, and a peak of memory is the
process's. The counts of a thread scan take turns in one process instead: a
machine whose speed drifts is then fair to all.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gemma_cli.errors import EngineError, ExitCode, GemmaError

if TYPE_CHECKING:
    from gemma_cli.machine.memory import Plan

_MOST_DECODED = 64
_REPEATS, _LONGEST_S = 5, 20.0  # as many rounds, but no further one after so long
_SCAN_PROMPT, _SCAN_DECODED = 64, 24
_SMALLER = "try a smaller context: --ctx 512"
_BOS, _STRIDE = 2, 7919  # tokens from all over the vocabulary


def main() -> int:
    threading.Thread(target=_end_with_the_parent, daemon=True).start()
    path, wish = Path(sys.argv[2]), json.loads(sys.argv[3])
    try:
        _measure(path, **wish)
    except GemmaError as error:
        _tell({"error": error.message, "hint": error.hint, "code": int(error.exit_code)})
    except MemoryError:
        error_text = "there is too little memory to measure this model"
        _tell({"error": error_text, "hint": _SMALLER, "code": int(ExitCode.MEMORY)})
    return 0


def _end_with_the_parent() -> None:
    """Its end of this pipe closes when it ends, however it ends."""
    os.read(0, 1)  # sys.stdin's lock would be missed when the interpreter shuts down
    os._exit(1)


def _tell(values: dict[str, Any]) -> None:
    print(json.dumps(values), flush=True)


def _measure(
    path: Path, n_ctx: int, threads: Sequence[int], gpu_layers: int, gpu_margin: int
) -> None:
    """One number of threads: fill a context of n_ctx tokens. Several: compare them."""
    from gemma_cli.engine.context import Context
    from gemma_cli.engine.library import AbortFlag
    from gemma_cli.engine.mapping import release_repacked
    from gemma_cli.engine.model import Model
    from gemma_cli.machine.devices import this_machine
    from gemma_cli.machine.memory import Wishes, plan
    from gemma_cli.machine.ram import peak_resident
    from gemma_cli.models.gguf import read_header

    header = read_header(path)
    wishes = Wishes(
        n_ctx=n_ctx,
        threads=threads[0],
        gpu_layers=gpu_layers,
        beyond_training=True,
        gpu_margin=gpu_margin,
        force=True,  # whoever asked for it has found that it fits
    )
    planned = plan(header, this_machine(), wishes)
    start = time.perf_counter()
    model = Model(
        path,
        planned.gpu_layers,
        split=planned.split,
        experts_on_host=planned.experts_on_host,
    )
    release_repacked(path, header)
    context = Context(model, planned, AbortFlag())
    _tell({"load_s": time.perf_counter() - start})
    vocabulary = model.vocabulary.size
    _round(context, min(16, n_ctx // 2), 2, vocabulary)  # weights are read for the first time
    if len(threads) == 1:
        decoded = min(_MOST_DECODED, n_ctx // 2)
        _rounds(context, n_ctx - decoded, decoded, vocabulary)
        _tell({"peak_rss": peak_resident()})
    else:
        _scan(context, threads, vocabulary)
    context.close()
    model.close()
    if len(threads) == 1:
        _tell_sizes(path, planned)


def _tell_sizes(path: Path, planned: Plan) -> None:
    """KV cache and compute buffers by llama.cpp's own accounting; nothing where it gives none."""
    from gemma_cli.engine.simulation import Simulation

    with contextlib.suppress(EngineError):
        layout = (planned.gpu_layers, planned.split, planned.experts_on_host)
        with contextlib.closing(Simulation(path, *layout)) as simulation:
            said = simulation.ask(planned)
        _tell({"kv_bytes": said.kv, "compute_bytes": sum(said.compute.values())})


def _rounds(context: Any, prompt: int, decoded: int, vocabulary: int) -> None:
    until = time.perf_counter() + _LONGEST_S
    for number in range(_REPEATS):
        if number and time.perf_counter() > until:
            return
        _tell(_round(context, prompt, decoded, vocabulary))


def _scan(context: Any, threads: Sequence[int], vocabulary: int) -> None:
    until = time.perf_counter() + _LONGEST_S
    for number in range(_REPEATS):
        for count in threads:
            if number and time.perf_counter() > until:
                return
            context.use_threads(count)
            _round(context, 1, 1, vocabulary)  # the pool of threads changes its size
            _tell({"threads": count} | _round(context, _SCAN_PROMPT, _SCAN_DECODED, vocabulary))


def _round(context: Any, prompt: int, decoded: int, vocabulary: int) -> dict[str, float]:
    """Evaluate a prompt of so many tokens, then decode, whatever is likeliest, end or not."""
    context.rewind(0)
    tokens = [_BOS, *((number * _STRIDE) % vocabulary for number in range(1, prompt))]
    start = time.perf_counter()
    for at in range(0, prompt, context.n_batch):
        part = tokens[at : at + context.n_batch]
        context.evaluate(part, logits=int(at + len(part) == prompt))
    token, _ = context.best(-1)
    first = time.perf_counter()
    for _ in range(decoded):
        context.evaluate([token])
        token, _ = context.best(-1)
    end = time.perf_counter()
    return {
        "prefill_tps": prompt / (first - start),
        "ttft_s": first - start,
        "decode_tps": decoded / (end - first),
    }


if __name__ == "__main__":
    sys.exit(main())
