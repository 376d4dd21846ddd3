"""What devices take for copies of what crosses over: beside figures measured of llama.cpp."""

from __future__ import annotations

import ctypes
from dataclasses import replace
from pathlib import Path

import pytest

from gemma_cli.engine.model import ModelParams
from gemma_cli.machine.devices import Device, Machine
from gemma_cli.machine.layout import parts_of
from gemma_cli.machine.memory import Plan, Wishes, layouts
from gemma_cli.machine.offload import Offload, Offloading
from gemma_cli.models.entries import load_catalog
from gemma_cli.models.gguf import Header, read_header
from tests.weightless import weightless

MIB = 1 << 20
NEAR = 16 * MIB
HOST = Device("CPU", "cpu", 1 << 50, 1 << 50)


def header_of(name: str, folder: Path) -> Header:
    model = load_catalog().get(name)
    assert model is not None
    return read_header(weightless(folder / "model.gguf", model.shape, "Q4_0"))


def laid_out(header: Header, n_ctx: int, *free: float, layers: int | None = None) -> Plan:
    """free: MiB of each GPU; nothing is left to a desktop."""
    gpus = tuple(
        Device("GPU", "gpu", int(size * MIB), int(size * MIB), id=f"CUDA{number}")
        for number, size in enumerate(free)
    )
    wishes = Wishes(n_ctx=n_ctx, gpu_layers=layers, gpu_margin=0)
    (plan,) = layouts(header, Machine(HOST, gpus, threads=1), wishes)
    return plan


def test_several_gpus_that_hold_everything_keep_the_inputs_of_four_batches(tmp_path: Path) -> None:
    header = header_of("gemma3:27b", tmp_path)
    (host, one) = laid_out(header, 32768, 1 << 20).shares
    two = laid_out(header, 32768, 1900, 1 << 20)
    assert two.all_on_gpu
    assert [share.layers for share in two.shares] == [0, 5, 58]
    assert two.shares[1].compute == pytest.approx(203 * MIB, abs=NEAR)
    assert two.shares[2].compute == pytest.approx(373 * MIB, abs=NEAR)
    assert one.compute == pytest.approx(199 * MIB, abs=NEAR)
    assert two.host.compute > host.compute + 3 * 32 * MIB  # three masks of 32,768 cells


def test_batches_overlap_with_an_idle_gpu_too_but_not_where_the_host_has_layers(
    tmp_path: Path,
) -> None:
    header = header_of("gemma3:27b", tmp_path)
    idle = laid_out(header, 32768, 1 << 20, 1)
    assert idle.split == (63, 0)
    assert idle.shares[1].compute > 300 * MIB
    partly = laid_out(header, 32768, 1 << 20, 1 << 20, layers=40)
    assert partly.shares[1].compute < 300 * MIB + max(t.bytes for t in header.tensors)


def test_shared_kv_is_copied_to_a_gpu_that_has_only_those_who_read_it(tmp_path: Path) -> None:
    """Gemma 4 E2B: the last 20 of 35 layers read the cache of layers 13 and 14."""
    header = header_of("gemma4:e2b", tmp_path)
    largest = max(t.bytes for t in header.tensors if t.name.startswith("blk."))
    plan = laid_out(header, 32768, 1 << 20, layers=15)
    assert plan.shares[1].kv == 0
    assert plan.shares[1].compute - largest == pytest.approx(325 * MIB, abs=24 * MIB)
    everything = laid_out(header, 32768, 1 << 20)
    assert everything.shares[1].compute < 160 * MIB


def test_the_copies_leave_room_for_fewer_layers(tmp_path: Path) -> None:
    """What is chosen fits by the figures that are then stated, to the last byte."""
    header = header_of("gemma4:e2b", tmp_path)
    for free in range(400, 3200, 100):
        for gpus in ((free,), (free / 2, free / 2)):
            plan = laid_out(header, 32768, *gpus)
            assert all(share.left >= 0 for share in plan.shares), gpus


def test_a_backend_that_leaves_the_hosts_layers_alone_needs_less_on_the_gpu(
    tmp_path: Path,
) -> None:
    """llama.cpp's figures for a device without offload_op: 75.52 and 84.52 MiB."""
    header = header_of("gemma3:4b", tmp_path)
    way = Offloading(header, parts_of(header), 4096, "f16", 0)
    offload = Offload(17, 0, (17,))
    for backend, host, device in (("RPC", 84.52, 75.52), ("CUDA", 15.52, 98.07)):
        gpu = Device("GPU", "gpu", 1 << 50, 1 << 50, backend=backend)
        shares = way.shares(HOST, [gpu], offload)
        assert [share.compute / MIB for share in shares] == pytest.approx([host, device], abs=0.01)


def test_a_header_without_the_tensors_of_its_kind_gets_cautious_figures(tmp_path: Path) -> None:
    header = header_of("gemma3:4b", tmp_path)
    lacking = replace(header, tensors=tuple(t for t in header.tensors if "attn_q" not in t.name))
    foreign = replace(header, architecture="llama")
    for offload in (Offload(17, 0, (8, 9)), Offload(35, 0, (17, 18))):
        known = Offloading(header, parts_of(header), 4096, "f16", 0)
        real = known.shares(HOST, [HOST] * 2, offload)
        for other in (lacking, foreign):
            way = Offloading(other, parts_of(other), 4096, "f16", 0)
            guessed = way.shares(HOST, [HOST] * 2, offload)
            for guess, share in zip(guessed, real, strict=True):
                assert share.compute <= guess.compute < share.compute + 256 * MIB


def test_without_layers_on_a_gpu_llama_cpp_is_given_none() -> None:
    """Else the first one computes long batches of the host's layers all the same."""
    params = ModelParams(0).value
    assert ctypes.c_void_p.from_address(params.devices).value is None
    assert not ModelParams(1).value.devices


def test_no_layer_on_any_of_several_gpus() -> None:
    params = ModelParams(0, (0, 0)).value
    assert params.n_gpu_layers == 0
    assert not params.tensor_split
