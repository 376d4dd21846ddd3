"""An answer cut out of tokens: thoughts apart, no mark of a channel or turn in either."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gemma_cli.engine.answertext import AnswerText
from gemma_cli.engine.protocol import Piece, Prompt
from gemma_cli.engine.tokens import Vocabulary
from tests.gguf_files import write_gguf
from tests.gguf_models import gemma3_metadata
from tests.gguf_reader import read_metadata
from tests.scripted_model import gemma4_tokenizer
from tests.vocabularies import open_vocabulary

WORDS = [
    "thought",
    "thought\n",
    "model\n",
    "final\n",
    "Hmm",
    " so.\n",
    "Hello",
    " world",
    "STOP",
    "ST",
]
WORDS += ["OP", "</s>", "<s>", "👍", "\n\n"]
MARKS = ["<|channel>", "<channel|>", "<|turn>", "<|tool_call>", "<tool_call|>", "<tool_response|>"]


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("gemma4") / "vocabulary.gguf"
    return write_gguf(path, gemma3_metadata() | gemma4_tokenizer(WORDS), [])


@pytest.fixture(scope="module")
def vocabulary(file: Path) -> Iterator[Vocabulary]:
    with open_vocabulary(file) as found:
        yield found


@pytest.fixture(scope="module")
def texts(file: Path) -> list[str]:
    found: list[str] = read_metadata(file)["tokenizer.ggml.tokens"]
    return found


def heard(
    vocabulary: Vocabulary,
    ids: Sequence[int],
    stop: Sequence[str] = (),
    prompt: Sequence[int] = (),
) -> tuple[str, str]:
    """(thoughts, answer) of the tokens that a model says."""
    answer = AnswerText(vocabulary, Prompt((), tuple(prompt)), stop)
    pieces: list[Piece] = []
    for token in ids:
        if answer.stopped or vocabulary.is_end(token):
            break
        pieces += answer.push(token)
    if not answer.stopped:
        pieces += answer.finish()
    assert all(piece.text for piece in pieces)
    thoughts, said = (
        "".join(p.text for p in pieces if p.thought is kind) for kind in (True, False)
    )
    return thoughts, said


@pytest.mark.parametrize(
    ("says", "thoughts", "answer"),
    [
        ("Hello· world", "", "Hello world"),
        ("<|channel>·thought\n·Hmm· so.\n·<channel|>·Hello", "Hmm so.", "Hello"),
        ("<|channel>·thought·\n·Hmm·<channel|>·\n\n·Hello", "Hmm", "Hello"),
        ("<|channel>·thought\n·<channel|>·Hello", "", "Hello"),
        ("<|channel>·thought\n·Hmm· so.\n", "Hmm so.", ""),  # cut in mid-thought
        ("<|channel>·thou", "", ""),  # cut in the channel's name
        ("<|channel>·Hmm· so.\n·<channel|>·Hello", "Hmm so.", "Hello"),  # no name
        ("<|channel>·thought\n·Hmm·<channel|>·<|channel>·final\n·Hello", "Hmm", "Hello"),
        (
            "Hello·<|channel>·thought\n·Hmm·<channel|>· world·<|channel>·thought\n· so.\n",
            "Hmm\n\nso.",
            "Hello world",
        ),
        ("<|channel>·thought\n·Hmm·<|turn>·model\n·Hello", "Hmm", "Hello"),
        ("<|turn>·model\n·Hello", "", "Hello"),
        ("Hello·<channel|>· world", "", "Hello world"),
        ('<|tool_call>·Hello·<|"|>·Hmm·<|"|>·<tool_call|>', "", 'Hello"Hmm"'),
        ("Hello·<tool_response|>·<|think|>·<|image|>· world", "", "Hello world"),
        ("Hello·<|tool_response>· world", "", "Hello"),
        ("Hello·<turn|>· world", "", "Hello"),
        ("<s>·Hello·</s>· world", "", "<s>Hello</s> world"),
        ("<|channel>·thought\n·<0xF0>·<0x9F>·<0x91>·<0x8D>·<channel|>·<0xF0>·<0x9F>·<0x91>·<0x8D>",
         "👍", "👍"),
        ("<|channel>·thought\n·<0xF0>·<0x9F>·<channel|>·Hello", "", "Hello"),
    ],
)  # fmt: skip
def test_what_is_thought_and_what_is_said(
    vocabulary: Vocabulary, texts: list[str], says: str, thoughts: str, answer: str
) -> None:
    ids = []
    for text in says.split("·"):
        ids += [texts.index(text)] if text in texts else vocabulary.plain(text)
    assert heard(vocabulary, ids) == (thoughts, answer)


def test_stop_strings_end_the_answer_and_no_thought(
    vocabulary: Vocabulary, texts: list[str]
) -> None:
    says = ["<|channel>", "thought\n", "STOP", "Hmm", "<channel|>", "Hello", "ST", "OP", " world"]
    ids = [texts.index(text) for text in says]
    assert heard(vocabulary, ids, ["STOP"]) == ("STOPHmm", "Hello")
    ids = [texts.index(text) for text in ["Hello", "ST", *says[:5], "OP", " world"]]
    assert heard(vocabulary, ids, ["STOP"]) == ("STOPHmm", "Hello")


def test_a_prompt_may_open_a_thought(vocabulary: Vocabulary, texts: list[str]) -> None:
    opened = [texts.index(text) for text in ["<|turn>", "model\n", "<|channel>", "thought\n"]]
    ids = [texts.index(text) for text in ["Hmm", "<channel|>", "Hello"]]
    assert heard(vocabulary, ids, prompt=opened) == ("Hmm", "Hello")
    closed = [*opened, texts.index("<channel|>")]
    assert heard(vocabulary, ids, prompt=closed) == ("", "HmmHello")
    assert heard(vocabulary, ids, prompt=[*opened, texts.index("<|turn>")]) == ("", "HmmHello")


@settings(deadline=None, max_examples=300)
@given(data=st.data())
def test_no_order_of_tokens_lets_a_mark_through(
    vocabulary: Vocabulary, texts: list[str], data: st.DataObject
) -> None:
    often = [texts.index(text) for text in [*MARKS, *WORDS]]
    token = st.one_of(st.sampled_from(often), st.integers(0, len(texts) - 1))
    ids = data.draw(st.lists(token, max_size=30))
    named = {texts.index(text) for text in ("<", ">", "|", "</", "<|", "|>")}
    thoughts, answer = heard(vocabulary, [i for i in ids if i not in named])
    for mark in [*MARKS, "<|tool_response>", '<|"|>', "<|think|>", "<turn|>", "<eos>"]:
        assert mark not in thoughts
        assert mark not in answer


@pytest.fixture(scope="module")
def gemma3(demo_gguf: Path) -> Iterator[Vocabulary]:
    """The real vocabulary of Gemma 3."""
    with open_vocabulary(demo_gguf) as found:
        yield found


def test_html_does_not_end_an_answer_and_the_end_of_turn_does(gemma3: Vocabulary) -> None:
    html = "<p><s>struck</s> and <b>bold</b></s></p>\n"
    end = gemma3.special("<end_of_turn>")
    assert end is not None
    ids = [*gemma3.plain(html), end, *gemma3.plain("more")]
    assert heard(gemma3, ids) == ("", html)


@settings(deadline=None, max_examples=300)
@given(
    text=st.text(st.characters(codec="utf-8") | st.sampled_from("👩‍👩‍👧🏳️‍🌈\n <s>▁"), max_size=60)
)
def test_an_answer_is_heard_as_it_was_said(gemma3: Vocabulary, text: str) -> None:
    assert heard(gemma3, gemma3.plain(text)) == ("", text)


@settings(deadline=None, max_examples=300)
@given(
    text=st.text(st.sampled_from("ab \n<>/sé👍"), max_size=40),
    stop=st.text(st.sampled_from("ab \n<>/sé👍"), min_size=1, max_size=4),
)
def test_stop_strings_work_across_real_tokens(gemma3: Vocabulary, text: str, stop: str) -> None:
    assert heard(gemma3, gemma3.plain(text), [stop]) == ("", text.split(stop)[0])


def test_it_costs_a_token_nothing_to_speak_of(vocabulary: Vocabulary, texts: list[str]) -> None:
    """Below 0.01 ms on most machines, where a token takes a fast small model 10 ms."""
    answer = AnswerText(vocabulary, Prompt((), ()), ["\nUser:", "STOP"])
    ids = [texts.index(text) for text in ("Hello", " world", " so.\n", "ST")] * 5000
    best = min(timed(answer, ids[start : start + 4000]) for start in range(0, 20000, 4000))
    assert best / 4000 < 200e-6


def timed(answer: AnswerText, ids: Sequence[int]) -> float:
    start = time.perf_counter()
    for token in ids:
        answer.push(token)
    return time.perf_counter() - start
