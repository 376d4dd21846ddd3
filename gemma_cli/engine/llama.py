"""The local engine: one worker thread that loads a model and answers prompts in order.

llama.cpp runs in the worker, never in the main thread: a C call there would
delay Ctrl-C until it returns. The caller reads a queue; cancelling sets a flag
that llama.cpp polls itself, in prefill as in decode.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from gemma_cli.engine.cache import reusable
from gemma_cli.engine.protocol import (
    Done,
    EngineInfo,
    Message,
    Piece,
    Prompt,
    Sampling,
    StopReason,
    Timings,
    Usage,
    check_sampling,
)
from gemma_cli.errors import PromptTooLongError
from gemma_cli.machine.memory import Plan
from gemma_cli.models.adapter import Adapter
from gemma_cli.models.gguf import Header

if TYPE_CHECKING:
    from gemma_cli.engine.sampling import Sampler


class Answer:
    """One request and its way back: an iterator of Pieces, then Done (protocol.Generation)."""

    def __init__(self, prompt: Prompt, sampling: Sampling) -> None:
        from gemma_cli.engine.library import AbortFlag

        self.prompt = prompt
        self.sampling = sampling
        self.abort = AbortFlag()
        self._values: queue.SimpleQueue[Piece | Done | BaseException] = queue.SimpleQueue()

    def cancel(self) -> None:
        self.abort.set()

    def put(self, value: Piece | Done | BaseException) -> None:
        self._values.put(value)

    def __iter__(self) -> Iterator[Piece | Done]:
        while True:
            try:
                # Windows cannot interrupt a wait without end: look up now and then.
                value = self._values.get(timeout=0.2)
            except queue.Empty:
                continue
            if isinstance(value, BaseException):
                raise value
            yield value
            if isinstance(value, Done):
                return


class LlamaEngine:
    """A GGUF model on this machine (protocol.Engine). Returns at once; loads in its thread."""

    def __init__(
        self, path: Path, header: Header, plan: Plan, *, adapters: Sequence[Adapter] = ()
    ) -> None:
        self._path, self._header, self._plan = path, header, plan
        self._adapters = tuple(adapters)
        self._progress = 0.0
        self._closing = False
        self._failure: BaseException | None = None
        self._current: Answer | None = None
        self._ready = threading.Event()
        self._requests: queue.SimpleQueue[Answer | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._work, name="llama", daemon=True)
        self._thread.start()

    def progress(self) -> float:
        return self._progress

    def info(self) -> EngineInfo:
        self._wait()
        return self._info

    def render(self, messages: Sequence[Message], *, thinking: bool | None = None) -> Prompt:
        self._wait()
        return self._format.render(messages, thinking)

    def raw(self, text: str) -> Prompt:
        self._wait()
        return self._format.raw(text)

    def generate(self, prompt: Prompt, sampling: Sampling) -> Answer:
        """Raises PromptTooLongError before anything is evaluated, UsageError for bad sampling."""
        check_sampling(sampling)
        self._wait()
        size, n_ctx = len(prompt.tokens), self._context.n_ctx
        if size >= n_ctx:
            raise PromptTooLongError(
                f"the prompt has {size} tokens and the context window {n_ctx}",
                _larger_context(n_ctx, self._plan.n_ctx_max),
            )
        answer = Answer(prompt, sampling)
        self._requests.put(answer)
        return answer

    def close(self) -> None:
        self._closing = True
        if self._current is not None:
            self._current.cancel()
        self._requests.put(None)
        self._thread.join()

    def _wait(self) -> None:
        while not self._ready.wait(timeout=0.2):
            pass
        if self._failure is not None:
            raise self._failure

    def _work(self) -> None:
        try:
            self._load()
        except BaseException as failure:  # the caller's thread raises it
            self._failure = failure
            return
        finally:
            self._progress = 1.0
            self._ready.set()
        while (answer := self._requests.get()) is not None:
            self._current = answer
            try:
                answer.put(self._answer(answer))
            except BaseException as failure:  # the caller's thread raises it
                answer.put(failure)
            self._current = None
        self._context.close()
        self._model.close()

    def _load(self) -> None:
        from gemma_cli.engine.context import Context
        from gemma_cli.engine.library import AbortFlag
        from gemma_cli.engine.mapping import release_repacked
        from gemma_cli.engine.model import Model
        from gemma_cli.engine.prompting import PromptFormat

        start = time.perf_counter()
        self._model = Model(
            self._path,
            self._plan.gpu_layers,
            adapters=self._adapters,
            on_progress=self._on_progress,
        )
        release_repacked(self._path, self._header)
        self._format = PromptFormat(self._header, self._path, self._model.vocabulary)
        self._context = Context(self._model, self._plan, AbortFlag())
        self._load_s = time.perf_counter() - start
        self._info = EngineInfo(
            n_ctx=self._context.n_ctx,
            n_ctx_train=self._plan.n_ctx_max,
            gpu_layers=self._plan.gpu_layers,
            n_layers=self._plan.n_layers,
            threads=self._plan.threads,
            base_model=self._format.base_model,
            thinks=self._format.thinks,
        )

    def _on_progress(self, value: float) -> bool:
        self._progress = value
        return not self._closing

    def _answer(self, answer: Answer) -> Done:
        from gemma_cli.engine.sampling import Sampler

        context, prompt = self._context, answer.prompt.tokens
        start = time.perf_counter()
        context.watch(answer.abort)
        cached = reusable(context.tokens, prompt, context.pos_min(), self._model.sliding_window)
        context.rewind(cached)
        sampler = Sampler(answer.sampling, self._model.vocabulary)
        sampler.accept_prompt(prompt)
        first = start
        tokens: list[int] = []
        try:
            reason: StopReason = "cancelled"
            if context.prefill(prompt[cached:]):
                first = time.perf_counter()
                reason = self._decode(answer, sampler, tokens)
            satisfied = sampler.complete
        finally:
            sampler.close()
        end = time.perf_counter()
        return Done(
            stop_reason=reason,
            usage=Usage(len(prompt), cached, len(tokens)),
            timings=Timings(
                load_s=self._load_s,
                ttft_s=first - start,
                prompt_tps=_rate(len(prompt) - cached, first - start),
                decode_tps=_rate(len(tokens) - 1, end - first),
                total_s=end - start,
            ),
            n_ctx=context.n_ctx,
            used=len(context.tokens),
            seed=sampler.seed,
            satisfied=satisfied,
            tokens=tuple(tokens),
        )

    def _decode(self, answer: Answer, sampler: Sampler, tokens: list[int]) -> StopReason:
        """Sample and evaluate token by token; fills tokens, puts Pieces as they are certain."""
        from gemma_cli.engine.answertext import AnswerText

        context, vocabulary = self._context, self._model.vocabulary
        text = AnswerText(vocabulary, answer.prompt, answer.sampling.stop)
        room = context.n_ctx - len(context.tokens)
        limit = min(room, answer.sampling.max_tokens or room)
        reason: StopReason = "length"
        while True:
            token = sampler.sample(context.pointer)
            if vocabulary.is_end(token):
                reason = "end"
                break
            tokens.append(token)
            for piece in text.push(token):
                answer.put(piece)
            if text.stopped:
                return "end"
            if len(tokens) == limit:
                break
            if not context.decode(token):
                reason = "cancelled"
                break
        for piece in text.finish():
            answer.put(piece)
        return reason


def _rate(tokens: int, seconds: float) -> float:
    return tokens / seconds if tokens > 0 and seconds > 0 else 0.0


def _larger_context(n_ctx: int, n_ctx_max: int) -> str:
    if n_ctx < n_ctx_max:
        return f"give it a larger one: --ctx max (this model: {n_ctx_max})"
    return "shorten the prompt: this model's context cannot be larger"
