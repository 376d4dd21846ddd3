"""The planner's compute buffers are those that llama.cpp allocates, layout by layout.

compute_buffers.json: llama.cpp's own figures, on devices that behave as GPUs
(scripts/check_offload.py --record).
"""

from __future__ import annotations

import json
from itertools import groupby
from pathlib import Path
from typing import Any

import pytest

from gemma_cli.machine.devices import Device
from gemma_cli.machine.layout import parts_of
from gemma_cli.machine.offload import Offload, Offloading
from gemma_cli.models.entries import load_catalog
from gemma_cli.models.gguf import read_header
from tests.weightless import weightless

MIB = 1 << 20
HOST = Device("CPU", "cpu", 1 << 50, 1 << 50)
GPU = Device("GPU", "gpu", 1 << 50, 1 << 50)
RECORDED: dict[str, list[dict[str, Any]]] = {
    name: list(cases)
    for name, cases in groupby(
        json.loads(Path(__file__).with_name("compute_buffers.json").read_text(encoding="utf-8")),
        key=lambda case: str(case["model"]),
    )
}


@pytest.mark.parametrize("name", RECORDED)
def test_compute_buffers(tmp_path: Path, name: str) -> None:
    model = load_catalog().get(name)
    assert model is not None
    headers = {
        quant: read_header(weightless(tmp_path / f"{quant}.gguf", model.shape, quant))
        for quant in {case["quant"] for case in RECORDED[name]}
    }
    for case in RECORDED[name]:
        header = headers[case["quant"]]
        way = Offloading(header, parts_of(header), case["n_ctx"], case["kv_type"], 0)
        offload = Offload(case["gpu_layers"], case["host_experts"], tuple(case["split"]))
        shares = way.shares(HOST, [GPU] * len(offload.split), offload)
        for share, real in zip(shares, case["compute"], strict=True):
            # To the byte, but for a mixture of experts: a quarter of a MiB.
            assert abs(share.compute - real) <= MIB / 4, (case, share)


def test_every_shape_of_the_catalogue_is_recorded() -> None:
    shapes = [load_catalog().get(name) for name in RECORDED]
    assert {model.shape for model in shapes if model} == {m.shape for m in load_catalog().models}
