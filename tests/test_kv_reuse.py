"""Going back on the real 270M, past its window of 512: never wrong, and nothing twice."""

from __future__ import annotations

import os
import random
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gemma_cli.engine.cache import NEAR, Checkpoint, Checkpoints, reusable
from gemma_cli.engine.context import Context
from gemma_cli.engine.decoding import SURE_LEAD
from gemma_cli.engine.evaluation import Evaluation
from gemma_cli.engine.library import AbortFlag, C
from gemma_cli.engine.model import Model
from gemma_cli.engine.snapshots import Snapshot, Snapshots
from gemma_cli.machine.devices import Device, Machine
from gemma_cli.machine.memory import Plan, Wishes, plan
from gemma_cli.models.gguf import read_header

ROOMY = Machine(Device("CPU", "cpu", 64 << 30, 64 << 30), (), threads=2)
BUDGET = 256 << 20

# Nats of KL divergence between the next-token distributions of a prompt that
# was evaluated in other batches: llama.cpp sums attention in another order, in
# half precision, for batches under 64 tokens. Measured on this model: up to
# 0.02, single logits up to 6.5. A lost window right behind the fork: 1.7 to 2.8.
ROUNDING = 0.05


@pytest.fixture(scope="module")
def model(demo_gguf: Path) -> Iterator[Model]:
    made = Model(demo_gguf, 0)
    yield made
    made.close()


@pytest.fixture(scope="module")
def facts(demo_gguf: Path) -> Plan:
    return plan(read_header(demo_gguf), ROOMY, Wishes(n_ctx=8192, threads=1))


@pytest.fixture
def evaluation(model: Model, facts: Plan) -> Iterator[Evaluation]:
    context = Context(model, facts, AbortFlag())
    yield Evaluation(context, model.sliding_window, BUDGET, None)
    context.close()


@pytest.fixture(scope="module")
def text(model: Model) -> list[int]:
    """Some thousand tokens of a text that does not repeat itself."""
    rng = random.Random(5)
    words = ("river", "stone", "amber", "quiet", "engine", "harbour", "violet", "lantern")
    lines = [
        f"{number}. The {rng.choice(words)} {rng.choice(words)} of {rng.choice(words)} "
        f"is {rng.randint(1, 9999)} {rng.choice(words)}."
        for number in range(500)
    ]
    return [model.vocabulary.bos, *model.vocabulary.plain("\n".join(lines))]


def logits(context: Context, n_vocab: int) -> Any:
    pointer = C.llama_get_logits_ith(context.pointer, -1)
    return np.ctypeslib.as_array(pointer, shape=(n_vocab,)).copy()


def divergence(reference: Any, other: Any) -> float:
    """KL divergence in nats between two rows of logits."""
    p, q = (row.astype(np.float64) - row.max() for row in (reference, other))
    p, q = p - np.log(np.exp(p).sum()), q - np.log(np.exp(q).sum())
    return float((np.exp(p) * (p - q)).sum())


def fresh_logits(model: Model, facts: Plan, tokens: Sequence[int]) -> Any:
    context = Context(model, facts, AbortFlag())
    assert Evaluation(context, model.sliding_window, 0, None).reach(tokens).complete
    result = logits(context, model.vocabulary.size)
    context.close()
    return result


def greedy(context: Context, n_vocab: int, count: int) -> list[int]:
    said = []
    for _ in range(count):
        said.append(int(logits(context, n_vocab).argmax()))
        assert context.evaluate(said[-1:])
    return said


def test_going_back_to_any_depth_agrees_with_a_fresh_prefill(
    evaluation: Evaluation, model: Model, facts: Plan, text: list[int]
) -> None:
    """A chat of seven turns, then back to each of them, well past the window."""
    n_vocab = model.vocabulary.size
    ends = [200 * turn for turn in range(1, 8)]
    for end in ends:
        assert evaluation.reach(text[:end]).complete
        evaluation.mark()
    for number, end in enumerate(reversed(ends)):
        other = [*text[:end], *text[4000 : 4000 + (1, 20, 300)[number % 3]]]
        reached = evaluation.reach(other)
        assert reached.cached == end
        assert evaluation.context.tokens == other
        mine = logits(evaluation.context, n_vocab)
        fresh = fresh_logits(model, facts, other)
        assert divergence(fresh, mine) < ROUNDING
        if fresh[np.argsort(fresh)[-2]] < fresh.max() - SURE_LEAD:
            assert mine.argmax() == fresh.argmax()


