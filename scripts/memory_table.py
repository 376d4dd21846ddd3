#!/usr/bin/env python3
"""docs/memory.md, made by the planner.

python scripts/memory_table.py            writes it
python scripts/memory_table.py --check    exits 1 where it is not what the planner says
"""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

from gemma_cli.commands.fitting import expected_header
from gemma_cli.machine import layout
from gemma_cli.machine.devices import Device, Machine
from gemma_cli.machine.memory import Plan, Wishes, layouts
from gemma_cli.models.anatomy import tensors_of
from gemma_cli.models.entries import CatalogModel, load_catalog
from gemma_cli.models.gguf import Header

PAGE = Path(__file__).resolve().parents[1] / "docs" / "memory.md"
QUANTS = ("Q4_0", "Q5_K_M", "Q8_0")
HOST = Machine(Device("CPU", "cpu", 1 << 50, 1 << 50), (), threads=1)
GPU = replace(HOST, gpus=(Device("GPU", "gpu", 1 << 50, 1 << 50),))
TEXT = """# What each Gemma needs in memory

Made by `python scripts/memory_table.py` from the planner; all figures in GiB.

- **file**: what its publisher states (`~` rounded). **tensors**: what the model's shape and
  llama.cpp's quantization rules give for it. Where they differ, the publisher has chosen other
  types for some tensors; the memory columns follow the file.
- **8K**, **full**: weights, f16 KV cache and compute buffer at 8,192 tokens and at all that the
  model was trained on, everything on the CPU, or everything on one GPU. On a GPU a tied
  embedding is there as well as on the host. Gemma 4 E2B and E4B leave their per-layer
  embeddings in the file on the CPU; with a GPU they are in the host's memory, not on it.
- A quantized KV cache (`--kv-type q8_0`) takes 53 % of its part, q4_0 28 %.
- `gemma plan MODEL` says the same for your machine, layer by layer, and
  `python scripts/check_memory.py` compares the planner with llama.cpp's own accounting.

No publisher states memory with context for these files: the file size is their only figure.

| model | quantization | file | tensors | CPU 8K | CPU full | GPU 8K | GPU full | full context |
|---|---|---:|---:|---:|---:|---:|---:|---:|
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
