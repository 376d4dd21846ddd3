#!/usr/bin/env python3
"""docs/memory.md, made by the planner.

python scripts/memory_table.py            writes it
python scripts/memory_table.py --check    exits 1 where it is not what the planner says
"""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

from gemma_cli.commands.planning.fitting import expected_header
from gemma_cli.machine import layout
from gemma_cli.machine.devices import Device, Machine
from gemma_cli.machine.memory import Plan, Wishes, layouts
from gemma_cli.models.anatomy import tensors_of
from gemma_cli.models.entries import CatalogModel, load_catalog
from gemma_cli.models.gguf import Header

PAGE = Path(__file__).resolve().parents[1] / "docs" / "memory.md"
QUANTS = ("Q4_0", "Q5_K_M", "Q8_0")
# What Google states that inference takes, in GB (10^9 bytes), beside the quantization
# that is nearest to it; the letter names the source in TEXT.
PUBLISHED = {
    ("gemma3:1b", "Q4_0"): "0.5 (b)",
    ("gemma3:4b", "Q4_0"): "2.6 (b)",
    ("gemma3:12b", "Q4_0"): "6.6 (b)",
    ("gemma3:27b", "Q4_0"): "14.1 (b)",
    ("gemma4:e2b", "Q4_0"): "2.9 (a)",
    ("gemma4:e2b", "Q8_0"): "5.7 (a)",
    ("gemma4:e4b", "Q4_0"): "4.5 (a)",
    ("gemma4:e4b", "Q8_0"): "8.9 (a)",
    ("gemma4:12b", "Q4_0"): "6.7 (a)",
    ("gemma4:12b", "Q8_0"): "13.4 (a)",
    ("gemma4:26b", "Q4_0"): "14.4 (a)",
    ("gemma4:26b", "Q8_0"): "28.8 (a)",
    ("gemma4:31b", "Q4_0"): "17.5 (a)",
    ("gemma4:31b", "Q8_0"): "34.9 (a)",
}
HOST = Machine(Device("CPU", "cpu", 1 << 50, 1 << 50), (), threads=1)
GPU = replace(HOST, gpus=(Device("GPU", "gpu", 1 << 50, 1 << 50),))
TEXT = """# What each Gemma needs in memory

Made by `python scripts/memory_table.py` from the planner; all figures in GiB.

- **file**: what its publisher states (`~` rounded). **tensors**: what the model's shape and
  llama.cpp's quantization rules give for it. Where they differ, the publisher has chosen other
  types for some tensors; the memory columns follow the file.
- **8K**, **full**: weights, f16 KV cache and compute buffer at 8,192 tokens and at all that the
  model was trained on (**longest**), everything on the CPU, or everything on one GPU. On a GPU
  a tied embedding is there as well as on the host. Gemma 4 E2B and E4B leave their per-layer
  embeddings in the file on the CPU; with a GPU they are in the host's memory, not on it.
- A quantized KV cache (`--kv-type q8_0`) takes 53 % of its part, q4_0 28 %.
- **published**: what Google states, in GB (a GB is 0.93 GiB), where we found a figure:
  (a) the overview of Gemma 4 (<https://ai.google.dev/gemma/docs/core>), section on memory for
  inference, its columns Q4_0 and SFP8 (8 bits: beside Q8_0, which takes 8.5 a weight). Of what
  it counts it says only that the figures are approximate. (b) the announcement of the Gemma 3
  models trained for four bits (April 2025): int4, weights alone. There is no figure for a
  context of a given length, nor for Q5_K_M.
- Why they differ: ours hold the KV cache and the compute buffer of the stated context; what is
  published hardly can. For E2B and E4B it counts the per-layer embeddings, which here stay in
  the file or on the host. Our weights are the file's, whose embedding is finer than 4 bits.
- `gemma plan MODEL` says the same for your machine, layer by layer.

## How sure it is

- Weights and KV cache are sums over the header: exact.
- Compute buffers where GPUs have layers: `machine/compute/graph.py` lists what llama.cpp evaluates,
  in its order, and `machine/compute/allocation.py` shares it out and allocates it by
  llama.cpp's own rules
  (what is copied between devices, what is overwritten, which gap is filled first). A GPU also
  computes long batches of the layers that stayed on the host: room for their largest weight
  and for copies of their KV cache is in its buffer. `python scripts/check_offload.py` compares
  3,700 layouts with llama.cpp's figures (none to all layers on one, two and three devices,
  contexts of 4,096 and 32,768, batches of 256 and 512, f16 and q8_0): equal to the byte, and
  within a quarter of a MiB for the mixture of experts.
- The compute buffer where everything is on the CPU: coefficients, measured. They are within
  16 MiB or 2 %, which `python scripts/check_memory.py` shows for each model.
- Where layers stay on the host, the first GPU needs room for their long batches even if it
  holds none. Where it is too full for that, the others are not used either: plan, run and chat
  say so, and that hiding it (`CUDA_VISIBLE_DEVICES` and the like) frees them.
- A LoRA adapter and a projector count with the bytes of their files, on the first device that
  has layers. What a projector needs to compute beside that is not planned: no command loads one.
- A file of another architecture, or one that lacks tensors, gets cautious figures instead.

## The table

| model | quant | file | tensors | CPU 8K | CPU full | GPU 8K | GPU full | longest | published |
|---|---|---:|---:|---:|---:|---:|---:|---:|---:|
"""


def main() -> None:
    # The table must not depend on the machine that makes it.
    layout.REPACKED = frozenset(("Q4_0", "Q4_K"))
    text = TEXT + "\n".join(row for model in load_catalog().models for row in _rows(model)) + "\n"
    if "--check" in sys.argv[1:]:
        sys.exit(0 if PAGE.read_text(encoding="utf-8") == text else "docs/memory.md is out of date")
    PAGE.write_text(text, encoding="utf-8")


def _rows(model: CatalogModel) -> list[str]:
    rows = []
    for file in model.files:
        header = expected_header(model, file.quant)
        if file.quant.removeprefix("UD-") not in QUANTS or header is None:
            continue
        tensors = sum(tensor.bytes for tensor in tensors_of(model.shape, file.quant))
        about = "" if file.size else "~"
        cells = [
            model.id,
            file.quant,
            f"{about}{_gib(header.file_bytes)}",
            _gib(tensors),
            *(_gib(_host(header, n_ctx)) for n_ctx in (8192, header.n_ctx_train)),
            *(_gib(_card(header, n_ctx)) for n_ctx in (8192, header.n_ctx_train)),
            f"{header.n_ctx_train:,}",
            PUBLISHED.get((model.id, file.quant), ""),
        ]
        rows.append(f"| {' | '.join(cells)} |")
    return rows


def _host(header: Header, n_ctx: int) -> int:
    return _plan(header, HOST, n_ctx).host.needed


def _card(header: Header, n_ctx: int) -> int:
    return _plan(header, GPU, n_ctx).shares[1].needed


def _plan(header: Header, machine: Machine, n_ctx: int) -> Plan:
    (made,) = layouts(header, machine, Wishes(n_ctx=n_ctx))
    return made


def _gib(size: int) -> str:
    return f"{size / (1 << 30):.2f}"


if __name__ == "__main__":
    main()