def test_regenerating_evaluates_one_token_only(
    evaluation: Evaluation, model: Model, text: list[int]
) -> None:
    prompt = [*text[:900], *model.vocabulary.plain("\n\n1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12,")]
    evaluation.reach(prompt)
    evaluation.mark()
    first = logits(evaluation.context, model.vocabulary.size)
    said = greedy(evaluation.context, model.vocabulary.size, 24)
    evaluation.reach([*prompt, *said, *text[5000:5700]])  # the window has moved on
    assert evaluation.reach(prompt).cached == len(prompt) - 1
    again = logits(evaluation.context, model.vocabulary.size)
    assert divergence(again, first) < ROUNDING
    assert greedy(evaluation.context, model.vocabulary.size, 24) == said


def test_a_new_turn_evaluates_only_its_tokens(evaluation: Evaluation, text: list[int]) -> None:
    evaluation.reach(text[:900])
    assert evaluation.reach(text[:930]).cached == 900


def test_a_stable_part_can_be_gone_back_to(evaluation: Evaluation, text: list[int]) -> None:
    evaluation.reach([*text[:1000], *text[5000:5700]], stable=1000)
    assert evaluation.reach([*text[:1000], *text[6000:6100]]).cached == 1000


def test_without_a_checkpoint_everything_is_evaluated_again(
    model: Model, facts: Plan, text: list[int]
) -> None:
    context = Context(model, facts, AbortFlag())
    evaluation = Evaluation(context, model.sliding_window, 0, None)
    evaluation.reach(text[:1800])
    assert evaluation.reach([*text[:1000], *text[5000:5050]]).cached == 0
    context.close()


def test_a_lost_window_is_noticed(
    evaluation: Evaluation, model: Model, facts: Plan, text: list[int]
) -> None:
    """What the rule protects from: llama.cpp rewinds, says yes, and the logits are far off."""
    other = [*text[:1000], text[5000]]
    evaluation.reach(text[:1800])
    evaluation.context.rewind(1000)
    assert evaluation.context.evaluate(other[1000:])
    wrong = logits(evaluation.context, model.vocabulary.size)
    assert divergence(fresh_logits(model, facts, other), wrong) > 20 * ROUNDING


def test_a_prefill_in_other_parts_differs_by_rounding(
    evaluation: Evaluation, model: Model, facts: Plan, text: list[int]
) -> None:
    """The bound: one token evaluated alone, and the same one at the end of a batch."""
    worst = 0.0
    for end in range(600, 1500, 300):
        evaluation.reach(text[: end - 1])
        evaluation.reach(text[:end])
        mine = logits(evaluation.context, model.vocabulary.size)
        worst = max(worst, divergence(fresh_logits(model, facts, text[:end]), mine))
    assert worst < ROUNDING


@pytest.mark.parametrize("kv_type", ["q8_0", "q4_0"])
def test_checkpoints_hold_quantized_windows(
    model: Model, demo_gguf: Path, text: list[int], kv_type: Any
) -> None:
    facts = plan(read_header(demo_gguf), ROOMY, Wishes(n_ctx=4096, kv_type=kv_type, threads=1))
    context = Context(model, facts, AbortFlag())
    evaluation = Evaluation(context, model.sliding_window, BUDGET, None)
    evaluation.reach(text[:700])
    evaluation.mark()
    evaluation.reach(text[:1400])
    other = [*text[:700], *text[5000:5040]]
    assert evaluation.reach(other).cached == 700
    mine = logits(context, model.vocabulary.size)
    context.close()
    assert divergence(fresh_logits(model, facts, other), mine) < ROUNDING


