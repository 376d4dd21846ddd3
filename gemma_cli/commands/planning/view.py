"""A plan as a person reads it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from gemma_cli.commands.planning.targets import Candidate
from gemma_cli.machine.memory import Plan, Share
from gemma_cli.machine.sizes import memory_size
from gemma_cli.terminal.bars import bar, legend
from gemma_cli.terminal.sanitize import clean_line
from gemma_cli.terminal.tables import columns, hanging, size, table

_LONGEST_BAR, _SHORTEST_BAR = 44, 20
_TOGETHER = "\N{NO-BREAK SPACE}"  # a sign of the legend stays beside its name


def facts_text(chosen: Candidate, plan: Plan, *, fits: bool, why: str | None) -> str:
    """why: of what would be loaded; None where it would be refused."""
    here = "here" if chosen.here else "not here yet"
    file = "of unknown size" if chosen.stated is None else _file_size(chosen)
    lines = [
        f"{clean_line(chosen.name)}  {chosen.quant}, {file}, {here}",
        hanging(
            "  context    ",
            f"{plan.n_ctx:,} of {plan.n_ctx_max:,} tokens, KV cache in {plan.kv_type}",
        ),
        f"  layers     {plan.gpu_layers} of {plan.n_layers + 1} on a GPU",
    ]
    if plan.in_file:
        said = f"{memory_size(plan.in_file)} of weights, read row by row"
        lines.append(hanging("  in file    ", said))
    if not fits:
        lines.append("  fits       no")
    if why is not None:
        lines.append(hanging("  why        ", why))
    return "\n".join(lines)


def _file_size(candidate: Candidate) -> str:
    return size(candidate.stated, about=not candidate.exact)


def devices_text(plan: Plan) -> str:
    names = [clean_line(share.device.name) for share in plan.shares]
    rooms = [f"{memory_size(s.left)} of {memory_size(s.device.total)} left" for s in plan.shares]
    width = max(map(len, names)) + 2
    beside = len("[] ") + max(map(len, rooms))
    if narrow := columns() < width + _SHORTEST_BAR + beside:
        width = 2
    indent = " " * width
    length = max(min(columns() - width - beside, _LONGEST_BAR), 1)
    lines = [""]
    for share, name, room in zip(plan.shares, names, rooms, strict=True):
        device = share.device
        used = max(0, device.total - device.free)
        parts = (used, share.weights, share.kv, share.compute)
        if narrow:
            lines.append(name)
        label = indent if narrow else f"{name:{width}}"
        lines.append(f"{label}{bar(device.total, parts, length)} {room}")
        lines.append(hanging(indent, _parts(share)))
    signs = legend().replace("  ", "\n").replace(" ", _TOGETHER).replace("\n", "  ")
    return "\n".join([*lines, hanging(indent, signs).replace(_TOGETHER, " "), ""])


def devices_words(plan: Plan) -> str:
    """What devices_text draws, in words alone."""
    lines = []
    for share in plan.shares:
        device = share.device
        used, total = memory_size(max(0, device.total - device.free)), memory_size(device.total)
        lines.append(
            f"{clean_line(device.name)}: {used} of {total} in use; for the model: "
            f"{_parts(share)}; {memory_size(share.left)} left"
        )
    return "\n".join(lines)


def _parts(share: Share) -> str:
    if not share.needed:
        return "not used"
    return (
        f"weights {memory_size(share.weights)}, KV cache {memory_size(share.kv)}, "
        f"compute {memory_size(share.compute)}"
    )


def quantizations_text(
    rows: Sequence[dict[str, Any]],
    candidates: Sequence[Candidate],
    chosen: Candidate,
    n_layers: int,
) -> str:
    """rows: what `gemma plan --json` says of the candidates. HERE where one of them is."""
    cells = [
        [
            ("> " if candidate is chosen else "  ") + (candidate.quant or "?"),
            _file_size(candidate),
            memory_size(row["needed"]),
            f"{row['gpu_layers']}/{n_layers + 1}",
            f"{row['n_ctx']:,}",
            f"~{row['tokens_per_second_estimate']:.0f}",
            "yes" if row["fits"] else "no",
            "here" if candidate.here else "-",
        ]
        for row, candidate in zip(rows, candidates, strict=True)
    ]
    header = ["  QUANT", "FILE", "MEMORY", "GPU", "CONTEXT", "~TOK/S", "FITS", "HERE"]
    shown = len(header) if any(candidate.here for candidate in candidates) else len(header) - 1
    return table(header[:shown], [row[:shown] for row in cells], right=(1, 2, 3, 4, 5))
