#!/usr/bin/env python3
"""Hostile model files through the program's own way of loading: a table of what became of them.

usage: scripts/fuzz_gguf.py [--count N] [--first SEED] [--jobs N] [--model FILE]...

Headers of a built Gemma 3 and a built Gemma 4 (with weights: what is admitted
also answers a prompt), of the embedded model and of each --model are changed by
seed and put before a sparse file. Reading and showing the header happens in this
program's processes, which must not crash, wait or swell; the rest in the child
that `gemma` starts.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import multiprocessing
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from gemma_cli.commands.show import show
from gemma_cli.engine.admission import admit
from gemma_cli.errors import GemmaError
from gemma_cli.models.demo import assemble
from gemma_cli.models.gguf import read_header
from tests.gguf_models import gemma4_with_per_layer_embeddings, tiny_gemma
from tests.gguf_mutations import Parsed, mutated, parse

_SLOW = 5.0
_MOST_MEMORY = 1 << 30
_MOST_HEADER = 1 << 25


@dataclass(frozen=True, slots=True)
class Outcome:
    """header_s, admit_s: seconds; memory: the process's peak in bytes so far."""

    base: str
    seed: int
    change: str
    became: str
    said: str
    header_s: float
    admit_s: float
    memory: int


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=1500)
    parser.add_argument("--first", type=int, default=0, help="the first seed")
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--model", type=Path, action="append", default=[])
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="fuzz-") as folder:
        return _fuzz(arguments, Path(folder))


def _fuzz(arguments: argparse.Namespace, folder: Path) -> int:
    bases = [
        tiny_gemma(folder / "built-3.gguf", layers=2),
        gemma4_with_per_layer_embeddings(folder / "built-4.gguf", 32),
        assemble(),
        *arguments.model,
    ]
    os.environ["GEMMA_HOME"] = str(folder / "home")  # remembers nothing, forgets nothing
    outcomes: list[Outcome] = []
    died: list[tuple[str, int]] = []
    for base, seeds in _shares(bases, arguments.first, arguments.count):
        for job in _waves(seeds, arguments.jobs):
            done, dead = _run(base, job, folder)
            outcomes += done
            died += dead
    _print(outcomes, died)
    bad = [o for o in outcomes if o.became.startswith("BAD") or o.header_s > _SLOW]
    return 1 if bad or died else 0


def _shares(bases: list[Path], first: int, count: int) -> Iterator[tuple[Path, range]]:
    """Most seeds for the two built models, which are quick; the rest shared by the others."""
    others = len(bases) - 2
    shares = [count // 3, count // 3, *[count // 3 // others] * others]
    for base, share in zip(bases, shares, strict=False):
        yield base, range(first, first + share)


def _waves(seeds: range, jobs: int) -> Iterator[list[range]]:
    for start in range(seeds.start, seeds.stop, 50 * jobs):
        chunk = range(start, min(start + 50 * jobs, seeds.stop))
        yield [chunk[i::jobs] for i in range(jobs)]


def _run(
    base: Path, jobs: list[range], folder: Path
) -> tuple[list[Outcome], list[tuple[str, int]]]:
    """A process for each job; one that dies tells which seed it was at."""
    context = multiprocessing.get_context("spawn")
    outcomes, died = [], []
    workers = []
    for seeds in jobs:
        reader, writer = context.Pipe(duplex=False)
        process = context.Process(target=_work, args=(base, seeds, folder, writer))
        process.start()
        writer.close()
        workers.append((process, reader, seeds))
    for process, reader, seeds in workers:
        done = 0
        try:
            while done < len(seeds):
                outcomes.append(reader.recv())
                done += 1
        except EOFError:
            died.append((base.name, seeds[done]))
        process.join()
    return outcomes, died


def _work(base: Path, seeds: range, folder: Path, out: object) -> None:
    with base.open("rb") as file:
        data = file.read(_MOST_HEADER)
    parsed = parse(data)
    weights = base.stat().st_size - parsed.length
    tail = data[parsed.length :] if len(data) == base.stat().st_size else b""
    for seed in seeds:
        path = folder / f"{base.stem}-{seed}.gguf"
        outcome = _try(path, base.name, parsed, seed, tail, weights)
        path.unlink()
        out.send(outcome)  # type: ignore[attr-defined]


def _try(path: Path, base: str, parsed: Parsed, seed: int, tail: bytes, weights: int) -> Outcome:
    head, change = mutated(parsed, seed)
    with path.open("wb") as file:
        file.write(head + tail)
        file.truncate(len(head) + (0 if change == "cut short" else weights + (1 << 20)))
    start = time.perf_counter()
    became, said = "refused by its header", ""
    header_s = admit_s = 0.0
    try:
        try:
            read_header(path)
            with contextlib.redirect_stdout(io.StringIO()):
                show(str(path), json_output=False)
        finally:
            header_s = time.perf_counter() - start
        start = time.perf_counter()
        try:
            admit(path, lambda: False)
        finally:
            admit_s = time.perf_counter() - start
        became = "admitted"
        if tail:
            became, said = _answer(path)
    except GemmaError as error:
        said = error.message.replace(str(path), "FILE")
        if "crashes" in said:
            became = "crash in the child"
        elif "come to an end" in said or "too little memory" in said:
            became = "stopped in the child"
        elif "llama.cpp cannot load" in said:
            became = "refused by llama.cpp"
    except Exception as error:  # a bug of ours, whatever it is: report it
        became, said = f"BAD: {type(error).__name__}", str(error)
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    if memory > _MOST_MEMORY:
        became = "BAD: memory"
    return Outcome(base, seed, change, became, said, header_s, admit_s, memory)


def _answer(path: Path) -> tuple[str, str]:
    """What was admitted must also compute: `gemma run` itself, one thread, two tokens."""
    command = [sys.executable, "-m", "gemma_cli", "run", "-m", str(path), "--raw", "-n", "2"]
    try:
        done = subprocess.run(
            [*command, "--threads", "1", "--ctx", "512", "the a"],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=60,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return "BAD: gemma run hangs", ""
    errors = done.stderr.decode("utf-8", "replace")
    if done.returncode not in (0, 1, 2, 5, 6) or "Traceback" in errors:
        return f"BAD: gemma run ended with {done.returncode}", errors[-300:]
    return ("answers" if done.returncode == 0 else "said no after all"), errors[-200:]


def _print(outcomes: list[Outcome], died: list[tuple[str, int]]) -> None:
    kinds = sorted({o.became for o in outcomes})
    print(f"{len(outcomes)} files")
    for base in sorted({o.base for o in outcomes}):
        counts = Counter(o.became for o in outcomes if o.base == base)
        print(f"\n{base}")
        for kind in kinds:
            if counts[kind]:
                print(f"  {counts[kind]:5}  {kind}")
    slowest = max(outcomes, key=lambda o: o.header_s)
    longest = max(outcomes, key=lambda o: o.admit_s)
    print(
        f"\nheader: at most {slowest.header_s:.2f} s, {max(o.memory for o in outcomes) >> 20} MiB"
    )
    print(f"admission: at most {longest.admit_s:.2f} s ({longest.base} {longest.seed})")
    for base, seed in died:
        print(f"DIED: our own process at {base} {seed}")
    for outcome in outcomes:
        if outcome.became.startswith(("BAD", "crash", "stopped", "said no")):
            text = " ".join(outcome.said.split())
            print(f"{outcome.became}: {outcome.base} {outcome.seed} ({outcome.change}): {text}")


if __name__ == "__main__":
    sys.exit(main())
