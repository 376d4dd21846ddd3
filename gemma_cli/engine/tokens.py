"""Text to token ids and back, with somebody's words kept apart from control text."""

from __future__ import annotations

import ctypes
import itertools
import re
from collections.abc import Iterable, Iterator
from functools import cached_property, lru_cache, partial
from typing import Any

from gemma_cli.engine.library import C
from gemma_cli.engine.protocol import Segment
from gemma_cli.engine.tokencache import TokenCache

# enum llama_token_attr (llama.h)
_NORMAL, _USER_DEFINED, _BYTE = 1 << 2, 1 << 4, 1 << 5
_NO_TEXT = 1 << 0 | 1 << 1 | 1 << 3 | _USER_DEFINED  # unknown, unused, control

# USER_DEFINED tokens that are ordinary text: runs of white space and HTML tags
# (Gemma was trained to see those as one token). All others, such as
# <start_of_image> or Gemma 4's <|channel>, control the model: llama.cpp parses
# them in text even with parse_special off.
_ORDINARY = re.compile(r"\s+|▁+|</?[a-z]+[1-6]?>")

_LINE_END = re.compile(r"\n(?=[^\n])")
_PART, _LONGEST_PART = 16 * 1024, 256 * 1024  # characters

_CONTROL_TEXTS = 256  # more than a template has
_LONG_PIECE = 64  # bytes; the few tokens that are longer are asked for again

# What a SentencePiece vocabulary writes for a space.
_SPACE = "\u2581"
_HTML_TAG = "</s>"


