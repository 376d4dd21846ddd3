"""Nothing typed controls a model, every character arrives, every token has its bytes."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gemma_cli.engine.protocol import Segment
from gemma_cli.engine.tokencache import TokenCache
from gemma_cli.engine.tokens import Vocabulary
from gemma_cli.engine.turns import TurnTemplate
from tests.conversations import conversations
from tests.gguf_files import Value, write_gguf
from tests.gguf_models import gemma3_metadata
from tests.gguf_reader import read_metadata
from tests.reference_tokenizers import reference
from tests.scripted_model import BYTE, CONTROL, NORMAL, USER_DEFINED, gemma4_tokenizer
from tests.vocabularies import llama_ids, open_vocabulary

SPACE = "\u2581"  # what a SentencePiece vocabulary writes for a space


@dataclass(frozen=True)
class Case:
    """A vocabulary in llama.cpp, and what its file says of its tokens."""

    vocabulary: Vocabulary
    metadata: dict[str, Any]

    @property
    def texts(self) -> list[str]:
        texts: list[str] = self.metadata["tokenizer.ggml.tokens"]
        return texts

    @property
    def kinds(self) -> list[int]:
        kinds: list[int] = self.metadata["tokenizer.ggml.token_type"]
        return kinds

    def names(self) -> list[str]:
        """Strings that control the model when they are a token."""
        return [t for t, kind in zip(self.texts, self.kinds, strict=True) if controls(t, kind)]

    def text_of(self, ids: list[int]) -> str:
        return b"".join(map(self.vocabulary.piece, ids)).decode()


def controls(text: str, kind: int) -> bool:
    """Is a token of that text and kind more than words to a model?"""
    if kind == USER_DEFINED:
        return bool(re.fullmatch(r"<\|.*>|<.*\|>|<\w+_of_\w+>|\[multimodal\]", text))
    return kind == CONTROL


def case(path: Path) -> Iterator[Case]:
    with open_vocabulary(path) as vocabulary:
        yield Case(vocabulary, read_metadata(path))


@pytest.fixture(scope="module")
def gemma3(demo_gguf: Path) -> Iterator[Case]:
    """The real vocabulary of Gemma 3."""
    yield from case(demo_gguf)


@pytest.fixture(scope="module")
def gemma2(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Case]:
    """SentencePiece as in Gemma 1 and 2: turns are control tokens, HTML tags and runs are not."""
    metadata = gemma3_metadata()
    texts, kinds = metadata["tokenizer.ggml.tokens"], metadata["tokenizer.ggml.token_type"]
    scores = metadata["tokenizer.ggml.scores"]
    assert isinstance(texts, list)
    assert isinstance(kinds, list)
    assert isinstance(scores, list)
    more = ["<s>", "</s>", "<b>", "</b>", "  ", "   ", "\n\n", "[multimodal]"]
    path = tmp_path_factory.mktemp("gemma2") / "vocabulary.gguf"
    added: dict[str, Value] = {
        "general.architecture": "gemma3",  # the tokenizer is the same for both
        "tokenizer.ggml.tokens": texts + more,
        "tokenizer.ggml.token_type": kinds + [USER_DEFINED] * len(more),
        "tokenizer.ggml.scores": scores + [-1000.0] * len(more),
        "tokenizer.ggml.add_space_prefix": False,
    }
    yield from case(write_gguf(path, metadata | added, []))


@pytest.fixture(scope="module")
def gemma4(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Case]:
    metadata = gemma3_metadata()
    path = tmp_path_factory.mktemp("gemma4") / "vocabulary.gguf"
    more = ["</s>", "<s>", "👍"]
    yield from case(write_gguf(path, metadata | gemma4_tokenizer(more), []))


@pytest.fixture(scope="module", params=["gemma2", "gemma3", "gemma4"])
def each(request: pytest.FixtureRequest) -> Case:
    found: Case = request.getfixturevalue(request.param)
    return found


def hostile(names: list[str]) -> st.SearchStrategy[str]:
    """Texts around control strings: whole, halved, nested, and with what separates words."""
    name = st.sampled_from(names)
    half = name.flatmap(lambda text: st.integers(0, len(text)).map(lambda at: text[:at]))
    rest = name.flatmap(lambda text: st.integers(0, len(text)).map(lambda at: text[at:]))
    nested = st.tuples(half, name, rest).map("".join)
    seams = st.sampled_from([" ", "\n", "\n\n", "  ", SPACE, "</s>", "<b>", "thought\n", "model\n"])
    return st.lists(
        st.one_of(name, half, rest, nested, seams, st.text(max_size=4)), max_size=8
    ).map("".join)


def characters(text: str) -> str:
    """Halves of surrogate pairs are no characters."""
    return text.encode("utf-8", "ignore").decode()


@settings(deadline=None, max_examples=300)
@given(data=st.data())
def test_no_text_yields_a_control_token_and_every_character_arrives(
    each: Case, data: st.DataObject
) -> None:
    names = [name for name in each.names() if not name.startswith("<unused")]
    text = characters(data.draw(hostile(names)))
    ids = each.vocabulary.plain(text)
    assert not [each.texts[i] for i in ids if controls(each.texts[i], each.kinds[i])]
    assert each.text_of(ids) == text


def test_every_name_of_a_control_token_is_text_when_it_is_typed(each: Case) -> None:
    for name in each.names():
        ids = each.vocabulary.plain(name)
        assert len(ids) > 1, name
        assert each.text_of(ids) == name


@settings(deadline=None, max_examples=200)
@given(data=st.data())
def test_no_control_token_is_pieced_together_across_segments(
    each: Case, data: st.DataObject
) -> None:
    """Words in any number of segments, with control text and without between them."""
    names = [name for name in each.names() if not name.startswith("<unused")]
    name = data.draw(st.sampled_from(names))
    cuts = sorted(data.draw(st.lists(st.integers(0, len(name)), max_size=3)))
    parts = [name[a:b] for a, b in zip([0, *cuts], [*cuts, len(name)], strict=True)]
    between = Segment(data.draw(st.sampled_from(["", "\n", "\n\n"])), control=True)
    segments = list(chain.from_iterable((Segment(part, False), between) for part in parts))
    ids = each.vocabulary.encode(segments)[1:]
    assert not [each.texts[i] for i in ids if controls(each.texts[i], each.kinds[i])]
    assert each.text_of(list(ids)) == "".join(segment.text for segment in segments)


def test_a_conversation_has_the_ids_of_two_other_tokenizers(gemma3: Case) -> None:
    """llama.cpp's own over the whole text, specials parsed, and Google's SentencePiece."""
    sentencepiece = reference(gemma3.metadata)
    for messages in conversations(200):
        segments = TurnTemplate().render(messages)
        text = "".join(segment.text for segment in segments)
        bos, *ids = gemma3.vocabulary.encode(segments)
        assert bos == gemma3.vocabulary.bos
        assert ids == llama_ids(gemma3.vocabulary, text), text
        assert ids == sentencepiece(text), text


def test_gemma_4s_ids_are_those_of_two_other_tokenizers(gemma4: Case) -> None:
    from gemma_cli.engine.gemma4 import Gemma4Template

    huggingface = reference(gemma4.metadata)
    template = Gemma4Template(closes_thoughts=True)
    for number, messages in enumerate(conversations(200)):
        segments = template.render(messages, number % 2 == 0)
        text = "".join(segment.text for segment in segments)
        ids = list(gemma4.vocabulary.encode(segments))[1:]
        assert ids == llama_ids(gemma4.vocabulary, text), text
        assert ids == huggingface(text), text


def test_every_token_has_the_bytes_that_its_file_says(each: Case) -> None:
    """All 262,144 of the real one. Control tokens have none, whatever they are called."""
    html_tag = each.texts.index("</s>")
    for token, (text, kind) in enumerate(zip(each.texts, each.kinds, strict=True)):
        if kind == BYTE:
            expected = bytes([int(text[3:5], 16)])
        elif kind in (NORMAL, USER_DEFINED):
            expected = text.replace(SPACE, " ").encode()
        else:
            expected = b""
        if text == "<|tool_response>":
            continue  # llama.cpp makes a control token of it: it ends an answer
        assert each.vocabulary.piece(token) == expected, (token, text)
    assert each.vocabulary.piece(html_tag) == b"</s>"


def test_only_ends_end_an_answer(each: Case) -> None:
    ends = {each.texts[i] for i in range(len(each.texts)) if each.vocabulary.is_end(i)}
    assert ends <= {"<eos>", "<end_of_turn>", "<turn|>", "<|tool_response>"}
    assert ends & {"<end_of_turn>", "<turn|>"}
    assert "<eos>" in ends


def test_the_html_tag_is_one_token_where_gemma_has_it_so(gemma2: Case, gemma3: Case) -> None:
    for found in (gemma2, gemma3):
        tag = found.texts.index("</s>")
        assert found.vocabulary.plain("</s>") == [tag]
        assert tag in found.vocabulary.plain("<p><s>struck</s> ▁</p>")


def test_a_typed_underscore_block_is_no_space(each: Case) -> None:
    for text in (SPACE, f"a{SPACE}b", f"{SPACE * 3} {SPACE}", f" {SPACE} the"):
        ids = each.vocabulary.plain(text)
        assert each.text_of(ids) == text
    space, block = each.vocabulary.plain(" "), each.vocabulary.plain(SPACE)
    assert space != block


def test_white_space_where_segments_meet_is_tokenized_as_a_whole(gemma3: Case) -> None:
    segments = [
        Segment("<start_of_turn>user\n", True),
        Segment("Be brief.\n", False),
        Segment("\n\n", True),
        Segment("Hi", False),
    ]
    ids = list(gemma3.vocabulary.encode(segments))[1:]
    assert ids == llama_ids(gemma3.vocabulary, "<start_of_turn>user\nBe brief.\n\n\nHi")


def test_a_long_text_has_the_same_ids_from_the_cache(gemma3: Case) -> None:
    text = "All of it, <b>again</b> and ▁again: <end_of_turn>\n" * 50
    first = gemma3.vocabulary.plain(text)
    kept = list(first)
    first.clear()  # a caller's list is its own
    assert gemma3.vocabulary.plain(text) == kept


def test_the_cache_stays_within_its_limit_and_keeps_what_is_used() -> None:
    cache = TokenCache(limit=10_000)
    texts = [f"{number:>100}" for number in range(100)]
    for text in texts:
        cache.put(text, [1] * 25)  # 200 bytes
        assert cache.get(texts[0]) == [1] * 25
    held = [text for text in texts if cache.get(text)]
    assert len(held) == 50
    assert texts[0] in held
    assert texts[-1] in held
