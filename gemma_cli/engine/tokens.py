"""Text to token ids and back, with somebody's words kept apart from control text."""

from __future__ import annotations

import codecs
import ctypes
import re
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property

from gemma_cli.engine.library import C
from gemma_cli.engine.protocol import Segment

_USER_DEFINED = 1 << 4  # enum llama_token_attr (llama.h)

# USER_DEFINED tokens that are ordinary text: runs of white space and HTML tags
# (Gemma was trained to see those as one token). All others, such as
# <start_of_image> or Gemma 4's <|channel>, control the model: llama.cpp parses
# them in text even with parse_special off.
_ORDINARY = re.compile(r"\s+|▁+|</?[a-z]+[1-6]?>")

_LINE_END = re.compile(r"\n(?=[^\n])")
_PART, _LONGEST_PART = 16 * 1024, 256 * 1024  # characters


class Vocabulary:
    """A loaded model's vocabulary. Thread-safe, as llama.cpp's tokenizer is.

    pointer: llama_vocab of a model that outlives this object.
    """

    def __init__(self, pointer: int) -> None:
        self._pointer = pointer
        self.size: int = C.llama_vocab_n_tokens(pointer)
        self.bos: int = C.llama_vocab_bos(pointer)
        self.adds_bos: bool = C.llama_vocab_get_add_bos(pointer)
        self._buffer = ctypes.create_string_buffer(256)
        self._html_tag = self._find_html_tag()

    def text_of(self, token: int) -> str:
        """The token as the vocabulary spells it ("<bos>", "▁the")."""
        raw: bytes | None = C.llama_vocab_get_text(self._pointer, token)
        return (raw or b"").decode("utf-8", "replace")

    def is_end(self, token: int) -> bool:
        """Does this token end an answer?"""
        eog: bool = C.llama_vocab_is_eog(self._pointer, token)
        return eog and token != self._html_tag

    def _find_html_tag(self) -> int:
        """The token of the HTML tag </s>, -1 if there is none.

        Gemma 3's vocabulary has it; llama.cpp takes it for another family's
        end-of-sequence token by its name, and then for a control token.
        """
        ids = self._tokenize("</s>", parse_special=True)
        return ids[0] if len(ids) == 1 and ids[0] != C.llama_vocab_eos(self._pointer) else -1

    def _is_user_defined(self, token: int) -> bool:
        attributes: int = C.llama_vocab_get_attr(self._pointer, token)
        return bool(attributes & _USER_DEFINED)

    def encode(self, segments: Iterable[Segment]) -> tuple[int, ...]:
        """Token ids of a prompt: exactly one BOS in front if the model wants one.

        Neighbouring segments of one kind are joined first, so that no token can
        be pieced together across a border, and none is lost at it.
        """
        ids: list[int] = []
        for segment in _joined(segments):
            ids += self._control(segment.text) if segment.control else self.plain(segment.text)
        if self.adds_bos and self.bos >= 0:
            while ids[:1] == [self.bos]:
                del ids[0]
            ids.insert(0, self.bos)
        return tuple(ids)

    def _control(self, text: str) -> list[int]:
        return self._tokenize(text, parse_special=True)

    def plain(self, text: str) -> list[int]:
        """Token ids of somebody's words: no string in them yields a control token."""
        ids = [
            token
            for part in self._parts(text)
            for token in self._tokenize(part, parse_special=False)
        ]
        names = {self.text_of(token) for token in set(ids) if self._is_user_defined(token)}
        forged = [name for name in names if len(name) > 1 and not _ORDINARY.fullmatch(name)]
        if not forged:
            return ids
        # Cut each name after its first character: neither half is the token.
        cuts = re.compile("|".join(f"(?<={re.escape(n[0])})(?={re.escape(n[1:])})" for n in forged))
        return [token for part in cuts.split(text) for token in self.plain(part)]

    def _parts(self, text: str) -> Iterator[str]:
        """Long text in parts that tokenize as the whole does.

        llama.cpp's SentencePiece tokenizer takes minutes for tens of megabytes
        at once. It only merges neighbours into tokens of the vocabulary, so a
        border that no token spans is a safe one: after a line's end. A part
        without any is cut all the same: it is longer than most contexts.
        """
        start = 0
        while len(text) - start > _PART and self._lines_are_apart:
            border = _LINE_END.search(text, start + _PART // 2, start + _LONGEST_PART)
            end = border.end() if border else start + _LONGEST_PART
            yield text[start:end]
            start = end
        yield text[start:]

    @cached_property
    def _lines_are_apart(self) -> bool:
        """Does no token go on after a newline, but with newlines? Asked for long texts only."""
        if C.llama_vocab_type(self._pointer) != C.LLAMA_VOCAB_TYPE_SPM:
            return False
        return not any(_LINE_END.search(self.text_of(token)) for token in range(self.size))

    def _tokenize(self, text: str, *, parse_special: bool) -> list[int]:
        if not text:
            return []
        raw = text.encode("utf-8", "replace")
        room = len(raw) + 8
        buffer = (C.llama_token * room)()
        count: int = C.llama_tokenize(
            self._pointer, raw, len(raw), buffer, room, False, parse_special
        )
        if count < 0:
            buffer = (C.llama_token * -count)()
            count = C.llama_tokenize(
                self._pointer, raw, len(raw), buffer, -count, False, parse_special
            )
        return buffer[:count]

    def piece(self, token: int) -> bytes:
        """The token's bytes in an answer; control tokens have none. Not thread-safe."""
        spell = token == self._html_tag
        size: int = C.llama_token_to_piece(
            self._pointer, token, self._buffer, len(self._buffer), 0, spell
        )
        if size < 0:
            self._buffer = ctypes.create_string_buffer(-size)
            size = C.llama_token_to_piece(self._pointer, token, self._buffer, -size, 0, spell)
        return self._buffer.raw[:size]


def _joined(segments: Iterable[Segment]) -> list[Segment]:
    joined: list[Segment] = []
    for segment in segments:
        if joined and joined[-1].control == segment.control:
            joined[-1] = Segment(joined[-1].text + segment.text, segment.control)
        else:
            joined.append(segment)
    return joined


class TextStream:
    """Token bytes in, whole characters out; holds back what may begin a stop string.

    A character split over tokens appears when it is complete. finish() gives
    what was held back; bytes of a character that never ended are dropped.
    trim: white space at both ends of the whole text is left out.
    """

    def __init__(self, stop: Sequence[str] = (), *, trim: bool = False) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._stop = tuple(text for text in stop if text)
        self._trim, self._begun = trim, not trim
        self._held = ""
        self.stopped = False

    def push(self, raw: bytes) -> str:
        """Text that is certain now. After a stop string, `stopped` is set and nothing follows."""
        self._held += self._decoder.decode(raw)
        if not self._begun:
            self._held = self._held.lstrip()
            self._begun = bool(self._held)
        found = [at for stop in self._stop if (at := self._held.find(stop)) >= 0]
        if found:
            self.stopped = True
            self._held = self._held[: min(found)]
            return self.finish()
        keep = max((_overlap(self._held, stop) for stop in self._stop), default=0)
        cut = len(self._held) - keep
        if self._trim:
            cut = len(self._held[:cut].rstrip())
        text, self._held = self._held[:cut], self._held[cut:]
        return text

    def finish(self) -> str:
        text, self._held = self._held, ""
        return text.rstrip() if self._trim else text


def _overlap(text: str, stop: str) -> int:
    """Length of the longest end of text that begins stop."""
    for size in range(min(len(text), len(stop) - 1), 0, -1):
        if stop.startswith(text[-size:]):
            return size
    return 0