def point(n_past: int, size: int = 10) -> Checkpoint:
    return Checkpoint(n_past, bytes(size))


def test_the_nearest_checkpoint_before_the_fork_is_taken() -> None:
    cached = list(range(3000))
    prompt = [*cached[:1500], -1, -1]
    points = [point(500), point(1400), point(1600), point(3000)]
    reuse = reusable(cached, prompt, 2400, 512, points)
    assert reuse == (type(reuse))(1400, points[1])


def test_checkpoints_stay_within_their_budget_and_thin_out_with_age() -> None:
    points = Checkpoints(100)
    for n_past in range(100, 5100, 100):
        points.add(point(n_past))
    kept = [kept.n_past for kept in points]
    assert len(kept) == 10
    assert kept[-2:] == [4900, 5000]
    gaps = [b - a for a, b in zip([0, *kept], kept, strict=False)]
    assert gaps[0] > gaps[-1]


def test_a_checkpoint_above_the_budget_is_not_kept() -> None:
    points = Checkpoints(5)
    points.add(point(100))
    assert not list(points)


def test_a_checkpoint_above_the_budget_is_not_even_copied(
    model: Model, facts: Plan, text: list[int]
) -> None:
    class Counted(Context):
        copies = 0

        def checkpoint(self) -> Checkpoint:
            self.copies += 1
            return super().checkpoint()

    context = Counted(model, facts, AbortFlag())
    for budget, copies in ((1000, 0), (BUDGET, 1)):
        evaluation = Evaluation(context, model.sliding_window, budget, None)
        evaluation.reach(text[:20])
        evaluation.mark()
        assert (context.copies, len(list(evaluation.checkpoints))) == (copies, copies)
    context.close()


def test_checkpoints_of_changed_tokens_are_forgotten() -> None:
    points = Checkpoints(100)
    for n_past in (100, 200, 300):
        points.add(point(n_past))
    points.forget(250)
    assert [kept.n_past for kept in points] == [100, 200]
    assert points.is_near(200 + NEAR - 1)
    assert not points.is_near(199)


# Snapshots on disk


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "kv"


def stored(folder: Path, **identity: object) -> Snapshots:
    return Snapshots(folder, {"model": "x"} | identity, 1 << 30)


def other_process(model: Model, facts: Plan, snapshots: Snapshots) -> tuple[Context, Evaluation]:
    context = Context(model, facts, AbortFlag())
    return context, Evaluation(context, model.sliding_window, BUDGET, snapshots)


def test_a_kept_conversation_is_resumed_with_the_same_logits(
    model: Model, facts: Plan, text: list[int], folder: Path
) -> None:
    snapshots = stored(folder)
    context, evaluation = other_process(model, facts, snapshots)
    evaluation.reach(text[:800])
    evaluation.mark()
    evaluation.reach(text[:900])
    evaluation.keep()
    context.close()
    (file,) = folder.iterdir()
    assert file.stat().st_mode & 0o777 == 0o600

    context, evaluation = other_process(model, facts, snapshots)
    assert evaluation.reach(text[:930]).cached == 900
    mine = logits(context, model.vocabulary.size)
    assert divergence(fresh_logits(model, facts, text[:930]), mine) < ROUNDING
    # The last turn can be taken back too: a checkpoint came with it.
    other = [*text[:800], *text[5000:5050]]
    evaluation.reach(text[:1600])
    assert evaluation.reach(other).cached == 800
    mine = logits(context, model.vocabulary.size)
    assert divergence(fresh_logits(model, facts, other), mine) < ROUNDING
    context.close()


def test_a_continued_snapshot_replaces_the_one_it_came_from(
    model: Model, facts: Plan, text: list[int], folder: Path
) -> None:
    snapshots = stored(folder)
    context, evaluation = other_process(model, facts, snapshots)
    evaluation.reach(text[:600])
    evaluation.keep()
    evaluation.reach(text[:900])
    evaluation.keep(continues=True)
    context.close()
    assert len(list(folder.iterdir())) == 1
    context, evaluation = other_process(model, facts, snapshots)
    assert evaluation.reach(text[:1000]).cached == 900
    context.close()


