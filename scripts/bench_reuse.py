#!/usr/bin/env python3
"""What need not be evaluated again, and what it saves: history, snapshots, reading ahead, drafts.

usage: scripts/bench_reuse.py [--model FILE] [--threads N] [--rounds N]

Every figure is a ratio of two times of one run, measured in turns on the same
file, threads and prompts; medians, and the smallest and largest ratio.
"""

from __future__ import annotations

import argparse
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from pathlib import Path

from gemma_cli.commands.loading.opening import plan_for
from gemma_cli.engine.llama import LlamaEngine
from gemma_cli.engine.protocol import Done, Generation, Message, Piece, Prompt, Sampling
from gemma_cli.engine.setup import Setup, SnapshotPlace, Weights
from gemma_cli.machine.memory import Wishes
from gemma_cli.models.demo import assemble
from gemma_cli.models.gguf import read_header

_ONE = Sampling(temperature=0, max_tokens=1)
_WORDS = ("river", "stone", "amber", "quiet", "engine", "harbour", "violet", "lantern")
_PASSAGE = (
    "The ferry to the island leaves at seven in the morning and comes back after sunset. "
    "Whoever misses it sleeps in the small house behind the harbour, where a lamp burns all night."
)
_QUESTION = "Which of these did you like best, and why do you say so?"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", type=Path, help="a .gguf file (default: the embedded 270M)")
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    model = arguments.model or assemble()
    threads = arguments.threads or _auto_threads()
    print(f"{model.name}, {threads} threads, {arguments.rounds} rounds, medians (min to max)")
    bench = Bench(model, threads, arguments.rounds)
    for figure in (
        bench.long_history,
        bench.regenerate,
        bench.resume,
        bench.document,
        bench.reading_ahead,
        bench.copying,
        bench.free_text,
    ):
        figure()
    return 0


def _auto_threads() -> int:
    from gemma_cli.machine.cpu import usable_threads

    return usable_threads()


