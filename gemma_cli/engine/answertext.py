"""The tokens of an answer to Pieces."""

from __future__ import annotations

from collections.abc import Sequence

from gemma_cli.engine.protocol import Piece, Prompt
from gemma_cli.engine.tokens import TextStream, Vocabulary


class AnswerText:
    """Cuts an answer out of the tokens that a model says after a prompt.

    stop: strings that end the answer, besides those of the prompt's format.
    """

    def __init__(self, vocabulary: Vocabulary, prompt: Prompt, stop: Sequence[str]) -> None:
        self._vocabulary = vocabulary
        self._text = TextStream((*prompt.stop, *stop), trim=prompt.trim)

    @property
    def stopped(self) -> bool:
        """A stop string was seen; nothing more follows."""
        return self._text.stopped

    def push(self, token: int) -> Sequence[Piece]:
        """What is certain now. Not to be called with a token that ends the answer."""
        return _pieces(self._text.push(self._vocabulary.piece(token)))

    def finish(self) -> Sequence[Piece]:
        """What was held back."""
        return _pieces(self._text.finish())


def _pieces(text: str) -> Sequence[Piece]:
    return (Piece(text),) if text else ()