def test_another_conversation_in_the_same_process_replaces_nothing(
    model: Model, facts: Plan, text: list[int], folder: Path
) -> None:
    snapshots = stored(folder)
    context, evaluation = other_process(model, facts, snapshots)
    evaluation.reach(text[:600])
    evaluation.keep(continues=True)
    evaluation.reach([*text[:10], *text[5000:5500]])
    evaluation.keep(continues=True)
    context.close()
    assert len(list(folder.iterdir())) == 2
    context, evaluation = other_process(model, facts, snapshots)
    assert evaluation.reach(text[:700]).cached == 600
    context.close()


def test_a_document_is_kept_up_to_its_question(
    model: Model, facts: Plan, text: list[int], folder: Path
) -> None:
    snapshots = stored(folder)
    context, evaluation = other_process(model, facts, snapshots)
    evaluation.reach([*text[:800], *text[5000:5600]], stable=800)
    evaluation.keep(800)
    context.close()
    context, evaluation = other_process(model, facts, snapshots)
    other = [*text[:800], *text[6000:6030]]
    assert evaluation.reach(other).cached == 800
    mine = logits(context, model.vocabulary.size)
    context.close()
    assert divergence(fresh_logits(model, facts, other), mine) < ROUNDING


def kept_file(model: Model, facts: Plan, text: list[int], folder: Path) -> Path:
    context, evaluation = other_process(model, facts, stored(folder))
    evaluation.reach(text[:700])
    evaluation.keep()
    context.close()
    (file,) = folder.iterdir()
    return file


def damage(raw: bytes, how: str) -> bytes:
    middle = len(raw) // 2
    return {
        "cut in the state": raw[:-1],
        "cut in the head": raw[:20],
        "empty": b"",
        "one bit": raw[:middle] + bytes([raw[middle] ^ 1]) + raw[middle + 1 :],
        "a token": raw[:200] + bytes([raw[200] ^ 1]) + raw[201:],
        "another program's": b"GIF89a" + raw[6:],
        "a later version": b"GEMMAKV2" + raw[8:],
        "longer": raw + b"\0",
        "huge counts": raw[:40] + b"\xff\xff\xff\xff\xff\xff\xff\xff" + raw[48:],
    }[how]


def test_a_document_asked_about_again_gives_the_very_same_logits(
    model: Model, facts: Plan, text: list[int], folder: Path
) -> None:
    """A seed draws the same answer then. Past the window its cells stood in another order."""
    prompt, stable = text[:1800], 1786
    answered = [*prompt, *text[2300:2340]]
    seen = []
    for kept in (False, True):
        context, evaluation = other_process(model, facts, stored(folder))
        assert evaluation.reach(prompt, stable=stable).cached == (stable if kept else 0)
        seen.append(logits(context, model.vocabulary.size))
        evaluation.reach(answered)
        evaluation.keep(stable)
        context.close()
    assert np.array_equal(*seen)


