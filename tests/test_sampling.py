"""What is drawn: against the definitions in NumPy, and against llama.cpp's own full chains."""

from __future__ import annotations

import ctypes
from collections import Counter
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gemma_cli.engine import selection
from gemma_cli.engine.library import C
from gemma_cli.engine.protocol import LogitBias, Sampling, parse_logit_bias
from gemma_cli.engine.sampling import Sampler
from gemma_cli.errors import UsageError
from tests.logits import Logits, WrittenLogits, assert_fair, nucleus, softmax
from tests.scripted_model import scripted_gemma4

DRAWS = 4000


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Iterator[WrittenLogits]:
    """A small vocabulary in a real context."""
    path = tmp_path_factory.mktemp("tiny") / "tiny.gguf"
    written = WrittenLogits(scripted_gemma4(path, ["Hello", "sure", '{"']))
    yield written
    written.close()


def some_logits(size: int, spread: float = 2.0, seed: int = 0) -> Logits:
    return np.random.default_rng(seed).normal(0, spread, size).astype(np.float32)


def draw_many(written: WrittenLogits, logits: Logits, sampling: Sampling) -> Counter[int]:
    """The tokens of one long answer in which every position has these logits."""
    context = written.set(logits)
    sampler = Sampler(sampling, written.vocabulary)
    drawn = Counter(sampler.sample(context) for _ in range(DRAWS))
    sampler.close()
    return drawn


def llama_cpp(stages: list[Any], logits: Logits) -> set[int]:
    """The tokens that llama.cpp's samplers leave of a whole vocabulary."""
    chain = C.llama_sampler_chain_init(C.llama_sampler_chain_default_params())
    for stage in stages:
        C.llama_sampler_chain_add(chain, stage)
    memory = (C.llama_token_data * len(logits))()
    for token, logit in enumerate(logits):
        memory[token] = C.llama_token_data(token, logit, 0.0)
    array = C.llama_token_data_array(memory, len(logits), -1, False)
    C.llama_sampler_apply(chain, ctypes.byref(array))
    left = {int(array.data[index].id) for index in range(array.size)}
    C.llama_sampler_free(chain)
    return left


@pytest.mark.parametrize("top_k", [0, 40])
@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_temperature(tiny: WrittenLogits, top_k: int, temperature: float) -> None:
    logits = some_logits(tiny.vocabulary.size)
    if top_k:
        logits[np.argsort(-logits)[top_k:]] = -np.inf
    sampling = Sampling(temperature=temperature, top_k=top_k, top_p=1, seed=1)
    assert_fair(draw_many(tiny, logits, sampling), softmax(logits, temperature))


@pytest.mark.parametrize("top_k", [0, 40])
@pytest.mark.parametrize("temperature", [1e-45, 1e-38, 1e-30, 0.01, 0.1])
def test_the_best_token_alone_is_drawn_when_it_is_cold(
    tiny: WrittenLogits, top_k: int, temperature: float
) -> None:
    """Differences of logits are then beyond what a softmax can take that looks for no maximum."""
    logits = some_logits(tiny.vocabulary.size, 4)
    best = int(logits.argmax())
    logits[best] += 2
    sampling = Sampling(temperature=temperature, top_k=top_k, top_p=1, seed=1)
    assert set(draw_many(tiny, logits, sampling)) == {best}


@pytest.mark.parametrize("top_k", [0, 40])
def test_top_p_and_min_p(tiny: WrittenLogits, top_k: int) -> None:
    logits = some_logits(tiny.vocabulary.size)
    if top_k:
        logits[np.argsort(-logits)[top_k:]] = -np.inf
    probabilities = softmax(logits)
    drawn = draw_many(tiny, logits, Sampling(top_k=top_k, top_p=0.7, seed=2))
    assert_fair(drawn, nucleus(probabilities, 0.7))
    drawn = draw_many(tiny, logits, Sampling(top_k=top_k, top_p=1, min_p=0.2, seed=3))
    kept = np.where(probabilities >= 0.2 * probabilities.max(), probabilities, 0)
    assert_fair(drawn, kept / kept.sum())


