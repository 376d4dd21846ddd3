"""The memory plan: pure, so tested with values of real shapes."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from gemma_cli.commands.loading.confirming import corrected
from gemma_cli.engine.simulation import Simulated
from gemma_cli.errors import DoesNotFitError, UsageError
from gemma_cli.machine.devices import Device, Machine
from gemma_cli.machine.layout import parts_of
from gemma_cli.machine.memory import Share, Wishes, kv_bytes, plan, remaining
from gemma_cli.machine.offload import Offloading
from gemma_cli.models.gguf import Header, Tensor, read_header

GIB = 1 << 30
MIB = 1 << 20


@pytest.fixture(scope="module")
def small(demo_gguf: Path) -> Header:
    """The real header of the 270M."""
    return read_header(demo_gguf)


@pytest.fixture(scope="module")
def large(small: Header) -> Header:
    """The shape of Gemma 3 27B (62 layers, 16 KV heads of 128, five windows to one full)."""
    layer = 250 * MIB
    tensors = [Tensor("token_embd.weight", "Q4_0", (5376, 262144), GIB, 0)]
    tensors += [Tensor(f"blk.{i}.ffn_up.weight", "Q4_0", (1,), layer, 0) for i in range(62)]
    return replace(
        small,
        name="Gemma 3 27B",
        n_layers=62,
        n_ctx_train=131072,
        n_embd=5376,
        n_ff=21504,
        n_head=32,
        n_head_kv=(16,) * 62,
        head_dim_k=128,
        head_dim_v=128,
        sliding_window=1024,
        sliding_pattern=tuple((i + 1) % 6 != 0 for i in range(62)),
        tensors=tuple(tensors),
        tensor_bytes=GIB + 62 * layer,
        file_bytes=GIB + 62 * layer,
    )


def machine(ram: float, *gpus: float) -> Machine:
    return Machine(
        host=Device("CPU", "cpu", int(ram * GIB), int(ram * GIB)),
        gpus=tuple(
            Device(f"GPU{i}", "gpu", int(g * GIB), int(g * GIB)) for i, g in enumerate(gpus)
        ),
        threads=4,
    )


def test_window_layers_keep_window_and_ubatch_only(large: Header) -> None:
    full = kv_bytes(large, 131072, "f16", range(62))
    assert full == pytest.approx(10.6 * GIB, rel=0.05)
    assert kv_bytes(large, 131072, "q8_0", range(62)) / full == pytest.approx(34 / 64)
    everywhere = replace(large, sliding_window=0)
    assert kv_bytes(everywhere, 131072, "f16", range(62)) == 62 * GIB


def test_without_a_gpu_nothing_is_offloaded(small: Header) -> None:
    made = plan(small, machine(8), Wishes())
    assert made.gpu_layers == 0
    assert made.n_ctx == 32768
    assert made.threads == 4
    assert "no GPU" in made.why


def test_everything_goes_to_a_gpu_that_holds_it(large: Header) -> None:
    made = plan(large, machine(64, 48), Wishes())
    assert made.gpu_layers == 63 == made.n_layers + 1
    host, gpu = made.shares
    assert host.kv == 0
    assert gpu.needed < 47 * GIB


def test_else_as_many_layers_as_leave_room(large: Header) -> None:
    made = plan(large, machine(64, 8), Wishes())
    assert 0 < made.gpu_layers < 63
    assert made.shares[1].needed <= 7 * GIB
    more = Wishes(n_ctx=made.n_ctx, gpu_layers=made.gpu_layers + 1, force=True)
    one_more = plan(large, machine(64, 8), more)
    assert one_more.shares[1].needed > 7 * GIB
    two = plan(large, machine(64, 8, 8), Wishes())
    assert two.gpu_layers > made.gpu_layers


def test_the_first_layer_moved_brings_a_copy_of_the_tied_embedding(large: Header) -> None:
    made = plan(large, machine(64, 48), Wishes(gpu_layers=1))
    assert made.shares[1].weights == GIB
    assert made.shares[0].weights == large.tensor_bytes


def test_little_memory_means_a_smaller_context_but_never_a_tiny_one(large: Header) -> None:
    roomy = plan(large, machine(64), Wishes())
    tight = plan(large, machine(18.5), Wishes())
    assert 4096 <= tight.n_ctx < roomy.n_ctx == 32768
    assert roomy.why.endswith(
        "context 32,768 tokens: enough for most, and --ctx takes up to 131,072"
    )
    assert tight.why.endswith(f"context {tight.n_ctx:,} tokens: {2 * tight.n_ctx:,} do not fit")
    with pytest.raises(DoesNotFitError, match=r"27B needs .* GiB") as raised:
        plan(large, machine(8), Wishes())
    assert raised.value.exit_code == 5
    assert "gemma list --available" in (raised.value.hint or "")


def test_wishes_decide(large: Header) -> None:
    made = plan(large, machine(64), Wishes(n_ctx="max", threads=2, kv_type="q8_0"))
    assert (made.n_ctx, made.threads, made.kv_type) == (131072, 2, "q8_0")
    assert plan(large, machine(64), Wishes(gpu_layers="all")).gpu_layers == 0
    with pytest.raises(UsageError, match="131072"):
        plan(large, machine(64), Wishes(n_ctx=131073))
    with pytest.raises(UsageError, match="63"):
        plan(large, machine(64, 48), Wishes(gpu_layers=64))


def test_the_margin_and_force(large: Header) -> None:
    usual = plan(large, machine(64, 8), Wishes(n_ctx=8192))
    greedy = plan(large, machine(64, 8), Wishes(n_ctx=8192, gpu_margin=0))
    assert greedy.gpu_layers > usual.gpu_layers
    with pytest.raises(DoesNotFitError, match="GPU0"):
        plan(large, machine(64, 8), Wishes(n_ctx=8192, gpu_layers="all"))
    forced = plan(large, machine(64, 8), Wishes(n_ctx=8192, gpu_layers="all", force=True))
    assert forced.gpu_layers == 63
    assert "as forced" in forced.why


def test_a_model_all_on_the_gpu_goes_before_a_longer_context(large: Header) -> None:
    made = plan(large, machine(64, 19.5), Wishes())
    assert made.gpu_layers == 63
    assert 8192 <= made.n_ctx < 32768
    assert made.why.endswith("tokens: with more, some layers would stay on the host")


def test_unknown_and_shared_memory(large: Header) -> None:
    unknown = replace(machine(64), gpus=(Device("Odd", "gpu", 0, 0),))
    assert plan(large, unknown, Wishes()).gpu_layers == 0
    shared = replace(machine(24), gpus=(Device("M", "gpu", 24 * GIB, 24 * GIB, unified=True),))
    assert plan(large, shared, Wishes()).gpu_layers == 63
    with pytest.raises(DoesNotFitError) as raised:
        plan(large, replace(shared, host=machine(12).host), Wishes(gpu_layers="all"))
    # What is refused is said to need more than there is, whoever holds it.
    needed, free = re.findall(r"([\d.]+) GiB(?: of memory|,? are free)", raised.value.message)[:2]
    assert float(needed) > 18 > float(free) == 12


def test_an_integrated_gpu_counts_only_alone(large: Header) -> None:
    both = replace(
        machine(64),
        gpus=(Device("Card", "gpu", 8 * GIB, 8 * GIB), Device("iGPU", "igpu", 8 * GIB, 8 * GIB)),
    )
    made = plan(large, both, Wishes())
    assert [share.device.name for share in made.shares] == ["CPU", "Card"]
    assert made.split == ()


def test_a_draft_is_planned_beside_its_model(large: Header, small: Header) -> None:
    computer = machine(64, 18.7)
    made = plan(large, computer, Wishes(n_ctx=8192))
    left = remaining(computer, made)
    assert left.gpus[0].free == computer.gpus[0].free - made.shares[1].needed
    assert plan(small, left, Wishes(n_ctx=8192)).gpu_layers < 19


def test_a_projector_and_adapters_count_where_the_model_is(large: Header) -> None:
    beside = 2 * GIB
    wishes = Wishes(n_ctx=8192)
    with_it = replace(wishes, beside=beside)
    on_host = plan(large, machine(64), wishes).host, plan(large, machine(64), with_it).host
    assert on_host[1].weights - on_host[0].weights == beside
    alone, both = (plan(large, machine(64, 48), each).shares[1] for each in (wishes, with_it))
    assert both.weights - alone.weights == beside
    fewer = plan(large, machine(64, 8), with_it)
    assert fewer.gpu_layers < plan(large, machine(64, 8), wishes).gpu_layers
    assert fewer.shares[1].left >= GIB
    first, second = plan(large, machine(64, 12, 12), with_it).shares[1:]
    assert first.needed <= 11 * GIB
    assert second.needed <= 11 * GIB
    with pytest.raises(DoesNotFitError):
        plan(large, machine(18.5), with_it)


def test_what_llama_cpp_needs_beyond_the_plan_is_left_for_it(
    large: Header, capsys: pytest.CaptureFixture[str]
) -> None:
    card = Device("Card", "gpu", 8 * GIB, 8 * GIB, id="CUDA0")
    computer = replace(machine(64), gpus=(card,))
    wishes = Wishes(n_ctx=8192)
    made = plan(large, computer, wishes)
    host, gpu = made.shares
    said = Simulated(0, {"CUDA0": gpu.compute, "CUDA_Host": host.compute}, True)
    assert corrected(made, said, large, computer, wishes) == made
    more = replace(said, compute={"CUDA0": gpu.compute + GIB, "CUDA_Host": 0})
    again = corrected(made, more, large, computer, wishes)
    assert again.gpu_layers < made.gpu_layers
    assert again.shares[1].needed + GIB <= 7 * GIB
    assert "Card" in capsys.readouterr().err


def test_a_refusal_offers_the_least_change_of_each_kind(large: Header) -> None:
    def hint(header: Header, free: float, wishes: Wishes) -> str:
        with pytest.raises(DoesNotFitError) as raised:
            plan(header, machine(free), wishes)
        return raised.value.hint or ""

    # Some 28.5 GiB at full length, 23.5 with half of the KV cache's bits, 21 with a quarter.
    longest = Wishes(n_ctx="max")
    assert "--kv-type q8_0; a smaller context fits: --ctx 65536" in hint(large, 24.5, longest)
    assert "--kv-type q4_0; a smaller context fits: --ctx 32768" in hint(large, 22, longest)
    assert "--kv-type" not in hint(large, 19, replace(longest, kv_type="q4_0"))
    assert "--ctx 131072" in hint(replace(large, n_ctx_train=262144), 30, longest)
    # Never silently below 4,096, but offered: 18.2 GiB are enough for 2,048.
    assert "--ctx 2048" in hint(large, 18.2, Wishes())


def test_where_a_gpu_costs_the_host_memory_the_cpu_alone_is_planned(small: Header) -> None:
    per_layer = Tensor("per_layer_token_embd.weight", "Q4_0", (1,), 3 * GIB, 0)
    file = replace(small, architecture="gemma4", tensors=(*small.tensors, per_layer))
    made = plan(file, machine(2, 8), Wishes())
    assert (made.gpu_layers, made.in_file, made.n_ctx) == (0, 3 * GIB, 32768)
    assert "the host would need more memory" in made.why
    # On a GPU where the host has room; and as asked, or not at all.
    assert plan(file, machine(8, 8), Wishes()).all_on_gpu
    with pytest.raises(DoesNotFitError):
        plan(file, machine(2, 8), Wishes(gpu_layers="all"))


def test_a_full_first_gpu_that_keeps_the_others_from_use_is_said(large: Header) -> None:
    made = plan(large, machine(64, 1.2, 8), Wishes())
    assert made.gpu_layers == 0
    (note,) = made.notes
    assert "GPU0" in note
    assert "hide it" in note
    assert "first GPU" in made.why
    alone = plan(large, machine(64, 8), Wishes())
    assert f"and {alone.gpu_layers} layers fit" in note
    # Whole on the second one, nothing is computed on the first.
    assert plan(large, machine(64, 1.2, 48), Wishes()).notes == ()
    assert plan(large, machine(64, 1.2, 1.2), Wishes()).notes == ()


def test_a_full_first_gpu_does_not_take_a_layout_for_each_number_of_layers(large: Header) -> None:
    class Counted(Offloading):
        laid_out = 0

        def shares(self, *args: Any) -> tuple[Share, ...]:
            self.laid_out += 1
            return super().shares(*args)

    ways = Counted(large, parts_of(large), 32768, "f16", 0)
    assert ways.best(machine(64, 1.2, 8), GIB).gpu_layers == 0
    assert ways.laid_out < 6
