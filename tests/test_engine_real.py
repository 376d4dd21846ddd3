"""The engine on real weights: the 270M, its vocabulary, its windows of 512 tokens."""

from __future__ import annotations

import ctypes
import re
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gemma_cli.engine.library import C
from gemma_cli.engine.llama import LlamaEngine
from gemma_cli.engine.model import Model
from gemma_cli.engine.protocol import Done, Message, Piece, Prompt, Sampling, Segment
from gemma_cli.engine.setup import Setup, Weights
from gemma_cli.engine.tokens import Vocabulary
from gemma_cli.errors import PromptTooLongError
from gemma_cli.machine.devices import Device, Machine
from gemma_cli.machine.memory import Wishes, kv_bytes, plan
from gemma_cli.models.gguf import read_header
from tests.conftest import Gemma

N_CTX = 4096
GREEDY = Sampling(temperature=0, max_tokens=24)
ROOMY = Machine(Device("CPU", "cpu", 64 << 30, 64 << 30), (), threads=1)


def make_engine(path: Path, n_ctx: int = N_CTX) -> LlamaEngine:
    header = read_header(path)
    return LlamaEngine(Setup(Weights(path, header, plan(header, ROOMY, Wishes(n_ctx=n_ctx)))))


@pytest.fixture(scope="module")
def engine(demo_gguf: Path) -> Iterator[LlamaEngine]:
    made = make_engine(demo_gguf)
    yield made
    made.close()


@pytest.fixture(scope="module")
def vocabulary(demo_gguf: Path) -> Iterator[Vocabulary]:
    model = Model(demo_gguf, 0, vocab_only=True)
    yield model.vocabulary
    model.close()


def complete(engine: LlamaEngine, prompt: Prompt, sampling: Sampling) -> tuple[str, Done]:
    *pieces, done = engine.generate(prompt, sampling)
    assert isinstance(done, Done)
    assert all(isinstance(piece, Piece) for piece in pieces)
    return "".join(piece.text for piece in pieces if isinstance(piece, Piece)), done


def llama_cpp_greedy(path: Path, prompt: tuple[int, ...], count: int) -> list[int]:
    """llama.cpp's own greedy decoding: its default context, its greedy sampler."""
    model = C.llama_model_load_from_file(str(path).encode(), C.llama_model_default_params())
    params = C.llama_context_default_params()
    params.n_ctx = 1024
    params.n_threads = params.n_threads_batch = 1
    context = C.llama_init_from_model(model, params)
    sampler = C.llama_sampler_init_greedy()
    vocab = C.llama_model_get_vocab(model)
    tokens: Any = (C.llama_token * len(prompt))(*prompt)
    result = []
    batch = C.llama_batch_get_one(tokens, len(prompt))
    for _ in range(count):
        assert C.llama_decode(context, batch) == 0
        token = C.llama_sampler_sample(sampler, context, -1)
        if C.llama_vocab_is_eog(vocab, token):
            break
        result.append(token)
        next_token = (C.llama_token * 1)(token)
        batch = C.llama_batch_get_one(next_token, 1)
    C.llama_sampler_free(sampler)
    C.llama_free(context)
    C.llama_model_free(model)
    return result


@pytest.mark.parametrize(
    "text", ["The capital of Italy is", "1, 2, 3, 4,", "def fibonacci(n):\n", "Es war einmal"]
)
def test_temperature_0_gives_the_tokens_of_llama_cpps_greedy_decoding(
    engine: LlamaEngine, demo_gguf: Path, text: str
) -> None:
    prompt = engine.raw(text)
    _, done = complete(engine, prompt, Sampling(temperature=0, max_tokens=48))
    assert list(done.tokens) == llama_cpp_greedy(demo_gguf, prompt.tokens, 48)


def test_the_same_seed_gives_the_same_answer(engine: LlamaEngine) -> None:
    prompt = engine.raw("Once upon a time")
    sampling = Sampling(seed=7, max_tokens=20)
    first = complete(engine, prompt, sampling)
    assert complete(engine, prompt, sampling)[0] == first[0]
    others = {complete(engine, prompt, Sampling(max_tokens=20))[0] for _ in range(3)}
    assert len(others) > 1
    assert first[1].seed == 7


def test_a_base_model_answers_from_the_transcript(engine: LlamaEngine) -> None:
    assert engine.info().base_model
    prompt = engine.render([Message("user", "What is the capital of Italy?")])
    text, done = complete(engine, prompt, Sampling(temperature=0, max_tokens=40))
    assert text == "The capital of Italy is Rome."
    assert done.stop_reason == "end"


