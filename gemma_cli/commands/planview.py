"""A plan as a person reads it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from gemma_cli.commands.planning import Candidate
from gemma_cli.machine.memory import Plan
from gemma_cli.terminal.bars import bar, legend
from gemma_cli.terminal.sanitize import clean_line
from gemma_cli.terminal.tables import size, table

_GIB = 1 << 30


def facts_text(chosen: Candidate, plan: Plan, *, fits: bool, why: str | None) -> str:
    """why: of what would be loaded; None where it would be refused."""
    here = "here" if chosen.path else "not here yet"
    lines = [
        f"{clean_line(chosen.name)}  {chosen.quant}, {size(chosen.header.file_bytes)}, {here}",
        f"  context    {plan.n_ctx:,} of {plan.n_ctx_max:,} tokens, KV cache in {plan.kv_type}",
        f"  layers     {plan.gpu_layers} of {plan.n_layers + 1} on a GPU",
    ]
    if plan.in_file:
        lines.append(f"  in file    {size(plan.in_file)} of weights, read row by row")
    if not fits:
        lines.append("  fits       no")
    if why is not None:
        lines.append(f"  why        {why}")
    return "\n".join(lines)


def devices_text(plan: Plan) -> str:
    lines = [""]
    width = max(len(clean_line(share.device.name)) for share in plan.shares)
    for share in plan.shares:
        device = share.device
        used = max(0, device.total - device.free)
        picture = bar(device.total, (used, share.weights, share.kv, share.compute))
        lines.append(
            f"{clean_line(device.name):{width}}  {picture} {share.left / _GIB:.1f} GiB of "
            f"{device.total / _GIB:.1f} left"
        )
        lines.append(
            f"{'':{width}}  weights {_gib(share.weights)}, KV cache {_gib(share.kv)}, "
            f"compute {_gib(share.compute)}"
        )
    return "\n".join([*lines, f"{'':{width}}  {legend()}", ""])


def quantizations_text(rows: Sequence[dict[str, Any]], chosen: str, n_layers: int) -> str:
    cells = [
        [
            ("> " if row["quant"] == chosen else "  ") + (row["quant"] or "?"),
            size(row["bytes"]),
            size(row["needed"]),
            f"{row['gpu_layers']}/{n_layers + 1}",
            f"{row['n_ctx']:,}",
            f"~{row['tokens_per_second_estimate']:.0f}",
            "yes" if row["fits"] else "no",
            "here" if row["here"] else "-",
        ]
        for row in rows
    ]
    header = ["  QUANT", "FILE", "MEMORY", "ON GPU", "CONTEXT", "~TOK/S", "FITS", "HERE"]
    return table(header, cells, right=(1, 2, 3, 4, 5))


def _gib(count: int) -> str:
    return f"{count / _GIB:.2f} GiB"
