"""A draft model: a small Gemma guesses what a large one of the same vocabulary will say."""

from __future__ import annotations

import time
from collections.abc import Sequence

from gemma_cli.engine.context import Context
from gemma_cli.engine.evaluation import Evaluation
from gemma_cli.engine.library import AbortFlag
from gemma_cli.engine.lookup import Pace
from gemma_cli.engine.model import Model
from gemma_cli.engine.setup import Weights

_LONGEST = 8
# A draft ends where its model is less sure: the best logit leads by less than this.
_LEAD = 1.0
_CHECKPOINTS = 64 << 20
_PRIOR = 0.7  # how often a guess is right, before any was seen
_FADE = 0.05
# When drafting does not pay, it is tried again after so many tokens.
_RETRY = 64


class DraftModel:
    """Satisfies decoding.Drafter with a model's greedy continuation."""

    def __init__(self, weights: Weights, pace: Pace) -> None:
        plan = weights.plan
        self._model = Model(weights.path, plan.gpu_layers, split=plan.split)
        try:
            self._context = Context(self._model, plan, AbortFlag())
        except BaseException:
            self._model.close()
            raise
        self._evaluation = Evaluation(self._context, self._model.sliding_window, _CHECKPOINTS, None)
        self._pace = pace
        self._tokens: list[int] = []
        self._proposed: list[int] = []
        self._right = _PRIOR
        self._seconds = 0.0  # for a drafted token, of late
        self._idle = 0
        # A large Gemma may have a few tokens more than a small one (for images):
        # after one of those there is nothing to guess from.
        self._size = self._model.vocabulary.size
        self._foreign = False

    def watch(self, abort: AbortFlag) -> None:
        self._context.watch(abort)

    def use_threads(self, threads: int) -> None:
        self._context.use_threads(threads)

    def begin(self, tokens: Sequence[int]) -> None:
        self._tokens, self._proposed, self._idle = list(tokens), [], 0
        self._foreign = max(tokens, default=0) >= self._size

    def push(self, token: int) -> None:
        self._tokens.append(token)
        self._foreign = self._foreign or token >= self._size
        if self._proposed:
            right = self._proposed.pop(0) == token
            self._right += _FADE * (right - self._right)
            if not right:
                self._proposed = []

    def propose(self, most: int) -> list[int]:
        length = min(self._length(), most, self._context.n_ctx - len(self._tokens) - 1)
        if length <= 0 or self._foreign:
            return []
        start = time.perf_counter()
        self._proposed = self._continuation(length)
        if self._proposed:
            spent = (time.perf_counter() - start) / len(self._proposed)
            self._seconds = min(spent, self._seconds * 1.1) if self._seconds else spent
        return list(self._proposed)

    def _length(self) -> int:
        """How many guesses promise most tokens per second; 0: none, for some tokens."""
        if self._idle:
            self._idle -= 1
            return 0
        best = self._pace.best_length(self._right, self._seconds, _LONGEST)
        if not best:
            self._idle = _RETRY
            self._right = max(self._right, 0.5)  # the next try must be able to pay
        return best

    def _continuation(self, length: int) -> list[int]:
        """Greedy tokens after the text so far; fewer when the model is not sure, or is stopped."""
        context, draft = self._context, list[int]()
        if not self._evaluation.reach(self._tokens).complete:
            return []
        while True:
            token, lead = context.best(-1)
            if lead < _LEAD:
                break
            draft.append(token)
            if len(draft) == length or not context.evaluate([token]):
                break
        return draft

    def close(self) -> None:
        self._context.close()
        self._model.close()
