"""Answers that are JSON by a schema: what the model may say next, by llguidance.

The matcher follows the answer token by token; only where the model wants
something that is not allowed are all tokens asked for.
"""

from __future__ import annotations

import ctypes
import json
import threading
import weakref
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from gemma_cli.engine.gemma4 import CHANNEL, CHANNEL_END
from gemma_cli.engine.schema import parse_schema
from gemma_cli.errors import EngineError

if TYPE_CHECKING:
    from llguidance import LLTokenizer

    from gemma_cli.engine.tokens import Vocabulary

ANY_OBJECT = '{"type": "object"}'

# One space after each comma and colon and none elsewhere, as json.dumps writes:
# where a model may choose its white space, a weak one never stops writing it.
# lenient, coerce_one_of: what cannot be enforced is an error, not left out.
_STYLE: Any = {
    "whitespace_flexible": False,
    "item_separator": ", ",
    "key_separator": ": ",
    "lenient": False,
    "coerce_one_of": False,
}


def check_schema(text: str) -> None:
    """Raise UsageError, with the place, for a schema that no answer can be held to."""
    parse_schema(text, _fault)


def _fault(schema: Any) -> str:
    """What llguidance says against a schema; "" if nothing."""
    from llguidance import LLMatcher, LLTokenizer

    try:
        grammar = _compiled(schema)
    except ValueError as error:
        return str(error)
    is_error, said = LLMatcher.validate_grammar_with_warnings(grammar)
    if is_error:
        return said[0]
    # Limits of size show only with a tokenizer: the smallest is one of bytes.
    return LLMatcher(LLTokenizer("byte", slices=[]), grammar, log_level=0).get_error()


def _compiled(schema: Any) -> str:
    from llguidance import LLMatcher

    # The options need an object to apply to.
    text = json.dumps({} if schema is True else schema)
    return LLMatcher.grammar_from_json_schema(text, overrides=_STYLE)


class _Tokenizer:
    """llguidance's view of a vocabulary, built in a thread: 0.5 s, most of it for its trie."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        self._tokenize = _tokenize(vocabulary)
        self._built: LLTokenizer | None = None
        self._failure: BaseException | None = None
        self._thread = threading.Thread(
            target=self._build, args=(vocabulary,), name="grammar", daemon=True
        )
        self._thread.start()

    def wait(self) -> None:
        """Until the vocabulary is no longer read."""
        self._thread.join()

    def get(self) -> LLTokenizer:
        """Waits for it; raises what went wrong."""
        self.wait()
        if self._built is None:
            raise self._failure or AssertionError("a thread that ended left nothing")
        return self._built

    def _build(self, vocabulary: Vocabulary) -> None:
        try:
            self._built = _tokenizer(vocabulary, self._tokenize)
        except BaseException as failure:  # the thread that asks raises it
            self._failure = failure


# llama_tokenize's: vocabulary, text and its bytes, ids and room for them, two options.
_Tokenize = ctypes.CFUNCTYPE(
    ctypes.c_int32,
    ctypes.c_void_p,
    ctypes.POINTER(ctypes.c_char),
    ctypes.c_int32,
    ctypes.POINTER(ctypes.c_int32),
    ctypes.c_int32,
    ctypes.c_bool,
    ctypes.c_bool,
)


def _tokenize(vocabulary: Vocabulary) -> Any:
    """llama_tokenize for the grammar's own texts, which are data as people's words are.

    llama.cpp's would find control tokens in them, and make spaces of U+2581.
    """
    found = weakref.ref(vocabulary)

    def tokenize(_: Any, text: Any, size: int, ids: Any, room: int, *_options: bool) -> int:
        vocabulary = found()
        assert vocabulary is not None, "a vocabulary outlives its grammars"
        plain = vocabulary.plain(text[:size].decode("utf-8", "replace"))
        if len(plain) > room:
            return -len(plain)
        for index, token in enumerate(plain):
            ids[index] = token
        return len(plain)

    return _Tokenize(tokenize)


def _tokenizer(vocabulary: Vocabulary, tokenize: Any) -> LLTokenizer:
    """tokenize: as llama_tokenize; it must outlive the result."""
    from llguidance import LLTokenizer

    pieces = vocabulary.pieces()
    special = vocabulary.special_tokens()
    for token in special:
        # 0xFF occurs in no text: such a token is never part of an answer.
        pieces[token] = b"\xff" + vocabulary.text_of(token).encode()
    return LLTokenizer.from_llamacpp(  # type: ignore[attr-defined, no-any-return]
        tokens=pieces,
        vocab_ptr=vocabulary.pointer,
        tokenize_fptr=ctypes.cast(tokenize, ctypes.c_void_p).value,
        eos_token=_end_tokens(vocabulary, special),
        slices=[],  # precomputed parts of masks: half a second more, and masks are rare here
    )


def _end_tokens(vocabulary: Vocabulary, special: set[int]) -> list[int]:
    """Every token that ends an answer, the vocabulary's own end of sequence first."""
    from gemma_cli.engine.library import C

    own = [C.llama_vocab_eos(vocabulary.pointer), C.llama_vocab_eot(vocabulary.pointer)]
    candidates = dict.fromkeys((*own, *sorted(special)))
    return [token for token in candidates if token >= 0 and vocabulary.is_end(token)]


