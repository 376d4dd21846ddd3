"""The local engine: one worker thread that loads a model and does its work in order.

llama.cpp runs in the worker, never in the main thread: a C call there would
delay Ctrl-C until it returns. The caller reads a queue; cancelling sets a flag
that llama.cpp polls itself, in prefill as in decode. Answers come first; what
will probably be asked next is evaluated while nobody waits.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from typing import TYPE_CHECKING

from gemma_cli.engine.jobs import Answer, Errand, ReadAhead
from gemma_cli.engine.protocol import EngineInfo, Message, Prompt, Sampling, check_sampling
from gemma_cli.errors import EngineError, GemmaError, PromptTooLongError

if TYPE_CHECKING:
    from gemma_cli.engine.loaded import Loaded
    from gemma_cli.engine.setup import Setup
    from gemma_cli.machine.memory import Plan

# A person who types is given so long to go on before what they typed is evaluated.
_TYPING_PAUSE_S = 0.15
_GONE = "the model is no longer loaded"
_NO_MEMORY = "shorten the prompt, or let a larger context take less memory: --kv-type q8_0"


class LlamaEngine:
    """A GGUF model on this machine (protocol.Engine). Returns at once; loads in its thread."""

    def __init__(self, setup: Setup) -> None:
        self._setup = setup
        self._progress = 0.0
        self._closing = False
        self._failure: BaseException | None = None
        self._loaded: Loaded  # once _ready is set without a failure
        self._ready = threading.Event()
        self._format = threading.Lock()  # held while a caller's thread uses the vocabulary
        self._closed = False  # below _format
        self._wake = threading.Condition()
        # Below _wake: what is to be done, and what is being done.
        self._jobs: deque[Answer | Errand] = deque()
        self._ahead: ReadAhead | None = None
        self._current: Answer | Errand | ReadAhead | None = None
        self._thread = threading.Thread(target=self._work, name="llama", daemon=True)
        self._thread.start()

    def progress(self) -> float:
        return self._progress

    def info(self) -> EngineInfo:
        self._wait()
        return self._loaded.info

    def plan(self) -> Plan:
        """How it was loaded in the end."""
        self._wait()
        return self._loaded.plan

    def render(self, messages: Sequence[Message], *, thinking: bool | None = None) -> Prompt:
        self._wait()
        with self._format:
            return self._open().format.render(messages, thinking)

    def raw(self, text: str) -> Prompt:
        self._wait()
        with self._format:
            return self._open().format.raw(text)

    def generate(self, prompt: Prompt, sampling: Sampling) -> Answer:
        """Raises PromptTooLongError before anything is evaluated, UsageError for bad sampling."""
        check_sampling(sampling)
        self._wait()
        size, n_ctx = len(prompt.tokens), self._loaded.info.n_ctx
        if size >= n_ctx:
            no_memory = n_ctx < self._setup.weights.plan.n_ctx
            raise PromptTooLongError(
                f"the prompt has {size} tokens and the context window {n_ctx}",
                _NO_MEMORY if no_memory else _larger_context(n_ctx, self._loaded.info.n_ctx_train),
            )
        answer = Answer(prompt, sampling)
        with self._wake:
            ahead = self._current
            if isinstance(ahead, ReadAhead):
                if ahead.is_part_of(prompt.tokens):
                    answer.before = ahead.abort  # its batch is of use: let it end
                else:
                    ahead.abort.set()
            self._push(answer)
        return answer

    def read_ahead(self, messages: Sequence[Message], *, thinking: bool | None = None) -> None:
        with self._wake:
            self._ahead = ReadAhead(messages, thinking)
            self._wake.notify()

    def keep(self, n_past: int | None = None) -> None:
        """Raises OSError when the snapshot cannot be written."""
        self._wait()
        self._send(Errand(lambda loaded: loaded.keep(n_past))).wait()

    def forget(self) -> None:
        """Drop what was evaluated, so that nothing of it can be kept later. Returns at once."""
        with self._wake:
            if self._failure is None and not self._closing:  # else nothing is held
                self._send(Errand(lambda loaded: loaded.forget()))

    def close(self) -> None:
        with self._wake:
            self._closing = True
            self._stop_reading_ahead()
            for job in self._jobs:
                if isinstance(job, Answer):
                    job.cancel()
            if isinstance(self._current, Answer):
                self._current.cancel()
            self._wake.notify()
        self._thread.join()

    def _send(self, errand: Errand) -> Errand:
        with self._wake:
            self._stop_reading_ahead()
            self._push(errand)
        return errand

    def _push(self, job: Answer | Errand) -> None:
        """Below _wake. Raises what ended the worker: nobody would do the job."""
        if self._failure is not None:
            raise self._failure
        if self._closing:
            raise EngineError(_GONE)
        self._ahead = None
        self._jobs.append(job)
        self._wake.notify()

    def _stop_reading_ahead(self) -> None:
        if isinstance(self._current, ReadAhead):
            self._current.abort.set()

    def _open(self) -> Loaded:
        """Below _format, so that it stays loaded."""
        if self._closed:
            raise EngineError(_GONE)
        return self._loaded

    def _wait(self) -> None:
        while not self._ready.wait(timeout=0.2):
            pass
        if self._failure is not None:
            raise self._failure

    def _work(self) -> None:
        try:
            from gemma_cli.engine.loaded import Loaded

            self._loaded = Loaded(self._setup, self._on_progress)
        except BaseException as failure:  # the caller's thread raises it
            self._failure = failure
            return
        finally:
            self._progress = 1.0
            self._ready.set()
        try:
            while (job := self._next()) is not None:
                self._do(job)
                with self._wake:
                    self._current = None
        except BaseException as failure:  # of work that nobody waits for: the next caller raises it
            with self._wake:
                self._failure = failure
                for left in self._jobs:
                    left.fail(failure)
                self._jobs.clear()
        with self._format:
            self._closed = True
            self._loaded.close()

    def _do(self, job: Answer | Errand | ReadAhead) -> None:
        if isinstance(job, Answer):
            self._answer(job)
        elif isinstance(job, Errand):
            job.run(self._loaded)
        else:
            self._read_ahead(job)

    def _next(self) -> Answer | Errand | ReadAhead | None:
        """The next thing to do; None when closing and nothing is left to do."""
        with self._wake:
            while True:
                if self._jobs:
                    self._current = self._jobs.popleft()
                    return self._current
                if self._closing:
                    return None
                pause = None
                if self._ahead is not None:
                    pause = self._ahead.since + _TYPING_PAUSE_S - time.monotonic()
                    if pause <= 0:
                        self._current, self._ahead = self._ahead, None
                        return self._current
                self._wake.wait(pause)

    def _on_progress(self, value: float) -> bool:
        self._progress = value
        return not self._closing

    def _read_ahead(self, ahead: ReadAhead) -> None:
        """Nobody waits for it, nor would know what an error is about.

        What fails here fails again, and is told, when the message is sent.
        """
        with suppress(GemmaError):
            tokens = self._loaded.certain(ahead)
            with self._wake:
                if self._jobs or not tokens:
                    return
                ahead.tokens = tokens
            self._loaded.read_ahead(ahead, self._is_idle)

    def _is_idle(self) -> bool:
        return not (self._jobs or self._ahead or self._closing)

    def _answer(self, answer: Answer) -> None:
        try:
            answer.put(self._loaded.answer(answer))
        except BaseException as failure:  # the caller's thread raises it
            answer.fail(failure)
        else:
            self._loaded.after_answer()


def _larger_context(n_ctx: int, n_ctx_max: int) -> str:
    if n_ctx < n_ctx_max:
        return f"give it a larger one: --ctx max (this model: {n_ctx_max})"
    return "shorten the prompt: this model's context cannot be larger"
