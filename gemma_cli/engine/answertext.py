"""The tokens of an answer to Pieces: whole characters, stop strings, thoughts apart."""

from __future__ import annotations

import codecs
from collections.abc import Sequence

from gemma_cli.engine.gemma4 import MARKS, Mark
from gemma_cli.engine.protocol import Piece, Prompt
from gemma_cli.engine.tokens import Vocabulary

# The channel for those who hear the model, by its name; any other is for thoughts.
_ANSWER_CHANNEL = b"final"
_LONGEST_NAME = 32  # bytes
_BORDERS = (Mark.CHANNEL, Mark.CHANNEL_END, Mark.TURN)


class AnswerText:
    """Cuts an answer out of the tokens that a model says after a prompt.

    stop: strings that end the answer, besides those of the prompt's format.
    They are not looked for in thoughts.
    """

    def __init__(self, vocabulary: Vocabulary, prompt: Prompt, stop: Sequence[str]) -> None:
        self._vocabulary = vocabulary
        self._marks = {
            token: mark
            for name, mark in MARKS.items()
            if (token := vocabulary.special(name)) is not None
        }
        self._answer = TextStream((*prompt.stop, *stop), trim=prompt.trim)
        self._watches = any((*prompt.stop, *stop))
        self._thoughts = TextStream(trim=True)
        self._said = prompt.continues
        if self._said:
            self._answer.begun = True
        self._gap = ""  # between two thoughts
        self._name: bytes | None = None
        self._thinking = self._is_open(prompt.tokens)

    @property
    def watches(self) -> bool:
        """Are there stop strings, so that the text must be known after each token?"""
        return self._watches

    @property
    def stopped(self) -> bool:
        """A stop string was seen; nothing more follows."""
        return self._answer.stopped

    def push(self, token: int) -> Sequence[Piece]:
        """What is certain now. Not to be called with a token that ends the answer."""
        mark = self._marks.get(token)
        if mark is not None:
            return self._marked(mark)
        return self._text(self._vocabulary.piece(token))

    def finish(self) -> Sequence[Piece]:
        """What was held back."""
        return (*self._end_thought(), *self._as_answer(self._answer.finish()))

    def _is_open(self, prompt: Sequence[int]) -> bool:
        """Does the prompt end within a thought?"""
        if not self._marks:
            return False
        borders = {token for token, mark in self._marks.items() if mark in _BORDERS}
        last = next((token for token in reversed(prompt) if token in borders), None)
        return last is not None and self._marks[last] is Mark.CHANNEL

    def _marked(self, mark: Mark) -> Sequence[Piece]:
        if mark is Mark.QUOTE:
            return self._text(b'"')
        if mark is Mark.NOTHING:
            return ()
        pieces = self._end_thought()
        self._thinking = mark is Mark.CHANNEL
        self._name = None if mark is Mark.CHANNEL_END else b""
        if not self._said:
            self._answer.skip_space()
        return pieces

    def _text(self, raw: bytes) -> Sequence[Piece]:
        if self._name is not None:
            raw = self._after_name(self._name + raw)
        if self._thinking:
            return self._as_thought(self._thoughts.push(raw))
        return self._as_answer(self._answer.push(raw))

    def _after_name(self, raw: bytes) -> bytes:
        """What follows the name of a channel or turn and its newline; empty until that came.

        Other text than a name is not taken for one: it follows as it is.
        """
        name, newline, text = raw.partition(b"\n")
        if (name and not name.isalpha()) or len(name) > _LONGEST_NAME:
            self._name = None
            return raw
        if not newline:
            self._name = raw
            return b""
        self._name = None
        self._thinking = self._thinking and name != _ANSWER_CHANNEL
        return text

    def _end_thought(self) -> Sequence[Piece]:
        pieces = self._as_thought(self._thoughts.finish())
        if self._thoughts.begun:
            self._thoughts = TextStream(trim=True)
            self._gap = "\n\n"
        return pieces

    def _as_thought(self, text: str) -> Sequence[Piece]:
        if not text:
            return ()
        text, self._gap = self._gap + text, ""
        return (Piece(text, thought=True),)

    def _as_answer(self, text: str) -> Sequence[Piece]:
        if not text:
            return ()
        self._said = True
        return (Piece(text),)


class TextStream:
    """Token bytes in, whole characters out; holds back what may begin a stop string.

    A character split over tokens appears when it is complete. finish() gives
    what was held back; bytes of a character that never ended are dropped.
    trim: white space at both ends of the whole text is left out; begun: there
    was other text, or it is kept.
    """

    def __init__(self, stop: Sequence[str] = (), *, trim: bool = False) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._stop = tuple(text for text in stop if text)
        self._trim = trim
        self.begun = not trim
        self._held = ""
        self.stopped = False

    def push(self, raw: bytes) -> str:
        """Text that is certain now. After a stop string, `stopped` is set and nothing follows."""
        self._held += self._decoder.decode(raw)
        if not self._stop and self.begun and not self._trim:
            text, self._held = self._held, ""
            return text
        found = [at for stop in self._stop if (at := self._find(stop)) >= 0]
        if found:
            self.stopped = True
            self._held = self._held[: min(found)]
            return self.finish()
        keep = max((_overlap(self._held, stop) for stop in self._stop), default=0)
        cut = len(self._held) - keep
        if not self.begun:
            left_out = cut - len(self._held[:cut].lstrip())
            self._held, cut = self._held[left_out:], cut - left_out
            self.begun = cut > 0
        if self._trim:
            cut = len(self._held[:cut].rstrip())
        text, self._held = self._held[:cut], self._held[cut:]
        return text

    def _find(self, stop: str) -> int:
        """Where a stop string begins; it may in white space that is left out, but not end there."""
        space = 0 if self.begun else len(self._held) - len(self._held.lstrip())
        return self._held.find(stop, max(0, space - len(stop) + 1))

    def skip_space(self) -> None:
        """Leave out white space until there is other text."""
        self.begun = False

    def finish(self) -> str:
        text, self._held = self._held, ""
        text = text if self.begun else text.lstrip()
        return text.rstrip() if self._trim else text


def _overlap(text: str, stop: str) -> int:
    """Length of the longest end of text that begins stop."""
    for size in range(min(len(text), len(stop) - 1), 0, -1):
        if stop.startswith(text[-size:]):
            return size
    return 0
