"""The planner beside llama.cpp: every model of the catalogue, without weights."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from gemma_cli.machine.devices import Device, Machine
from gemma_cli.machine.layout import KVType, compute_bytes, kv_bytes, parts_of
from gemma_cli.machine.memory import Wishes, layouts
from gemma_cli.models.entries import CatalogModel
from gemma_cli.models.gguf import read_header
from tests.breakdown import Weightless
from tests.weightless import weightless

MIB = 1 << 20
HOST = Machine(Device("CPU", "cpu", 1 << 50, 1 << 50), (), threads=1)


@dataclass(frozen=True, slots=True)
class Compared:
    """One figure twice, in bytes. what: the model, the figure and its circumstances."""

    what: str
    planned: int
    real: int

    @property
    def off(self) -> int:
        return self.planned - self.real

    @property
    def agrees(self) -> bool:
        return abs(self.off) <= max(self.real // 50, 16 * MIB)


def compared(
    folder: Path,
    model: CatalogModel,
    quant: str,
    contexts: Sequence[int],
    kv_types: Sequence[KVType] = ("f16", "q8_0", "q4_0"),
    ubatches: Sequence[int] = (256, 512),
) -> Iterator[Compared]:
    """Weights, KV and compute of one model in one quantization, in all these circumstances."""
    path = weightless(folder / "model.gguf", model.shape, quant)
    header = read_header(path)
    opened = Weightless(path)
    try:
        for n_ctx in sorted({min(n, header.n_ctx_train) for n in contexts}):
            for kv_type in kv_types:
                wishes = Wishes(n_ctx=n_ctx, kv_type=kv_type)
                (plan,) = layouts(header, HOST, wishes)
                for ubatch in ubatches:
                    accounts = opened.accounts(replace(plan, ubatch=ubatch)).values()
                    name = f"{model.id}:{quant} {n_ctx} {kv_type} {ubatch}"
                    kv = kv_bytes(header, n_ctx, kv_type, range(header.n_layers), ubatch)
                    yield Compared(f"{name} kv", kv, sum(a.context for a in accounts))
                    compute = compute_bytes(header, n_ctx, ubatch)
                    yield Compared(f"{name} compute", compute, sum(a.compute for a in accounts))
        weights = plan.host.weights + plan.in_file
        if header.architecture in ("gemma3n", "gemma4"):
            # Without mapping, as here, these two get a second copy of a tied embedding.
            weights += parts_of(header).shared
        yield Compared(f"{model.id}:{quant} weights", weights, sum(a.model for a in accounts))
    finally:
        opened.close()
