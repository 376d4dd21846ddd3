"""Prompt-lookup speculation: what was said before in this context is probably said again.

A draft costs no model: the tokens that once followed the last few are guessed
to follow again (Saxena, "Prompt Lookup Decoding", 2023). Whether a draft is
worth its batch is learnt without drafting: every guess is compared with the
token that really came, and evaluation times are measured.
"""

from __future__ import annotations

from collections.abc import Sequence

from gemma_cli.engine.cache import common_prefix

_NGRAM = 3
# Agreements in a row so far -> how likely is one more? Counted in these classes.
_RUNS = (1, 2, 4, 8, 16)
_PRIOR_HITS = (0.3, 0.4, 0.5, 0.6, 0.7, 0.8)
_PRIOR_WEIGHT = 8.0
_MEMORY = 0.98  # older observations fade: a text changes its nature
_LENGTHS = (15, 11, 7, 3, 1)
_GAIN = 1.1  # a draft must promise this much more tokens per second


class PromptLookup:
    """Guesses the next tokens of one growing sequence."""

    def __init__(self, pace: Pace) -> None:
        self._pace = pace
        self._tokens: list[int] = []
        self._seen: dict[tuple[int, ...], int] = {}
        self._next: int | None = None  # position of the guess for the next token
        self._run = 0

    def begin(self, tokens: Sequence[int]) -> None:
        """A prompt, before its answer. What it shares with the sequence so far stays known."""
        self._next, self._run = None, 0
        known = len(self._tokens)
        if common_prefix(self._tokens, tokens) < known:
            self._tokens, self._seen, known = [], {}, 0
        self._tokens += tokens[known:]
        start = max(0, known - _NGRAM + 1)
        grams = zip(*(self._tokens[start + i :] for i in range(_NGRAM)), strict=False)
        for at, gram in enumerate(grams, start + _NGRAM):
            self._seen[gram] = at

    def push(self, token: int) -> None:
        """The token that really came."""
        tokens = self._tokens
        if self._next is not None:
            hit = tokens[self._next] == token
            self._pace.guessed(self._run, hit)
            self._next, self._run = (self._next + 1, self._run + 1) if hit else (None, 0)
        tokens.append(token)
        gram = tuple(tokens[-_NGRAM:])
        if self._next is None:
            self._next = self._seen.get(gram)
        self._seen[gram] = len(tokens)

    def propose(self, most: int) -> list[int]:
        """A draft of at most so many tokens; empty when none is worth it."""
        if self._next is None:
            return []
        length = self._pace.length(self._run, most)
        # A guess may run into itself: in "la la la" the draft continues its own beginning.
        draft: list[int] = []
        known = len(self._tokens)
        for at in range(self._next, self._next + length):
            draft.append(self._tokens[at] if at < known else draft[at - known])
        return draft


class Pace:
    """Decides how many drafted tokens pay, by what was seen so far with this model."""

    def __init__(self) -> None:
        self._hits = [hits * _PRIOR_WEIGHT for hits in _PRIOR_HITS]
        self._trials = [_PRIOR_WEIGHT] * len(_PRIOR_HITS)
        self._seconds: dict[int, float] = {}

    def guessed(self, run: int, hit: bool) -> None:
        """A guess after `run` agreements in a row was right or wrong."""
        index = _class(run)
        self._hits[index] = self._hits[index] * _MEMORY + hit
        self._trials[index] = self._trials[index] * _MEMORY + 1

    def measured(self, batch: int, seconds: float) -> None:
        """Evaluating so many tokens at once, each with logits, took so long."""
        before = self._seconds.get(batch)
        # The quickest of late: another program's turn says nothing about ours.
        self._seconds[batch] = seconds if before is None else min(seconds, before * 1.02)

    def length(self, run: int, most: int) -> int:
        """The draft length that promises most tokens per second; 0: none beats plain decoding."""
        if 1 not in self._seconds or not most:
            return 0
        best, rate = 0, _GAIN / self._estimate(1)
        for length in _LENGTHS:
            if length <= most:
                promised = self._expected(run, length) / self._estimate(1 + length)
                if promised > rate:
                    best, rate = length, promised
        return best

    def best_length(self, right: float, seconds: float, most: int) -> int:
        """The same for guesses that are each right so often and each cost so many seconds."""
        if 1 not in self._seconds:
            return 0
        best, rate = 0, _GAIN / self._estimate(1)
        expected = likely = 1.0
        for length in range(1, most + 1):
            likely *= right
            expected += likely
            promised = expected / (self._estimate(1 + length) + length * seconds)
            if promised > rate:
                best, rate = length, promised
        return best

    def _expected(self, run: int, length: int) -> float:
        """Tokens that a draft of that length yields on average, the sampled one included."""
        expected = likely = 1.0
        for after in range(run, run + length):
            index = _class(after)
            likely *= self._hits[index] / self._trials[index]
            expected += likely
        return expected

    def _estimate(self, batch: int) -> float:
        """Seconds for a batch: measured, or between and beyond what was measured."""
        if batch in self._seconds:
            return self._seconds[batch]
        one = self._seconds[1]
        known = max((size for size in self._seconds if size > 1), default=0)
        if not known:
            return one * (1 + batch / 4)
        return one + (self._seconds[known] - one) * (batch - 1) / (known - 1)


def _class(run: int) -> int:
    return next((index for index, limit in enumerate(_RUNS) if run < limit), len(_RUNS))