@pytest.mark.parametrize("top_k", [0, 40])
def test_xtc_leaves_out_all_but_the_last_of_the_likeliest(tiny: WrittenLogits, top_k: int) -> None:
    logits = np.full(tiny.vocabulary.size, -np.inf, dtype=np.float32)
    probabilities = np.array([0.4, 0.3, 0.2, 0.06, 0.04])
    tokens = np.arange(300, 305)
    logits[tokens] = np.log(probabilities)
    options = Sampling(top_k=top_k, top_p=1, xtc_probability=0.5, xtc_threshold=0.1, seed=4)
    expected = np.zeros(tiny.vocabulary.size)
    expected[tokens] = probabilities / 2
    expected[tokens[2:]] += probabilities[2:] / probabilities[2:].sum() / 2
    assert_fair(draw_many(tiny, logits, options), expected)


sizes = st.integers(1, 3000)
seeds = st.integers(0, 2**32 - 1)
spreads = st.sampled_from([0.01, 1.0, 5.0])


@given(sizes, st.integers(1, 1200), seeds, st.booleans())
def test_top_k_is_what_sorting_gives(size: int, k: int, seed: int, hard: bool) -> None:
    logits = some_logits(size, 3.0, seed).round(1)  # with equal ones
    if hard:
        logits[np.random.default_rng(seed).random(size) < 0.9] = -np.inf
        logits[0] = 0
    expected = [token for token in np.argsort(-logits, kind="stable") if logits[token] > -np.inf]
    assert selection.top_k(logits, k).tolist() == expected[:k]


@given(sizes, st.floats(0.01, 1), st.floats(0, 1), spreads, seeds)
def test_truncation_is_llama_cpps(
    size: int, top_p: float, min_p: float, spread: float, seed: int
) -> None:
    logits = some_logits(size, spread, seed)
    stages = [C.llama_sampler_init_top_p(top_p, 1), C.llama_sampler_init_min_p(min_p, 1)]
    theirs = llama_cpp(stages, logits)
    left = logits.copy()
    selection.truncate(left, top_p, min_p)
    ours = set(np.flatnonzero(left > -np.inf).tolist())
    # They sum in single precision, which decides over one token at the edge now and then.
    edge = 1e-4 * softmax(logits)[list(ours)].sum() + 2e-7 * size
    assert softmax(logits)[list(ours ^ theirs)].sum() <= max(
        edge, softmax(logits)[list(ours)].min() * 1.001
    )
    assert all(left[list(ours)] == logits[list(ours)])


@given(st.integers(2, 3000), st.floats(0.011, 0.5), spreads, seeds)
def test_xtc_on_everything_is_llama_cpps(
    size: int, threshold: float, spread: float, seed: int
) -> None:
    logits = some_logits(size, spread, seed)
    theirs = llama_cpp([C.llama_sampler_init_xtc(1.0, threshold, 1, 0)], logits)
    chain = C.llama_sampler_init_xtc(1.0, threshold, 1, 0)
    left = logits.copy()
    selection.exclude_top_choices(chain, left, threshold)
    C.llama_sampler_free(chain)
    assert set(np.flatnonzero(left > -np.inf).tolist()) == theirs


@given(st.integers(1, 3000), seeds)
def test_forbidding_keeps_what_the_mask_allows(size: int, seed: int) -> None:
    allowed = np.random.default_rng(seed).random(size) < 0.5
    logits = some_logits(size, 1, seed)
    left = logits.copy()
    selection.forbid(left, np.packbits(allowed, bitorder="little").tobytes())
    assert np.array_equal(left, np.where(allowed, logits, -np.inf))


PENALTIES = {"repeat_penalty": 1.3, "presence_penalty": 0.4, "frequency_penalty": 0.2}
DRY = {"dry_multiplier": 0.9, "dry_allowed_length": 1}


@pytest.mark.parametrize("options", [PENALTIES, DRY, PENALTIES | DRY, {"repeat_penalty": 0.7}])
def test_penalties_without_top_k_are_llama_cpps_on_everything(
    tiny: WrittenLogits, options: dict[str, Any]
) -> None:
    size = tiny.vocabulary.size
    said = [300, 301, 302, 300, 301, 302, 300, 301]
    logits = some_logits(size)
    # Half of the weight on one token would hide a wrong penalty: everything is compared.
    sampling = Sampling(top_k=0, top_p=1, seed=1, **options)
    sampler = Sampler(sampling, tiny.vocabulary)
    sampler.accept_prompt(said)
    ours = selection.Selection(sampling, {}, sampler._chains, size).prepare(logits, sampler._recent)
    theirs = logits.copy()
    window = said[-sampling.repeat_last_n :]
    for token in set(window) if options != DRY else ():
        count = window.count(token)
        theirs[token] *= sampling.repeat_penalty ** (-1 if theirs[token] > 0 else 1)
        theirs[token] -= count * sampling.frequency_penalty + sampling.presence_penalty
    if "dry_multiplier" in options:
        # "300 301" and, with what goes before, five tokens have been said already.
        theirs[302] -= np.float32(0.9 * 1.75 ** (5 - 1))
    np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-5)
    sampler.close()