class Bench:
    """One model at work; each method prints one line."""

    def __init__(self, model: Path, threads: int, rounds: int) -> None:
        self._model, self._threads, self._rounds = model, threads, rounds
        self._header = read_header(model)
        self._random = random.Random(1)

    def long_history(self) -> None:
        """First token of a new message: 8,000 tokens of history against none."""

        def pairs() -> Iterator[tuple[float, float]]:
            with closing(self._engine()) as engine:
                for _ in range(self._rounds):
                    history = self._history(engine, 8000)
                    _ask(engine, history, "Go on.", _ONE)
                    long = _ask(engine, history, _QUESTION, _ONE)[0]
                    empty = _ask(engine, [], _QUESTION, _ONE)[0]
                    yield long, empty

        self._show("first token after 8,000 tokens of history / in an empty chat", pairs)

    def regenerate(self) -> None:
        """The last answer again, after 4,000 tokens, with 200 tokens said since."""

        def pairs() -> Iterator[tuple[float, float]]:
            with closing(self._engine()) as engine:
                for _ in range(self._rounds):
                    history = self._history(engine, 4000)
                    fresh = _ask(engine, history, _QUESTION, _ONE)[0]
                    _ask(engine, history, _QUESTION, Sampling(temperature=0, max_tokens=200))
                    yield _ask(engine, history, _QUESTION, _ONE)[0], fresh

        self._show("regenerate after 4,000 tokens / evaluate them", pairs)

    def resume(self) -> None:
        """A chat of 4,000 tokens in a new process: model loaded to first token."""

        def pairs() -> Iterator[tuple[float, float]]:
            for _ in range(self._rounds):
                with tempfile.TemporaryDirectory() as folder:
                    with closing(self._engine(Path(folder))) as engine:
                        history = self._history(engine, 4000)
                        asked = Message("user", "Go on.")
                        fresh = _ask(engine, history, asked.text, _ONE)[0]
                        said = _text_of(engine.generate(engine.render([*history, asked]), _ONE))
                        engine.keep()
                        history += [asked, Message("assistant", said)]
                    with closing(self._engine(Path(folder))) as engine:
                        engine.info()
                        yield _ask(engine, history, _QUESTION, _ONE)[0], fresh

        self._show("first token of a resumed chat of 4,000 tokens / evaluate them", pairs)

    def document(self) -> None:
        """Another question about a document of 4,000 tokens, in a new process."""

        def pairs() -> Iterator[tuple[float, float]]:
            for _ in range(self._rounds):
                with tempfile.TemporaryDirectory() as folder:
                    with closing(self._engine(Path(folder))) as engine:
                        text = self._text(engine, 4000)
                        fresh, done = _ask(engine, [], f"{text}\n\nWhat is it about?", _ONE)
                        engine.keep(done.usage.prompt_tokens - 16)
                    with closing(self._engine(Path(folder))) as engine:
                        engine.info()
                        yield _ask(engine, [], f"{text}\n\nWho is named?", _ONE)[0], fresh

        self._show("another question about a kept document of 4,000 tokens / the first", pairs)

    def reading_ahead(self) -> None:
        """A pasted document of 2,000 tokens and ten seconds of typing, then Enter."""

        def pairs() -> Iterator[tuple[float, float]]:
            with closing(self._engine()) as engine:
                for _ in range(self._rounds):
                    pasted = self._text(engine, 2000)
                    message = f"{pasted}\n\n{_QUESTION} {_QUESTION}"
                    for length in range(len(pasted), len(message), 3):  # 12 characters a second
                        engine.read_ahead([Message("user", message[:length])])
                        time.sleep(10 * 3 / (len(message) - len(pasted)))
                    ahead = _ask(engine, [], message, _ONE)[0]
                    _ask(engine, [], "Something else.", _ONE)
                    other = f"{self._text(engine, 2000)}\n\n{_QUESTION} {_QUESTION}"
                    yield ahead, _ask(engine, [], other, _ONE)[0]

        self._show("first token, 2,000 tokens pasted and read ahead / not", pairs)

    def copying(self) -> None:
        """Decoding what stands in the prompt: drafts against none."""
        copies = f"Copy: {_PASSAGE}\nCopy: {_PASSAGE}\nCopy: {_PASSAGE[:20]}"
        self._drafts("decode, copying a text", copies, 120)

    def free_text(self) -> None:
        """Decoding what is not to be foreseen: what the search for drafts costs."""
        self._drafts("decode, free text", "The weather was", 120, temperature=1.0)

    def _drafts(self, name: str, prompt: str, count: int, temperature: float = 0.0) -> None:
        shares: list[str] = []

        def pairs() -> Iterator[tuple[float, float]]:
            with (
                closing(self._engine()) as with_drafts,
                closing(self._engine(speculate=False)) as without,
            ):
                for seed in range(self._rounds + 1):
                    sampling = Sampling(temperature=temperature, max_tokens=count, seed=seed)
                    on, off = (_continue(each, prompt, sampling) for each in (with_drafts, without))
                    if seed:  # the first round warms up
                        usage = on.usage
                        shares.append(f"{usage.accepted_tokens}/{usage.drafted_tokens}")
                        yield 1 / off.timings.decode_tps, 1 / on.timings.decode_tps

        self._show(f"{name}: speed with drafts / without", pairs)
        print(f"    accepted of drafted, each round: {', '.join(shares)}")

    def _engine(self, folder: Path | None = None, *, speculate: bool = True) -> LlamaEngine:
        plan = plan_for(self._header, Wishes(n_ctx=16384, threads=self._threads))
        place = SnapshotPlace(folder, str(self._model), 8 << 30, True) if folder else None
        setup = Setup(
            Weights(self._model, self._header, plan), snapshots=place, speculate=speculate
        )
        return LlamaEngine(setup)

    def _text(self, engine: LlamaEngine, tokens: int) -> str:
        """Words in an order of chance: so many tokens, and never twice the same."""
        words: list[str] = []
        while len(engine.raw(" ".join(words)).tokens) < tokens:
            words += [
                f"{self._random.choice(_WORDS)} {self._random.randint(0, 999)}" for _ in range(5)
            ]
        return " ".join(words)

    def _history(self, engine: LlamaEngine, tokens: int) -> list[Message]:
        text = self._text(engine, tokens // 10)
        messages = []
        for turn in range(5):
            messages.append(Message("user", f"{turn} {text}"))
            messages.append(Message("assistant", f"{self._text(engine, tokens // 10)}"))
        return messages

    def _show(self, name: str, pairs: Callable[[], Iterator[tuple[float, float]]]) -> None:
        measured = list(pairs())
        ratios = [a / b for a, b in measured]
        times = " / ".join(
            f"{statistics.median(column):.3f} s" for column in zip(*measured, strict=True)
        )
        print(
            f"{name}: {statistics.median(ratios):.3f} ({min(ratios):.3f} to {max(ratios):.3f})"
            f"   {times}",
            flush=True,
        )


def _ask(
    engine: LlamaEngine, history: Sequence[Message], text: str, sampling: Sampling
) -> tuple[float, Done]:
    """Seconds from the request to the end of a one-token answer, rendering included."""
    start = time.perf_counter()
    done = _end(engine, engine.render([*history, Message("user", text)]), sampling)
    return time.perf_counter() - start, done


def _text_of(generation: Generation) -> str:
    return "".join(value.text for value in generation if isinstance(value, Piece))


def _continue(engine: LlamaEngine, text: str, sampling: Sampling) -> Done:
    return _end(engine, engine.raw(text), sampling)


def _end(engine: LlamaEngine, prompt: Prompt, sampling: Sampling) -> Done:
    *_, done = engine.generate(prompt, sampling)
    assert isinstance(done, Done)
    return done


if __name__ == "__main__":
    sys.exit(main())
