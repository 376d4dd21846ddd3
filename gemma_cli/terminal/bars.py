"""A device's memory as a bar: what is taken, what would be, what stays free."""

from __future__ import annotations

import sys
from collections.abc import Sequence

_BLOCKS, _PLAIN = "▓█▒░·", "x#=+."
LEGEND = ("in use", "weights", "KV cache", "compute", "free")


def bar(total: int, parts: Sequence[int], width: int) -> str:
    """parts: bytes in use, of weights, KV cache and compute; the rest of total is free.

    A part that is there at all gets a cell. More than total ends in "!".
    """
    signs = _signs()
    whole = max(total, sum(parts), 1)
    cells = [max(1, round(part * width / whole)) if part > 0 else 0 for part in parts]
    text = "".join(sign * count for sign, count in zip(signs, cells, strict=False))
    text = text[:width].ljust(width, signs[-1] if sum(parts) <= total else text[-1:] or " ")
    return f"[{text}]" if sum(parts) <= total else f"[{text}!"


def legend() -> str:
    return "  ".join(f"{sign} {name}" for sign, name in zip(_signs(), LEGEND, strict=True))


def _signs() -> str:
    encoding = getattr(sys.stdout, "encoding", None) or "ascii"
    try:
        _BLOCKS.encode(encoding)
    except (UnicodeEncodeError, LookupError):
        return _PLAIN
    return _BLOCKS