def test_statistics_arrive_in_the_last_value(engine: LlamaEngine) -> None:
    prompt = engine.raw("One two three four")
    _, done = complete(engine, prompt, Sampling(temperature=0, max_tokens=5))
    assert done.stop_reason == "length"
    assert done.usage.prompt_tokens == len(prompt.tokens)
    assert done.usage.completion_tokens == 5 == len(done.tokens)
    assert done.used == len(prompt.tokens) + 4
    assert done.n_ctx == N_CTX
    assert done.timings.decode_tps > 0
    assert done.timings.total_s >= done.timings.ttft_s > 0


def test_cancel_works_during_prefill_and_the_engine_goes_on(engine: LlamaEngine) -> None:
    before = complete(engine, engine.raw("The capital of Italy is"), GREEDY)[0]
    long = engine.raw("word " * (N_CTX - 100))
    generation = engine.generate(long, GREEDY)
    threading.Timer(0.15, generation.cancel).start()  # all of it takes more than a second
    *pieces, done = generation
    assert isinstance(done, Done)
    assert done.stop_reason == "cancelled"
    assert not pieces
    assert len(engine._loaded._context.tokens) < len(long.tokens)
    assert complete(engine, engine.raw("The capital of Italy is"), GREEDY)[0] == before


def test_cancel_during_decode_keeps_what_was_said(engine: LlamaEngine) -> None:
    generation = engine.generate(
        engine.raw("Once upon a time"), Sampling(temperature=0, max_tokens=2000)
    )
    seen = []
    for value in generation:
        seen.append(value)
        if len(seen) == 5:
            generation.cancel()
    done = seen[-1]
    assert isinstance(done, Done)
    assert done.stop_reason == "cancelled"
    assert 5 <= done.usage.completion_tokens < 1000


def test_a_cancelled_request_that_waits_is_never_evaluated(engine: LlamaEngine) -> None:
    first = engine.generate(engine.raw("word " * 2000), GREEDY)
    second = engine.generate(engine.raw("other " * 2000), GREEDY)
    second.cancel()
    first.cancel()
    assert [type(value) for value in first] == [Done]
    (done,) = second
    assert isinstance(done, Done)
    assert done.stop_reason == "cancelled"


def test_a_longer_prompt_evaluates_only_what_is_new(engine: LlamaEngine) -> None:
    start = engine.raw("The quick brown fox jumps over the lazy dog. " * 3)
    complete(engine, start, Sampling(temperature=0, max_tokens=1))
    more = engine.raw("The quick brown fox jumps over the lazy dog. " * 3 + " And then")
    _, done = complete(engine, more, Sampling(temperature=0, max_tokens=1))
    assert done.usage.cached_tokens >= len(start.tokens) - 1


@pytest.mark.parametrize("keep", [700, 1200, 1700])
def test_going_back_past_the_window_gives_the_answer_of_a_fresh_prefill(
    demo_gguf: Path, keep: int
) -> None:
    words = [f"{i} is followed by {i + 1}." for i in range(400)]
    text = " ".join(words)
    engine = make_engine(demo_gguf)
    whole = engine.raw(text)
    shorter = Prompt((), whole.tokens[:keep])
    complete(engine, Prompt((), whole.tokens[:2000]), Sampling(temperature=0, max_tokens=1))
    again, done = complete(engine, shorter, GREEDY)
    engine.close()
    fresh = make_engine(demo_gguf)
    expected, _ = complete(fresh, shorter, GREEDY)
    fresh.close()
    assert again == expected
    assert done.usage.cached_tokens in (0, keep - 1)


def test_the_context_ends_an_answer_and_says_so(demo_gguf: Path) -> None:
    engine = make_engine(demo_gguf, n_ctx=256)
    prompt = engine.raw("a b c " * 80)
    _, done = complete(engine, prompt, Sampling(temperature=0))
    assert done.stop_reason == "length"
    assert done.used <= done.n_ctx == 256
    with pytest.raises(PromptTooLongError, match="256"):
        engine.generate(engine.raw("word " * 300), GREEDY)
    engine.close()


def test_closing_while_it_loads_is_clean(demo_gguf: Path) -> None:
    for delay in (0, 0.05, 0.2):
        engine = make_engine(demo_gguf)
        time.sleep(delay)
        engine.close()
        assert engine.progress() == 1.0


