#!/usr/bin/env python3
"""Our engine against llama-cpp-python's Llama class, and llama.cpp's own programs if given.

usage: scripts/bench_engine.py [--model FILE] [--threads N] [--rounds N] [--llama-bench PATH]
           [--llama-completion PATH] [--llama-batched-bench PATH] [--only-speed]

One run, one file, the same threads for all; every figure is the median over
rounds in which the contestants take turns, each in a process of its own, so
that a machine whose speed drifts is fair to all.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from gemma_cli.commands.loading.opening import plan_for
from gemma_cli.engine.llama import LlamaEngine
from gemma_cli.engine.protocol import Done, Sampling
from gemma_cli.engine.setup import Setup, Weights
from gemma_cli.machine.memory import Wishes
from gemma_cli.models.demo import assemble
from gemma_cli.models.gguf import read_header

PREFILL, DECODE, CTX, REPEATS = 1024, 128, 32768, 3
_MIB = 1 << 20


def main() -> int:
    arguments = _arguments()
    if arguments.child:
        print(json.dumps(_CHILDREN[arguments.child](arguments.model, arguments.threads)))
        return 0
    print(
        f"{arguments.model.name}, {arguments.threads} threads, {arguments.rounds} rounds, medians"
    )
    names = ["gemma-cli", "Llama class"] + (["llama-bench"] if arguments.llama_bench else [])
    speeds: dict[str, list[tuple[float, float]]] = {name: [] for name in names}
    for _ in range(arguments.rounds):
        for name in names:
            speeds[name].append(_speed(name, arguments))
    _print_speeds(speeds)
    _print_memory(arguments)
    _print_first_token(arguments)
    if arguments.llama_batched_bench:
        _print_batches(arguments)
    if not arguments.only_speed:
        for other in ("bench_reuse.py", "bench_sampling.py"):
            _print_other(other, arguments)
    return 0


def _print_other(script: str, arguments: argparse.Namespace) -> None:
    """A bench of its own, in a process of its own, on the same file."""
    print(flush=True)
    path = Path(__file__).with_name(script)
    options = ["--model", str(arguments.model), "--rounds", str(arguments.rounds)]
    subprocess.run(
        [sys.executable, str(path), *options, "--threads", str(arguments.threads)], check=True
    )


def _speed(name: str, arguments: argparse.Namespace) -> tuple[float, float]:
    """(prefill, decode) in tokens per second, each measured in a process of its own."""
    if name == "llama-bench":
        return _llama_bench(arguments.llama_bench, arguments.model, arguments.threads)
    prefill, decode = (
        json.loads(_child(f"{what} of {name}", arguments).stdout) for what in ("prefill", "decode")
    )
    return prefill, decode


def _child(what: str, arguments: argparse.Namespace) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, __file__, "--model", str(arguments.model), "--child", what]
    return subprocess.run(
        [*command, "--threads", str(arguments.threads)],
        capture_output=True,
        text=True,
        check=True,
        env=os.environ | {"GEMMA_DEBUG": "1" if what.startswith("memory") else "0"},
    )


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", type=Path, help="a .gguf file (default: the embedded 270M)")
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--llama-bench", type=Path)
    parser.add_argument("--llama-completion", type=Path)
    parser.add_argument("--llama-batched-bench", type=Path)
    parser.add_argument("--only-speed", action="store_true", help="leave the other benches out")
    parser.add_argument("--child", choices=_CHILDREN, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    arguments.model = arguments.model or assemble()
    if not arguments.threads:
        from gemma_cli.machine.cpu import usable_threads

        arguments.threads = usable_threads()
    return arguments


def _engine(model: Path, threads: int, n_ctx: int) -> LlamaEngine:
    """Without drafts: scripts/bench_reuse.py shows what those add."""
    header = read_header(model)
    plan = plan_for(header, Wishes(n_ctx=n_ctx, threads=threads))
    engine = LlamaEngine(Setup(Weights(model, header, plan), speculate=False))
    engine.info()
    return engine


def _our_prefill(model: Path, threads: int) -> float:
    """Tokens per second, as the engine's own statistics give them; the first one warms up."""
    engine = _engine(model, threads, PREFILL + 256)
    rates = [
        _last(engine, f"{word} " * (PREFILL - 1), Sampling(temperature=0, max_tokens=1))
        for word in ("a", "the", "one", "it")
    ]
    engine.close()
    return statistics.fmean(done.timings.prompt_tps for done in rates[1:])