_tokenizers: weakref.WeakKeyDictionary[Vocabulary, _Tokenizer] = weakref.WeakKeyDictionary()


class Grammar:
    """How far one answer has satisfied its schema. Begins to build at once, in a thread.

    Where a model thinks first, the schema holds for what follows its thoughts.
    """

    def __init__(self, vocabulary: Vocabulary, schema: str) -> None:
        self._schema = schema
        self._tokenizer = _tokenizers.get(vocabulary) or _Tokenizer(vocabulary)
        _tokenizers[vocabulary] = self._tokenizer
        self._thought, self._thought_end = (
            vocabulary.special(CHANNEL),
            vocabulary.special(CHANNEL_END),
        )
        self._thinking = self._begun = False
        self._made: Any = None

    @property
    def _matcher(self) -> Any:
        if self._made is None:
            from llguidance import LLMatcher

            grammar = _compiled(json.loads(self._schema))
            self._made = LLMatcher(self._tokenizer.get(), grammar, log_level=0)
            self._must_work()
        return self._made

    def _must_work(self) -> None:
        if self._made.is_error():
            reason = self._made.get_error().partition("\n")[0]
            raise EngineError(
                f"the schema is too much for the grammar engine: {reason}",
                "make its patterns and counts smaller",
            )

    def follow(self, prompt: Sequence[int]) -> None:
        """A prompt may end within a thought that the answer goes on with."""
        marks = (self._thought, self._thought_end)
        last = next((token for token in reversed(prompt) if token in marks), None)
        self._thinking = last is not None and last == self._thought

    def take(self, token: int) -> bool:
        """Go on with this token, if it is allowed. EngineError if that cannot be told."""
        if self._thinking:
            self._thinking = token != self._thought_end
            return True
        if token == self._thought and not self._begun:
            self._thinking = True
            return True
        taken: bool = self._matcher.try_consume_tokens([token]) == 1
        if not taken:
            self._must_work()  # a matcher that gave up refuses everything
        self._begun = self._begun or taken
        return taken

    def mask(self) -> bytes:
        """One bit a token, lowest first: may it come next? EngineError if none may."""
        matcher = self._matcher
        mask: bytes = matcher.compute_bitmask()
        self._must_work()
        if matcher.is_stopped() and not matcher.is_accepting():
            raise EngineError(
                "the answer cannot go on: nothing that follows satisfies the schema",
                "look for parts of the schema that contradict each other",
            )
        return mask

    @property
    def end(self) -> int | None:
        """The token to end the answer with if it is whole and nothing can follow it."""
        if self._thinking or not (self._matcher.is_stopped() and self._matcher.is_accepting()):
            return None
        return int(self._tokenizer.get().eos_token)

    @property
    def complete(self) -> bool:
        """The answer so far satisfies the schema."""
        return self._begun and bool(self._matcher.is_accepting())

    def close(self) -> None:
        """The model may be freed after this."""
        self._tokenizer.wait()

    def forced(self) -> list[int]:
        """The tokens that must follow, as far as there is only one way on."""
        return [] if self._thinking else list(self._matcher.compute_ff_tokens())