def test_the_kv_formula_is_llama_cpps_own_figure(gemma: Gemma, demo_gguf: Path) -> None:
    header = read_header(demo_gguf)
    for n_ctx in (512, 32768):
        arguments = ("run", "-m", str(demo_gguf), "--ctx", str(n_ctx), "-n", "1", "x")
        shown = gemma(*arguments, env={"GEMMA_DEBUG": "1"}).stderr
        sizes = re.findall(r"size = +([\d.]+) MiB \( *\d+ cells", shown)
        ours = kv_bytes(header, n_ctx, "f16", range(header.n_layers)) / (1 << 20)
        assert sum(map(float, sizes)) == pytest.approx(ours, abs=0.1)


CONTROL = ["<start_of_turn>", "<end_of_turn>", "<bos>", "<eos>", "<pad>", "<unused7>"]
USER_DEFINED = ["<start_of_image>", "<end_of_image>", "[multimodal]"]


@settings(max_examples=300, deadline=None)
@given(
    st.lists(
        st.one_of(
            st.sampled_from(CONTROL + USER_DEFINED),
            st.sampled_from([name[:5] for name in CONTROL + USER_DEFINED]),
            st.sampled_from([name[5:] for name in CONTROL + USER_DEFINED]),
            st.sampled_from(["<", ">", "[", " ", "\n", "<b>", "</s>", "▁", "\t\t"]),
            st.text(max_size=8),
        ),
        max_size=12,
    )
)
def test_no_text_yields_a_control_token(vocabulary: Vocabulary, parts: list[str]) -> None:
    text = "".join(parts).encode("utf-8", "ignore").decode()
    tokens = vocabulary.plain(text)
    names = {vocabulary.text_of(token) for token in tokens}
    assert not names & {*CONTROL, *USER_DEFINED}
    said = b"".join(vocabulary.piece(token) for token in tokens).decode()
    assert said == text


def test_control_text_does_yield_them_and_bos_stands_once(vocabulary: Vocabulary) -> None:
    for lead in ("", "<bos>", "<bos><bos>"):
        ids = vocabulary.encode(
            [
                Segment(f"{lead}<start_of_turn>user\n", control=True),
                Segment("<end_of_turn>", control=False),
                Segment("<end_of_turn>\n", control=True),
            ]
        )
        names = [vocabulary.text_of(token) for token in ids]
        assert names.count("<bos>") == 1 == names.count("<start_of_turn>")
        assert names[0] == "<bos>"
        assert names.count("<end_of_turn>") == 1


def test_a_token_is_not_forged_across_neighbouring_words(vocabulary: Vocabulary) -> None:
    ids = vocabulary.encode(
        [Segment("<start_of_", control=False), Segment("image>", control=False)]
    )
    assert "<start_of_image>" not in {vocabulary.text_of(token) for token in ids}


def test_a_long_text_in_parts_has_the_tokens_of_the_whole(vocabulary: Vocabulary) -> None:
    lines = [f"{'#' * (n % 7)} line {n}:\t{'x ' * (n % 90)}\n" + "\n" * (n % 3) for n in range(900)]
    text = "".join(lines)
    assert len(text) > 70_000
    assert len(list(vocabulary._parts(text))) > 5
    assert vocabulary.plain(text) == vocabulary._tokenize(text, parse_special=False)


def test_every_token_has_its_bytes_the_long_ones_too(vocabulary: Vocabulary) -> None:
    long = 0
    for token in range(vocabulary.size):
        piece = vocabulary.piece(token)
        long += len(piece) > 32
        spelled = vocabulary.text_of(token)
        if len(piece) > 1 and not spelled.startswith("<"):
            assert piece == spelled.replace("▁", " ").encode()
    assert long == 379
    text = "भारत के प्रधानमंत्री ने कहा"
    assert b"".join(map(vocabulary.piece, vocabulary.plain(text))).decode() == text


def test_the_html_tag_s_does_not_end_an_answer(vocabulary: Vocabulary) -> None:
    tag = next(t for t in range(vocabulary.size) if vocabulary.text_of(t) == "</s>")
    assert not vocabulary.is_end(tag)
    assert vocabulary.piece(tag) == b"</s>"
    ends = [t for t in range(vocabulary.size) if vocabulary.is_end(t)]
    assert {vocabulary.text_of(token) for token in ends} == {"<eos>", "<end_of_turn>"}


def test_the_abort_flag_is_a_c_callback() -> None:
    from gemma_cli.engine.library import AbortFlag

    flag = AbortFlag()
    poll = ctypes.CFUNCTYPE(ctypes.c_bool, ctypes.c_void_p)(
        ctypes.cast(flag.callback, ctypes.c_void_p).value or 0
    )
    assert not poll(flag.address)
    flag.set()
    assert poll(flag.address)