class Vocabulary:
    """A loaded model's vocabulary. Thread-safe, as llama.cpp's tokenizer is.

    pointer: llama_vocab of a model that outlives this object.
    """

    def __init__(self, pointer: int) -> None:
        self._pointer = pointer
        self.size: int = C.llama_vocab_n_tokens(pointer)
        self.bos: int = C.llama_vocab_bos(pointer)
        self.adds_bos: bool = C.llama_vocab_get_add_bos(pointer)
        self._cache = TokenCache()
        # llama.cpp looks for each of six thousand control tokens in a text.
        self._parsed = lru_cache(_CONTROL_TEXTS)(partial(self._tokenize, parse_special=True))
        self._pieces: dict[int, bytes] = {}
        self._html_tag = self._find_html_tag()

    @property
    def pointer(self) -> int:
        return self._pointer

    def text_of(self, token: int) -> str:
        """The token as the vocabulary spells it ("<bos>", "▁the")."""
        raw: bytes | None = C.llama_vocab_get_text(self._pointer, token)
        return (raw or b"").decode("utf-8", "replace")

    def is_end(self, token: int) -> bool:
        """Does this token end an answer?"""
        eog: bool = C.llama_vocab_is_eog(self._pointer, token)
        return eog and token != self._html_tag

    def special(self, name: str) -> int | None:
        """The one token that control text of that name is, if there is one."""
        ids = self._parsed(name)
        return ids[0] if len(ids) == 1 else None

    def special_tokens(self) -> set[int]:
        """Every token that is no text of an answer. Some 50 ms."""
        return {
            token
            for token in range(self.size)
            if (attributes := self._attributes(token)) & _NO_TEXT
            and token != self._html_tag
            and not (attributes & _USER_DEFINED and not self._forges(self.text_of(token)))
        }

    def _find_html_tag(self) -> int:
        """The token of the HTML tag </s>, -1 if there is none.

        Vocabularies of Gemma 1 to 3 have it; llama.cpp takes it for another
        family's end-of-sequence token by its name, and then for a control token.
        """
        token = self.special(_HTML_TAG)
        if token is None or token == C.llama_vocab_eos(self._pointer):
            return -1
        return token if self._attributes(token) & (_USER_DEFINED | _NORMAL) else -1

    def _attributes(self, token: int) -> int:
        attributes: int = C.llama_vocab_get_attr(self._pointer, token)
        return attributes

    def encode(self, segments: Iterable[Segment]) -> tuple[int, ...]:
        """Token ids of a prompt: exactly one BOS in front if the model wants one.

        Neighbouring segments of one kind are joined first, so that no token can
        be pieced together across a border, and none is lost at it.
        """
        ids: list[int] = []
        for segment in joined(segments):
            ids += self._parsed(segment.text) if segment.control else self.plain(segment.text)
        if self.adds_bos and self.bos >= 0:
            while ids[:1] == [self.bos]:
                del ids[0]
            ids.insert(0, self.bos)
        return tuple(ids)

    def plain(self, text: str) -> list[int]:
        """Token ids of somebody's words: no string in them yields a control token.

        The pieces of the ids are the text again, each character of it.
        """
        ids = self._cache.get(text)
        if ids is None:
            ids = self._spelled(text)
            self._cache.put(text, ids)
        return ids

    def _spelled(self, text: str) -> list[int]:
        """Words, and what llama.cpp would not let through as it is."""
        spellings = {name: ids for name, ids in self._spellings.items() if name in text}
        if not spellings:
            return self._words(text)
        ids: list[int] = []
        for part in re.split(f"({'|'.join(map(re.escape, spellings))})", text):
            ids += spellings.get(part) or self._words(part)
        return ids

    @cached_property
    def _spellings(self) -> dict[str, list[int]]:
        """Token ids of texts that llama.cpp's tokenizer would change.

        </s> would be three tokens, which no Gemma saw in training. A typed U+2581
        would become a space, in every SentencePiece tokenizer; its bytes do not.
        """
        spellings = {_HTML_TAG: [self._html_tag]} if self._html_tag >= 0 else {}
        as_space = self._tokenize(_SPACE, parse_special=False)
        if b"".join(map(self.piece, as_space)) == b" ":
            spelled = [f"<0x{byte:02X}>" for byte in _SPACE.encode()]
            tokens = self._byte_tokens
            if all(name in tokens for name in spelled):
                spellings[_SPACE] = [tokens[name] for name in spelled]
        return spellings

    @property
    def _byte_tokens(self) -> dict[str, int]:
        bytes_ = (token for token in range(self.size) if self._attributes(token) & _BYTE)
        return {self.text_of(token): token for token in itertools.islice(bytes_, 256)}

    def _words(self, text: str) -> list[int]:
        ids = [
            token
            for part in self._parts(text)
            for token in self._tokenize(part, parse_special=False)
        ]
        used = {token for token in set(ids) if self._attributes(token) & _USER_DEFINED}
        names = {self.text_of(token) for token in used}
        forged = [name for name in names if self._forges(name)]
        if not forged:
            return ids
        # Cut each name after its first character: neither half is the token.
        cuts = re.compile("|".join(f"(?<={re.escape(n[0])})(?={re.escape(n[1:])})" for n in forged))
        parts = cuts.split(text)
        if len(parts) == 1:  # the odd vocabulary of a damaged file: the token is not its name
            return [id_ for c in text for id_ in self._tokenize(c, parse_special=False)]
        return [token for part in parts for token in self._words(part)]

    @staticmethod
    def _forges(name: str) -> bool:
        """Does a USER_DEFINED token of that name control the model?"""
        return len(name) > 1 and not _ORDINARY.fullmatch(name)

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
        """The token's bytes in an answer; control tokens have none."""
        known = self._pieces.get(token)
        if known is None:
            known = self._pieces[token] = self._piece(token)
        return known

    def _piece(self, token: int) -> bytes:
        spell = token == self._html_tag
        size = -_LONG_PIECE
        while size < 0:
            buffer = ctypes.create_string_buffer(-size)
            size = C.llama_token_to_piece(self._pointer, token, buffer, -size, 0, spell)
        return buffer.raw[:size]

    def pieces(self) -> list[bytes]:
        """piece() of every token, by id: one call of llama.cpp with a separator between all."""
        separator = self._tokenize("\0", parse_special=False)
        if len(separator) == 1:
            ids: Any = (C.llama_token * (2 * self.size + 1))()
            ids[0::2], ids[1::2] = separator * (self.size + 1), list(range(self.size))
            _, *pieces, _ = self._detokenize(ids).split(b"\0")
            # The separator's own piece is the only one that holds it: there are two empty ones.
            pieces[separator[0] : separator[0] + 2] = [b"\0"]
            if len(pieces) == self.size:
                if self._html_tag >= 0:
                    pieces[self._html_tag] = self.piece(self._html_tag)
                return pieces
        return [self.piece(token) for token in range(self.size)]

    def _detokenize(self, ids: Any) -> bytes:
        size = -16 * len(ids)
        while size < 0:
            buffer = ctypes.create_string_buffer(-size)
            size = C.llama_detokenize(self._pointer, ids, len(ids), buffer, -size, False, False)
        return buffer.raw[:size]


def joined(segments: Iterable[Segment]) -> list[Segment]:
    """Neighbours of one kind as one; white space at the ends of control text is with the words.

    Several line ends are one token, whoever wrote the first of them.
    """
    whole = _merged(segments)
    return _merged(part for segment in whole for part in _split(segment))


def _merged(segments: Iterable[Segment]) -> list[Segment]:
    filled = (segment for segment in segments if segment.text)
    return [
        Segment("".join(segment.text for segment in group), control)
        for control, group in itertools.groupby(filled, lambda segment: segment.control)
    ]


def _split(segment: Segment) -> tuple[Segment, ...]:
    if not segment.control:
        return (segment,)
    core = segment.text.strip()
    before, _, after = segment.text.partition(core) if core else (segment.text, "", "")
    return Segment(before, False), Segment(core, True), Segment(after, False)