def _our_decode(model: Path, threads: int) -> float:
    engine = _engine(model, threads, 256)  # as llama-bench: a context of the test's own size
    answers = [
        _last(engine, "Once upon a time", Sampling(temperature=0, max_tokens=DECODE))
        for _ in range(REPEATS + 1)
    ]
    engine.close()
    return statistics.fmean(done.timings.decode_tps for done in answers[1:])


def _last(engine: LlamaEngine, text: str, sampling: Sampling) -> Done:
    *_, done = engine.generate(engine.raw(text), sampling)
    assert isinstance(done, Done)
    return done


def _llama_class(model: Path, threads: int, n_ctx: int, *, verbose: bool = False) -> Any:
    from llama_cpp import Llama

    return Llama(
        str(model), n_ctx=n_ctx, n_threads=threads, n_threads_batch=threads, verbose=verbose
    )


def _llama_class_prefill(model: Path, threads: int) -> float:
    llama = _llama_class(model, threads, PREFILL + 256)
    rates = []
    for word in (b"a ", b"the ", b"one ", b"it "):
        tokens = llama.tokenize(word * (PREFILL - 1))
        llama.reset()
        start = time.perf_counter()
        llama.eval(tokens)
        rates.append(len(tokens) / (time.perf_counter() - start))
    llama.close()
    return statistics.fmean(rates[1:])


def _llama_class_decode(model: Path, threads: int) -> float:
    llama = _llama_class(model, threads, 256)
    prompt = llama.tokenize(b"Once upon a time")
    rates = []
    for _ in range(REPEATS + 1):
        llama.reset()
        times: list[float] = []
        for _token in llama.generate(prompt, temp=0.0, top_k=1, repeat_penalty=1.0):
            times.append(time.perf_counter())
            if len(times) == DECODE:
                break
        rates.append((DECODE - 1) / (times[-1] - times[0]))
    llama.close()
    return statistics.fmean(rates[1:])


def _llama_bench(tool: Path, model: Path, threads: int) -> tuple[float, float]:
    command = [str(tool), "-m", str(model), "-t", str(threads), "-r", str(REPEATS), "-o", "json"]
    command += ["-p", str(PREFILL), "-n", str(DECODE), "-fa", "auto"]
    output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    prefill, decode = (row["avg_ts"] for row in json.loads(output))
    return prefill, decode


def _print_speeds(speeds: dict[str, list[tuple[float, float]]]) -> None:
    print(f"\n{'':14}{'prefill':>10}{'decode':>10}   tokens per second (min to max of decode)")
    for name, rows in speeds.items():
        prefill, decode = zip(*rows, strict=True)
        print(
            f"{name:14}{statistics.median(prefill):10.0f}{statistics.median(decode):10.1f}"
            f"   ({min(decode):.1f} to {max(decode):.1f})"
        )
    ours = speeds["gemma-cli"]
    for name, rows in speeds.items():
        if name == "gemma-cli":
            continue
        ratios = [
            [a / b for a, b in zip(x, y, strict=True)] for x, y in zip(ours, rows, strict=True)
        ]
        prefill, decode = (statistics.median(column) for column in zip(*ratios, strict=True))
        print(f"gemma-cli / {name}: prefill {prefill:.2f}, decode {decode:.2f}")


def _our_memory(model: Path, threads: int) -> int:
    """Use a context of 32768 tokens once; the peak. llama.cpp's log goes to stderr."""
    engine = _engine(model, threads, CTX)
    _last(engine, "the " * 64, Sampling(temperature=0, max_tokens=1))
    engine.close()
    return _peak()


