"""The decode loop: sample, emit, evaluate; with drafts, several tokens in one batch."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Sequence
from typing import Protocol

from gemma_cli.engine.answertext import AnswerText
from gemma_cli.engine.context import Context
from gemma_cli.engine.lookup import Pace
from gemma_cli.engine.protocol import Piece, StopReason
from gemma_cli.engine.sampling import Sampler
from gemma_cli.engine.tokens import Vocabulary

# Logits of a token evaluated in a batch differ from those of the same token
# evaluated alone: llama.cpp sums attention in another order and in half
# precision (measured on the 270M: up to 1.7). Greedy decoding lets a batch
# decide only where the best token leads by more.
SURE_LEAD = 2.0


# Text is made and handed out at most so often: after a token's evaluation the
# processor's caches hold nothing of ours, so three at once cost little more than
# one, and nobody sees 100 pictures a second.
_BREATH_S = 0.033


class Drafter(Protocol):
    """Guesses the tokens of an answer before the model says them."""

    def begin(self, tokens: Sequence[int]) -> None:
        """A prompt, before its answer."""

    def push(self, token: int) -> None:
        """The token that was really chosen."""

    def propose(self, most: int) -> list[int]:
        """At most so many tokens to check in one batch."""


class Decoding:
    """One answer on a context that holds its prompt, the last token's logits ready.

    pace: None: one token at a time. greedy: sampling is a plain argmax.
    tokens: of the answer so far, the end-of-turn token not included. drafted,
    accepted: tokens guessed and evaluated in a batch, and those among them that
    were right. first: when the first token was known (perf_counter).
    """

    def __init__(
        self,
        context: Context,
        vocabulary: Vocabulary,
        sampler: Sampler,
        text: AnswerText,
        put: Callable[[Piece], None],
        drafter: Drafter | None,
        pace: Pace | None,
        *,
        greedy: bool,
    ) -> None:
        self._context, self._vocabulary = context, vocabulary
        self._sampler, self._text, self._put = sampler, text, put
        self._drafter, self._pace, self._greedy = drafter, pace, greedy
        self._held = len(context.tokens)  # tokens of the context that are certainly right
        self._draft: list[int] = []  # those after them that may be
        self._batch, self._row = 1, -1  # the last batch's size, and whose logits come next
        self._forced = 0  # tokens that a schema leaves no choice about
        self._unsaid: list[int] = []  # tokens that are not text yet
        self._said_at = 0.0
        self.tokens: list[int] = []
        self.drafted = self.accepted = 0
        self.first = 0.0

    def run(self, limit: int, on_first: Callable[[], None]) -> StopReason:
        """Decode to the end, or until `limit` tokens. The context then holds what was said.

        on_first: called when the first token is out, before it is evaluated.
        """
        try:
            while True:
                if not self._is_sure() and not self._evaluate_again():
                    return "cancelled"
                token = self._sampler.sample(self._context.pointer, self._row)
                if self._vocabulary.is_end(token):
                    return "end"
                self._say(token)
                if len(self.tokens) == 1:
                    self.first = time.perf_counter()
                    on_first()
                if self._text.stopped:
                    return "end"
                if len(self.tokens) == limit:
                    return "length"
                if not self._advance(token, limit):
                    return "cancelled"
        finally:
            self._context.rewind(self._held)
            self._flush()
            for piece in self._text.finish():
                self._put(piece)

    @property
    def cut(self) -> bool:
        """A stop string ended the answer: the last tokens are not all in its text."""
        return self._text.stopped

    def _say(self, token: int) -> None:
        self.tokens.append(token)
        self._unsaid.append(token)
        now = time.perf_counter()
        if self._text.watches or now - self._said_at >= _BREATH_S:
            self._said_at = now
            self._flush()

    def _flush(self) -> None:
        """Make text of the tokens since the last time, and hand it out."""
        pieces = [piece for token in self._unsaid for piece in self._text.push(token)]
        self._unsaid = []
        for thought, group in itertools.groupby(pieces, lambda piece: piece.thought):
            self._put(Piece("".join(piece.text for piece in group), thought))

    def _advance(self, token: int, limit: int) -> bool:
        """Have the logits after this token: from the last batch, or by a new one."""
        if self._drafter is not None:
            self._drafter.push(token)
        if self._draft and self._draft.pop(0) == token:
            self.accepted += 1
            self._held += 1
            self._row += 1
            return True
        self._context.rewind(self._held)
        self._draft = self._propose(limit)
        self.drafted += len(self._draft)
        if not self._evaluate([token, *self._draft]):
            return False
        self._held += 1
        return True

    def _propose(self, limit: int) -> list[int]:
        """What a schema forces, or else what the drafter guesses."""
        self._forced = 0  # what was forced may have been said in other tokens
        if self._pace is None:
            return []
        context = self._context
        room = context.n_ctx - len(context.tokens) - 1
        most = min(context.n_outputs - 1, room, limit - len(self.tokens) - 1)
        forced = self._sampler.forced()
        if forced:
            self._forced = self._pace.best_length(1.0, 0.0, min(len(forced), most))
            return forced[: self._forced]
        return [] if self._drafter is None else self._drafter.propose(most)

    def _evaluate(self, tokens: Sequence[int]) -> bool:
        start = time.perf_counter()
        if not self._context.evaluate(tokens, logits=len(tokens)):
            return False
        self._batch, self._row = len(tokens), 0
        if self._pace is not None:
            self._pace.measured(self._batch, time.perf_counter() - start)
        return True

    def _is_sure(self) -> bool:
        if self._forced:
            self._forced -= 1  # the schema decides, whatever the logits are
            return True
        alone = self._batch == 1 or not self._greedy
        return alone or self._context.best(self._row)[1] > SURE_LEAD

    def _evaluate_again(self) -> bool:
        """The batch cannot tell which token is best: evaluate the one before it alone."""
        last = self._context.tokens[self._held - 1]
        self._context.rewind(self._held - 1)
        self._draft = []
        return self._evaluate([last])
