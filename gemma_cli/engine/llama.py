"""The local engine: one worker thread that loads a model and does its work in order.

llama.cpp runs in the worker, never in the main thread: a C call there would
delay Ctrl-C until it returns. The caller reads a queue; cancelling sets a flag
that llama.cpp polls itself, in prefill as in decode. Answers come first; what
will probably be asked next is evaluated while nobody waits.
"""

from __future__ import annotations

import queue
import threading
import time
from collections import deque
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gemma_cli.engine.cache import common_prefix
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
from gemma_cli.errors import GemmaError, PromptTooLongError
from gemma_cli.machine.memory import Plan
from gemma_cli.models.adapter import Adapter
from gemma_cli.models.gguf import Header

if TYPE_CHECKING:
    from gemma_cli.engine.decoding import Decoding
    from gemma_cli.engine.library import AbortFlag
    from gemma_cli.engine.sampling import Sampler
    from gemma_cli.engine.snapshots import SnapshotPlace

# A person who types is given so long to go on before what they typed is evaluated.
_TYPING_PAUSE_S = 0.15


class Answer:
    """One request and its way back: an iterator of Pieces, then Done (protocol.Generation)."""

    def __init__(self, prompt: Prompt, sampling: Sampling) -> None:
        from gemma_cli.engine.library import AbortFlag

        self.prompt = prompt
        self.sampling = sampling
        self.abort = AbortFlag()
        self.before: AbortFlag | None = None  # of the work that must end first
        self._values: queue.SimpleQueue[Piece | Done | BaseException] = queue.SimpleQueue()

    def cancel(self) -> None:
        self.abort.set()
        if self.before is not None:
            self.before.set()

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


class _ReadAhead:
    """What is being typed, to be evaluated while there is time."""

    def __init__(self, messages: Sequence[Message], thinking: bool | None) -> None:
        from gemma_cli.engine.library import AbortFlag

        self.messages, self.thinking = tuple(messages), thinking
        self.since = time.monotonic()
        self.abort = AbortFlag()
        self.tokens: tuple[int, ...] = ()  # known once it has begun

    def is_part_of(self, prompt: Sequence[int]) -> bool:
        return bool(self.tokens) and tuple(prompt[: len(self.tokens)]) == self.tokens


class _Keep:
    """A wish for a snapshot of the first n_past tokens, or of all."""

    def __init__(self, n_past: int | None) -> None:
        self.n_past = n_past
        self.done = threading.Event()
        self.failure: BaseException | None = None