def _llama_class_memory(model: Path, threads: int) -> int:
    llama = _llama_class(model, threads, CTX, verbose=True)
    llama.eval(llama.tokenize(b"the " * 64))
    llama.close()
    return _peak()


def _print_memory(arguments: argparse.Namespace) -> None:
    """KV cache and compute buffers by llama.cpp's own log, and what the process peaked at."""
    print(f"\na context of {CTX} tokens, MiB{'':>4}KV cache   compute     total   process peak")
    for name in ("gemma-cli", "Llama class"):
        process = _child(f"memory of {name}", arguments)
        kv = _sum(r"size = +([\d.]+) MiB \( *\d+ cells", process.stderr)
        compute = _sum(r"compute buffer size = +([\d.]+) MiB", process.stderr)
        peak = json.loads(process.stdout) / _MIB
        print(f"{name:32}{kv:8.0f}{compute:10.0f}{kv + compute:10.0f}{peak:15.0f}")


def _sum(pattern: str, log: str) -> float:
    return sum(map(float, re.findall(pattern, log)))


def _peak() -> int:
    """Peak resident bytes of this process."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def _print_first_token(arguments: argparse.Namespace) -> None:
    """Process start to the first byte of the answer; llama-completion's whole run of one token."""
    model, threads = str(arguments.model), str(arguments.threads)
    ours = [sys.executable, "-m", "gemma_cli", "run", "-m", model, "-t", "0", "-n", "4"]
    theirs = [str(arguments.llama_completion), "-m", model, "-t", threads, "-n", "1"]
    theirs += ["-no-cnv", "--temp", "0", "-p", "Hi"]
    times: list[tuple[float, float]] = []
    for _ in range(arguments.rounds + 1):
        seconds = _first_byte([*ours, "--threads", threads, "Hi"])
        times.append((seconds, _whole_run(theirs) if arguments.llama_completion else seconds))
    first = [ours_s for ours_s, _ in times[1:]]
    whole = [theirs_s for _, theirs_s in times[1:]]
    print(
        f"\ngemma run, process start to first token: {statistics.median(first):.2f} s "
        f"({min(first):.2f} to {max(first):.2f})"
    )
    if arguments.llama_completion:
        ratios = [a / b for a, b in times[1:]]
        print(
            f"llama-completion, one token: {statistics.median(whole):.2f} s; "
            f"gemma run / llama-completion: {statistics.median(ratios):.2f} "
            f"({min(ratios):.2f} to {max(ratios):.2f})"
        )


def _first_byte(command: list[str]) -> float:
    start = time.perf_counter()
    process = subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    )
    assert process.stdout is not None
    process.stdout.read(1)
    seconds = time.perf_counter() - start
    process.communicate()
    return seconds


def _whole_run(command: list[str]) -> float:
    start = time.perf_counter()
    subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, check=True)
    return time.perf_counter() - start


def _print_batches(arguments: argparse.Namespace) -> None:
    """What several conversations at once would yield: llama.cpp's figure, ours to come near."""
    command = [str(arguments.llama_batched_bench), "-m", str(arguments.model)]
    command += ["-t", str(arguments.threads), "-c", "4096", "-npp", "128", "-ntg", "64"]
    command += ["-npl", "1,4,8", "--output-format", "jsonl"]
    output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    rows = [json.loads(line) for line in output.splitlines() if line.startswith("{")]
    speeds = ", ".join(f"{row['pl']}: {row['speed_tg']:.0f}" for row in rows)
    print(f"\nllama-batched-bench, sequences at once: tokens per second in all: {speeds}")


_CHILDREN: dict[str, Callable[[Path, int], Any]] = {
    "prefill of gemma-cli": _our_prefill,
    "prefill of Llama class": _llama_class_prefill,
    "decode of gemma-cli": _our_decode,
    "decode of Llama class": _llama_class_decode,
    "memory of gemma-cli": _our_memory,
    "memory of Llama class": _llama_class_memory,
}

if __name__ == "__main__":
    sys.exit(main())
