"""An Engine (engine/protocol.py) that answers with given texts, a word at a time.

A token is a word. Loading and every token can be made to take time, or to wait for a file.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from gemma_cli.engine.protocol import (
    Done,
    EngineInfo,
    Generation,
    Message,
    Piece,
    Prompt,
    Sampling,
    Segment,
    StopReason,
    Timings,
    Usage,
)
from gemma_cli.errors import GemmaError

Word = str | Piece | GemmaError | Path


class FakeGeneration:
    """words: an error is raised; at a path the answer stands still until that file is there."""

    def __init__(
        self,
        words: Sequence[Word],
        prompt: Prompt,
        n_ctx: int,
        token_s: float,
        cap: int,
    ) -> None:
        self._words, self._prompt, self._n_ctx = words, prompt, n_ctx
        self._token_s, self._cap = token_s, cap
        self._cancelled = threading.Event()
        self.cancels = 0

    def cancel(self) -> None:
        self.cancels += 1
        self._cancelled.set()

    def prefill(self) -> float:
        return 1.0

    def __iter__(self) -> Iterator[Piece | Done]:
        said = 0
        reason: StopReason = "end"
        for word in self._words:
            if said == self._cap:
                reason = "length"
                break
            self._pause(word)
            if self._cancelled.is_set():
                reason = "cancelled"
                break
            if isinstance(word, GemmaError):
                raise word
            if isinstance(word, Path):
                continue
            said += 1
            yield Piece(word) if isinstance(word, str) else word
        size = len(self._prompt.tokens)
        timings = Timings(0.5, 0.01, 1000.0, 50.0, 0.01 + said / 50)
        yield Done(reason, Usage(size, 0, said), timings, self._n_ctx, size + said, 7)

    def _pause(self, word: Word) -> None:
        """In short steps: a signal is noticed between them."""
        until = time.monotonic() + self._token_s
        while not self._cancelled.is_set():
            left = until - time.monotonic()
            if left <= 0 and not (isinstance(word, Path) and not word.exists()):
                return
            self._cancelled.wait(min(max(left, 0.002), 0.02))


class FakeEngine:
    """answers: one for each question, then an echo of the question.

    load_gate: a file; the model is loaded once it is there.
    """

    def __init__(
        self,
        answers: Sequence[str | Sequence[Word]] = (),
        *,
        n_ctx: int = 4096,
        load_s: float = 0.0,
        load_gate: str | None = None,
        token_s: float = 0.0,
        failure: GemmaError | None = None,
        warnings: tuple[str, ...] = (),
        thinks: bool = False,
    ) -> None:
        self._answers = list(answers)
        self._n_ctx, self._token_s = n_ctx, token_s
        self._failure, self._warnings = failure, warnings
        self._thinks = thinks
        self._load_s = load_s
        self._load_gate = Path(load_gate) if load_gate else None
        self._started = time.monotonic()
        self.asked: list[tuple[Message, ...]] = []
        self.thinking: list[bool | None] = []
        self.samplings: list[Sampling] = []
        self.generations: list[FakeGeneration] = []
        self.typed: list[tuple[tuple[Message, ...], bool | None]] = []
        self.kept: list[int | None] = []
        self.closed = False
        self._rendered: dict[Prompt, tuple[tuple[Message, ...], bool | None]] = {}

    def progress(self) -> float:
        if self._load_gate is not None:
            return 1.0 if self._load_gate.exists() else 0.5
        if not self._load_s:
            return 1.0
        return min(1.0, (time.monotonic() - self._started) / self._load_s)

    def info(self) -> EngineInfo:
        while self.progress() < 1.0:
            time.sleep(0.01)
        if self._failure is not None:
            raise self._failure
        return EngineInfo(self._n_ctx, 32768, 0, 18, 1, False, self._warnings, self._thinks)

    def render(self, messages: Sequence[Message], *, thinking: bool | None = None) -> Prompt:
        self.info()
        text = "\n".join(f"{message.role}: {message.text}" for message in messages)
        continues = messages[-1].role == "assistant"
        words = tuple(range(len(text.split())))
        return self._remembered(
            Prompt((Segment(text, False),), words, continues=continues), tuple(messages), thinking
        )

    def raw(self, text: str) -> Prompt:
        self.info()
        prompt = Prompt((Segment(text, False),), tuple(range(len(text.split()))))
        return self._remembered(prompt, (Message("user", text),), None)

    def _remembered(
        self, prompt: Prompt, messages: tuple[Message, ...], thinking: bool | None
    ) -> Prompt:
        self._rendered[prompt] = (messages, thinking)
        return prompt

    def generate(self, prompt: Prompt, sampling: Sampling) -> Generation:
        messages, thinking = self._rendered[prompt]
        self.asked.append(messages)
        self.thinking.append(thinking)
        self.samplings.append(sampling)
        answer = self._answers.pop(0) if self._answers else f"You said: {messages[-1].text}"
        words = _words(answer) if isinstance(answer, str) else list(answer)
        room = self._n_ctx - len(prompt.tokens)
        cap = min(sampling.max_tokens or room, room)
        generation = FakeGeneration(words, prompt, self._n_ctx, self._token_s, cap)
        self.generations.append(generation)
        return generation

    def read_ahead(self, messages: Sequence[Message], *, thinking: bool | None = None) -> None:
        self.typed.append((tuple(messages), thinking))

    def keep(self, n_past: int | None = None) -> None:
        self.kept.append(n_past)

    def close(self) -> None:
        self.closed = True


def _words(text: str) -> list[Word]:
    """Words with the white space that precedes them: their join is the text."""
    words: list[Word] = []
    start = 0
    for end in range(1, len(text)):
        if text[end].isspace() and not text[end - 1].isspace():
            words.append(text[start:end])
            start = end
    words.append(text[start:])
    return words