class LlamaEngine:
    """A GGUF model on this machine (protocol.Engine). Returns at once; loads in its thread.

    speculate: check what probably follows in batches (engine/lookup.py).
    """

    def __init__(
        self,
        path: Path,
        header: Header,
        plan: Plan,
        *,
        adapters: Sequence[Adapter] = (),
        snapshots: SnapshotPlace | None = None,
        speculate: bool = True,
    ) -> None:
        self._path, self._header, self._plan = path, header, plan
        self._adapters = tuple(adapters)
        self._place, self._speculate = snapshots, speculate
        self._progress = 0.0
        self._closing = False
        self._failure: BaseException | None = None
        self._ready = threading.Event()
        self._wake = threading.Condition()
        # Below _wake: what is to be done, and what is being done.
        self._answers: deque[Answer] = deque()
        self._keeps: deque[_Keep] = deque()
        self._ahead: _ReadAhead | None = None
        self._current: Answer | _ReadAhead | None = None
        self._spoken = 0  # tokens that the context held after the last answer
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
        with self._wake:
            ahead = self._current
            if isinstance(ahead, _ReadAhead):
                if ahead.is_part_of(prompt.tokens):
                    answer.before = ahead.abort  # its batch is of use: let it end
                else:
                    ahead.abort.set()
            self._ahead = None
            self._answers.append(answer)
            self._wake.notify()
        return answer

    def read_ahead(self, messages: Sequence[Message], *, thinking: bool | None = None) -> None:
        with self._wake:
            self._ahead = _ReadAhead(messages, thinking)
            self._wake.notify()

    def keep(self, n_past: int | None = None) -> None:
        """Raises OSError when the snapshot cannot be written."""
        self._wait()
        wish = _Keep(n_past)
        with self._wake:
            self._ahead = None
            self._stop_reading_ahead()
            self._keeps.append(wish)
            self._wake.notify()
        while not wish.done.wait(timeout=0.2):
            pass
        if wish.failure is not None:
            raise wish.failure

    def close(self) -> None:
        with self._wake:
            self._closing = True
            self._stop_reading_ahead()
            for answer in self._answers:
                answer.cancel()
            if isinstance(self._current, Answer):
                self._current.cancel()
            self._wake.notify()
        self._thread.join()

    def _stop_reading_ahead(self) -> None:
        if isinstance(self._current, _ReadAhead):
            self._current.abort.set()

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
        while (job := self._next()) is not None:
            if isinstance(job, Answer):
                self._answer_or_fail(job)
            elif isinstance(job, _Keep):
                self._keep_or_fail(job)
            else:
                self._read_ahead(job)
            with self._wake:
                self._current = None
        self._context.close()
        self._model.close()

    def _next(self) -> Answer | _Keep | _ReadAhead | None:
        """The next thing to do; None when closing and nothing is left to do."""
        with self._wake:
            while True:
                if self._answers:
                    self._current = self._answers.popleft()
                    return self._current
                if self._keeps:
                    return self._keeps.popleft()
                if self._closing:
                    return None
                pause = None
                if self._ahead is not None:
                    pause = self._ahead.since + _TYPING_PAUSE_S - time.monotonic()
                    if pause <= 0:
                        self._current, self._ahead = self._ahead, None
                        return self._current
                self._wake.wait(pause)

    def _load(self) -> None:
        from gemma_cli.engine.context import Context
        from gemma_cli.engine.evaluation import Evaluation
        from gemma_cli.engine.library import AbortFlag
        from gemma_cli.engine.lookup import Pace, PromptLookup
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
        self._evaluation = Evaluation(
            self._context,
            self._model.sliding_window,
            self._plan.checkpoint_bytes,
            self._snapshots(),
        )
        self._pace = Pace()
        self._drafter = PromptLookup(self._pace) if self._speculate else None
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

    def _snapshots(self) -> Any:
        from gemma_cli.engine.library import library_identity
        from gemma_cli.engine.snapshots import Snapshots

        if self._place is None:
            return None
        identity = {
            "model": self._place.model,
            "llama.cpp": library_identity(),
            "kv_type": self._plan.kv_type,
            "adapters": [adapter.identity for adapter in self._adapters],
        }
        return Snapshots(self._place.folder, identity, self._place.limit)

    def _on_progress(self, value: float) -> bool:
        self._progress = value
        return not self._closing

    def _read_ahead(self, ahead: _ReadAhead) -> None:
        """Evaluate what is certain of a turn that is still being typed.

        Nobody waits for it and nobody would know what an error is about: what
        fails here fails again, and is told, when the message is sent.
        """
        try:
            tokens = self._format.certain(ahead.messages, ahead.thinking)
        except GemmaError:
            return
        if len(tokens) >= self._context.n_ctx:
            return
        with self._wake:
            if self._answers:
                return
            ahead.tokens = tokens
        if common_prefix(self._context.tokens, tokens) == len(tokens):
            return
        self._context.watch(ahead.abort)
        self._context.leave_a_core(True)
        try:
            self._evaluation.reach(tokens, logits=False, proceed=self._is_idle)
        except GemmaError:
            return
        finally:
            self._context.leave_a_core(False)

    def _is_idle(self) -> bool:
        return not (self._answers or self._keeps or self._ahead or self._closing)

    def _keep_or_fail(self, wish: _Keep) -> None:
        try:
            if wish.n_past is None:
                self._evaluation.keep(self._spoken or None, continues=True)
            else:
                self._evaluation.keep(wish.n_past)
        except BaseException as failure:  # the caller's thread raises it
            wish.failure = failure
        wish.done.set()

    def _answer_or_fail(self, answer: Answer) -> None:
        try:
            answer.put(self._answer(answer))
        except BaseException as failure:  # the caller's thread raises it
            answer.put(failure)
        else:
            self._evaluation.mark()
            self._spoken = len(self._context.tokens)

    def _answer(self, answer: Answer) -> Done:
        from gemma_cli.engine.sampling import Sampler

        context, prompt = self._context, answer.prompt
        start = time.perf_counter()
        context.watch(answer.abort)
        # Before the prompt is evaluated: what it builds in a thread is then ready after it.
        sampler = Sampler(answer.sampling, self._model.vocabulary)
        try:
            reached = self._evaluation.reach(prompt.tokens, stable=prompt.stable)
            sampler.accept_prompt(prompt.tokens)
            decoding = self._decoding(answer, sampler)
            first = start
            reason: StopReason = "cancelled"
            if reached.complete:
                room = context.n_ctx - len(context.tokens)
                limit = min(room, answer.sampling.max_tokens or room)
                reason = decoding.run(limit, self._after_first_token)
                first = decoding.first or time.perf_counter()
            satisfied = sampler.complete and not decoding.cut
        finally:
            sampler.close()
        end = time.perf_counter()
        tokens = decoding.tokens
        return Done(
            stop_reason=reason,
            usage=Usage(
                len(prompt.tokens),
                reached.cached,
                len(tokens),
                drafted_tokens=decoding.drafted,
                accepted_tokens=decoding.accepted,
            ),
            timings=Timings(
                load_s=self._load_s,
                ttft_s=first - start,
                prompt_tps=_rate(len(prompt.tokens) - reached.cached, first - start),
                decode_tps=_rate(len(tokens) - 1, end - first),
                total_s=end - start,
            ),
            n_ctx=context.n_ctx,
            used=len(context.tokens),
            seed=sampler.seed,
            satisfied=satisfied,
            tokens=tuple(tokens),
        )

    def _after_first_token(self) -> None:
        """What the first token need not wait for; the context holds the prompt."""
        self._evaluation.mark()
        if self._drafter is not None:
            self._drafter.begin(self._context.tokens)

    def _decoding(self, answer: Answer, sampler: Sampler) -> Decoding:
        from gemma_cli.engine.answertext import AnswerText
        from gemma_cli.engine.decoding import Decoding

        vocabulary = self._model.vocabulary
        return Decoding(
            self._context,
            vocabulary,
            sampler,
            AnswerText(vocabulary, answer.prompt, answer.sampling.stop),
            answer.put,
            self._drafter,
            self._pace,
            greedy=answer.sampling.temperature == 0,
        )


def _rate(tokens: int, seconds: float) -> float:
    return tokens / seconds if tokens > 0 and seconds > 0 else 0.0


def _larger_context(n_ctx: int, n_ctx_max: int) -> str:
    if n_ctx < n_ctx_max:
        return f"give it a larger one: --ctx max (this model: {n_ctx_max})"
    return "shorten the prompt: this model's context cannot be larger"