@pytest.mark.parametrize(
    "how",
    [
        "cut in the state",
        "cut in the head",
        "empty",
        "one bit",
        "a token",
        "another program's",
        "a later version",
        "longer",
        "huge counts",
    ],
)
def test_a_damaged_snapshot_is_replaced_and_the_prompt_evaluated(
    model: Model,
    facts: Plan,
    text: list[int],
    folder: Path,
    how: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("GEMMA_DEBUG", "1")
    file = kept_file(model, facts, text, folder)
    whole = file.read_bytes()
    file.write_bytes(damage(whole, how))
    context, evaluation = other_process(model, facts, stored(folder))
    assert evaluation.reach(text[:720]).cached == 0
    mine = logits(context, model.vocabulary.size)
    assert np.abs(mine - fresh_logits(model, facts, text[:720])).max() == 0
    assert f"KV snapshot {file.name} is damaged" in capsys.readouterr().err
    evaluation.keep(700)
    context.close()
    context, evaluation = other_process(model, facts, stored(folder))
    assert evaluation.reach(text[:720]).cached == 700
    context.close()


def test_a_snapshot_of_another_identity_is_not_seen(
    model: Model, facts: Plan, text: list[int], folder: Path
) -> None:
    kept_file(model, facts, text, folder)
    context, evaluation = other_process(model, facts, stored(folder, kv_type="q8_0"))
    assert evaluation.reach(text[:720]).cached == 0
    context.close()


def test_a_state_that_llama_cpp_refuses_is_ignored(
    model: Model, facts: Plan, demo_gguf: Path, text: list[int], folder: Path
) -> None:
    """A quantized cache read by a context of f16: its types are part of the state."""
    kept_file(model, facts, text, folder)
    other = plan(read_header(demo_gguf), ROOMY, Wishes(n_ctx=4096, kv_type="q8_0", threads=1))
    context, evaluation = other_process(model, other, stored(folder))
    assert evaluation.reach(text[:720]).complete
    mine = logits(context, model.vocabulary.size)
    context.close()
    assert np.abs(mine - fresh_logits(model, other, text[:720])).max() == 0


def test_a_state_larger_than_the_context_is_ignored(
    model: Model, demo_gguf: Path, facts: Plan, text: list[int], folder: Path
) -> None:
    kept_file(model, facts, text, folder)
    small = plan(read_header(demo_gguf), ROOMY, Wishes(n_ctx=512, threads=1))
    context, evaluation = other_process(model, small, stored(folder))
    assert evaluation.reach(text[:500]).complete
    assert context.tokens == text[:500]
    context.close()


def test_the_least_recently_used_leave_first(folder: Path) -> None:
    snapshots = Snapshots(folder, {"model": "x"}, 4500)
    prompts = [[number, *range(100)] for number in range(5)]
    for number, tokens in enumerate(prompts[:3]):
        snapshots.keep(Snapshot(tuple(tokens), bytes(900)))
        newest = max(folder.iterdir(), key=lambda file: file.stat().st_mtime)
        os.utime(newest, (number, number))
    assert snapshots.best([*prompts[0], 7], 1, 999)  # used again: now the newest
    for tokens in prompts[3:]:
        snapshots.keep(Snapshot(tuple(tokens), bytes(900)))
    found = [snapshots.best([*tokens, 7], 1, 999) is not None for tokens in prompts]
    assert found == [True, False, False, True, True]
    assert sum(file.stat().st_size for file in folder.iterdir()) <= 4500


def test_the_newest_is_read_early_and_let_go_where_it_is_not_wanted(folder: Path) -> None:
    snapshots = Snapshots(folder, {"model": "x"}, 1 << 20)
    for number in range(3):
        snapshots.keep(Snapshot((number, *range(100)), bytes([number]) * 900))
        os.utime(max(folder.iterdir(), key=lambda file: file.stat().st_mtime), (number, number))
    for number, least in ((1, 1), (2, 1), (0, 999)):
        snapshots.read_early()
        found = snapshots.best([number, *range(100), 7], least, 999)
        assert snapshots._early is None
        assert (found and bytes(found.state)) == (bytes([number]) * 900 if least == 1 else None)


def test_what_a_killed_process_left_half_written_leaves_too(folder: Path) -> None:
    folder.mkdir()
    left = folder / "new-abc.tmp"
    left.write_bytes(bytes(5000))
    os.utime(left, (0, 0))
    Snapshots(folder, {}, 1 << 30).keep(Snapshot((1, 2, 3), bytes(900)))
    assert not left.exists()


def test_an_unwritable_folder_is_an_error_of_the_system(
    model: Model, facts: Plan, text: list[int], tmp_path: Path
) -> None:
    (tmp_path / "kv").write_text("a file where the folder should be")
    context, evaluation = other_process(model, facts, stored(tmp_path / "kv"))
    evaluation.reach(text[:600])
    with pytest.raises(FileExistsError):
        evaluation.keep()
    context.close()
