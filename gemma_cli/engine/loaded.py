"""A loaded model at work: answers, reads ahead, keeps. One thread at a time."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace

from gemma_cli.engine.allocating import allocate
from gemma_cli.engine.answertext import AnswerText
from gemma_cli.engine.cache import common_prefix
from gemma_cli.engine.decoding import Decoding, Drafter
from gemma_cli.engine.draft import DraftModel
from gemma_cli.engine.evaluation import Evaluation
from gemma_cli.engine.headroom import NoMemoryError
from gemma_cli.engine.jobs import Answer, ReadAhead
from gemma_cli.engine.library import AbortFlag, library_identity
from gemma_cli.engine.lookup import Pace, PromptLookup
from gemma_cli.engine.prompting import PromptFormat
from gemma_cli.engine.protocol import Done, EngineInfo, StopReason, Timings, Usage
from gemma_cli.engine.sampling import Sampler
from gemma_cli.engine.setup import Setup, Weights
from gemma_cli.engine.snapshots import Snapshots
from gemma_cli.machine.cpu import OtherLoad


class Loaded:
    """A model, its context, and all that makes an answer of a prompt."""

    def __init__(self, setup: Setup, on_progress: Callable[[float], bool]) -> None:
        """Loads; on_progress as in Model. Raises ModelFileError, EngineError, Cancelled."""
        start = time.perf_counter()
        self._others = OtherLoad() if setup.adapt_threads else None
        weights = setup.weights
        snapshots = _snapshots(setup)
        allocated = allocate(setup, on_progress)
        self.plan = plan = allocated.plan
        self._threads = plan.threads
        self._model, self._context = allocated.model, allocated.context
        self._pace = Pace()
        with ExitStack() as undo:  # in a chat the program goes on, with another model
            undo.callback(self._model.close)
            undo.callback(self._context.close)
            self.format = PromptFormat(weights.header, weights.path, self._model.vocabulary)
            self._draft, without = _draft_model(setup.draft, self._pace)
            undo.pop_all()
        self._evaluation = Evaluation(
            self._context, self._model.sliding_window, plan.checkpoint_bytes, snapshots
        )
        self._drafter: Drafter | None = self._draft
        self._speculate = True if setup.draft else setup.speculate
        if self._speculate is not False and self._draft is None:
            self._drafter = PromptLookup(self._pace)
        self._spoken = 0  # tokens that the context held after the last answer
        self._load_s = time.perf_counter() - start
        self.info = EngineInfo(
            n_ctx=self._context.n_ctx,
            n_ctx_train=plan.n_ctx_max,
            gpu_layers=plan.gpu_layers,
            n_layers=plan.n_layers,
            threads=plan.threads,
            base_model=self.format.base_model,
            warnings=(*plan.notes, *allocated.warnings, *without),
            planned_threads=plan.threads,
            thinks=self.format.thinks,
        )

    def answer(self, answer: Answer) -> Done:
        """Evaluate what is new of the prompt, decode; Pieces go out as they are certain."""
        context, prompt = self._context, answer.prompt
        start = time.perf_counter()
        self._watch(answer.abort)
        self._mind_others()
        # Before the prompt is evaluated: what it builds in a thread is then ready after it.
        sampler = Sampler(answer.sampling, self._model.vocabulary)
        try:
            reached = self._evaluation.reach(
                prompt.tokens, stable=prompt.stable, tell=answer.note_evaluated
            )
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
        self._spoken = len(context.tokens)
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

    def after_answer(self) -> None:
        """What whoever waits for the answer need not wait for."""
        self._evaluation.mark()

    def certain(self, ahead: ReadAhead) -> tuple[int, ...]:
        """Tokens that can be evaluated of a turn that is still being typed; may be none."""
        tokens = self.format.certain(ahead.messages, ahead.thinking)
        known = common_prefix(self._context.tokens, tokens) == len(tokens)
        return () if known or len(tokens) >= self._context.n_ctx else tokens

    def read_ahead(self, ahead: ReadAhead, proceed: Callable[[], bool]) -> None:
        """Evaluate ahead.tokens, leaving a core to whoever types."""
        self._watch(ahead.abort)
        self._context.leave_a_core(True)
        try:
            self._evaluation.reach(ahead.tokens, logits=False, proceed=proceed)
        finally:
            self._context.leave_a_core(False)

    def keep(self, n_past: int | None) -> None:
        """Write a snapshot; None: of what was said so far. Raises OSError."""
        if n_past is None:
            self._evaluation.keep(self._spoken or None, continues=True)
        else:
            self._evaluation.keep(n_past)

    def forget(self) -> None:
        self._evaluation.forget()
        self._spoken = 0

    def close(self) -> None:
        if self._draft is not None:
            self._draft.close()
        self._context.close()
        self._model.close()

    def _watch(self, abort: AbortFlag) -> None:
        self._context.watch(abort)
        if self._draft is not None:
            self._draft.watch(abort)

    def _mind_others(self) -> None:
        """Take as many threads as there are cores that nobody else keeps busy."""
        advice = self._others.advise(self._threads) if self._others else None
        if advice is None:
            return
        self._context.use_threads(advice)
        self.info = replace(self.info, threads=advice)
        if self._draft is not None:
            self._draft.use_threads(advice)

    def _after_first_token(self) -> None:
        """The context holds the prompt."""
        self._evaluation.mark()
        if self._drafter is not None:
            self._drafter.begin(self._context.tokens)

    def _decoding(self, answer: Answer, sampler: Sampler) -> Decoding:
        vocabulary, sampling = self._model.vocabulary, answer.sampling
        # A batch rounds otherwise than its tokens alone, and when one pays is a matter of time.
        batches = self._speculate if self._speculate is not None else not sampling.reproducible
        # Whether a batch may decide is seen from the logits as they are.
        plain = not (sampling.penalizes or sampling.logit_bias)
        drafter = self._drafter if batches and (plain or not sampling.greedy) else None
        return Decoding(
            self._context,
            vocabulary,
            sampler,
            AnswerText(vocabulary, answer.prompt, sampling.stop),
            answer.put,
            drafter,
            self._pace if batches else None,
            greedy=sampling.greedy,
        )


def _draft_model(weights: Weights | None, pace: Pace) -> tuple[DraftModel | None, tuple[str, ...]]:
    """The draft model, or what to say where there is no memory for it: it only saves time."""
    if weights is None:
        return None, ()
    try:
        return DraftModel(weights, pace), ()
    except NoMemoryError as error:
        return None, (f"{error.message}; going on without this draft model",)


def _snapshots(setup: Setup) -> Snapshots | None:
    place = setup.snapshots
    if place is None:
        return None
    identity = {
        "model": place.model,
        "llama.cpp": library_identity(),
        "kv_type": setup.weights.plan.kv_type,
        "adapters": [adapter.identity for adapter in setup.adapters],
    }
    snapshots = Snapshots(place.folder, identity, place.limit)
    if place.expected:
        snapshots.read_early()
    return snapshots


def _rate(tokens: int, seconds: float) -> float:
    return tokens / seconds if tokens > 0 and seconds > 0 else 0.0
