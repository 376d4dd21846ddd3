"""Amounts of memory as people write and read them."""

from __future__ import annotations

import math
import re

from gemma_cli.errors import UsageError

_UNITS = {
    "": 1,
    "b": 1,
    **{unit: 1024**power for power, unit in enumerate(("k", "m", "g", "t"), start=1)},
    **{unit: 1024**power for power, unit in enumerate(("kib", "mib", "gib", "tib"), start=1)},
    **{unit: 1000**power for power, unit in enumerate(("kb", "mb", "gb", "tb"), start=1)},
}
_SIZE = re.compile(r"(\d+(?:\.\d+)?|\.\d+)\s*([a-z]*)")
_MOST = 1 << 60
_MIB, _GIB = 1 << 20, 1 << 30


def parse_size(option: str, text: str, example: str = "1GiB") -> int:
    """Bytes: "24GiB", "24g", "0.5 GiB", "24GB" (decimal), "0". UsageError names the option."""
    hint = f"for example: {example}"
    match = _SIZE.fullmatch(text.strip().lower())
    unit = _UNITS.get(match[2]) if match else None
    if match is None or unit is None:
        raise UsageError(f"{option} takes an amount of memory, not '{text}'", hint)
    size = float(match[1]) * unit
    if not math.isfinite(size) or size > _MOST:
        raise UsageError(f"{option}: no machine has {text}", hint)
    return int(size)


def memory_size(size: int) -> str:
    """Bytes of memory for people: "22.12 GiB", below one "107 MiB"; negative where they lack."""
    if abs(size) < 1000 * _MIB:
        return f"{size / _MIB:.0f} MiB"
    return f"{size / _GIB:.2f} GiB"