@pytest.mark.parametrize("options", [PENALTIES, {"repeat_penalty": 0.7}, {"repeat_penalty": 1.8}])
def test_greedy_decoding_with_penalties_looks_at_every_token(
    tiny: WrittenLogits, options: dict[str, Any]
) -> None:
    """The best of few is the best of all, as long as the few are enough."""
    logits = np.abs(some_logits(tiny.vocabulary.size, 0.5))
    sampling = Sampling(temperature=0, repeat_last_n=16, **options)
    sampler = Sampler(sampling, tiny.vocabulary)
    context = tiny.set(logits)
    said: list[int] = []
    for _ in range(100):
        expected = logits.copy()
        for token in set(said[-16:]):
            expected[token] /= sampling.repeat_penalty
            expected[token] -= sampling.frequency_penalty * said[-16:].count(token)
            expected[token] -= sampling.presence_penalty
        said.append(sampler.sample(context))
        assert said[-1] == expected.argmax()
    sampler.close()


@pytest.mark.parametrize("top_k", [0, 20])
@pytest.mark.parametrize("temperature", [0, 1])
def test_a_logit_bias_lifts_and_bans(tiny: WrittenLogits, top_k: int, temperature: int) -> None:
    logits = some_logits(tiny.vocabulary.size)
    best, worst = int(logits.argmax()), int(logits.argmin())
    the = tiny.vocabulary.plain("the")[0]
    logits[the] = logits.min()
    biases: tuple[LogitBias, ...] = ((best, -1000.0), (worst, 40.0), ("the", 40.0))
    sampling = Sampling(temperature=temperature, top_k=top_k, logit_bias=biases, seed=5)
    drawn = draw_many(tiny, logits, sampling)
    assert set(drawn) == {worst, the} if temperature else {min(worst, the)}


@pytest.mark.parametrize(
    ("bias", "said"),
    [((10**9, 1.0), "no token 1000000000"), (("Hello you", 1.0), "tokens of this model")],
)
def test_a_bias_on_no_token_is_refused(tiny: WrittenLogits, bias: LogitBias, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        Sampler(Sampling(logit_bias=(bias,)), tiny.vocabulary)


@pytest.mark.parametrize(
    ("said", "bias"),
    [
        ("107=-100", (107, -100.0)),
        (" hello=2.5", (" hello", 2.5)),
        ('"7"=1', ("7", 1.0)),
        ('"a\\n"=1', ("a\n", 1.0)),
        ("a=b=-1", ("a=b", -1.0)),
    ],
)
def test_a_bias_is_read(said: str, bias: LogitBias) -> None:
    assert parse_logit_bias(said) == bias


@pytest.mark.parametrize("said", ["", "x", "=1", "5=", "5=nan", "5=inf", "5=1e9", '""=1', "5=x"])
def test_a_bias_that_cannot_be_meant_is_refused(said: str) -> None:
    with pytest.raises(UsageError, match="bias"):
        parse_logit_bias(said)


@pytest.mark.parametrize("top_k", [0, 40])
def test_a_seed_gives_the_same_tokens_and_another_gives_others(
    tiny: WrittenLogits, top_k: int
) -> None:
    context = tiny.set(some_logits(tiny.vocabulary.size))
    options = {"top_k": top_k, "xtc_probability": 0.5, "presence_penalty": 0.1}

    def tokens(seed: int | None) -> tuple[int, list[int]]:
        sampler = Sampler(Sampling(seed=seed, **options), tiny.vocabulary)  # type: ignore[arg-type]
        said = [sampler.sample(context) for _ in range(20)]
        sampler.close()
        return sampler.seed, said

    assert tokens(7) == tokens(7) != tokens(8)
    drawn, said = tokens(None)
    assert tokens(drawn) == (drawn, said)
