"""Amounts of memory as people write them."""

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


def parse_size(option: str, text: str) -> int:
    """Bytes: "24GiB", "24g", "0.5 GiB", "24GB" (decimal), "0". UsageError names the option."""
    match = _SIZE.fullmatch(text.strip().lower())
    unit = _UNITS.get(match[2]) if match else None
    if match is None or unit is None:
        raise UsageError(f"{option} takes an amount of memory, not '{text}'", "for example: 24GiB")
    size = float(match[1]) * unit
    if not math.isfinite(size) or size > _MOST:
        raise UsageError(f"{option}: no machine has {text}", "for example: 24GiB")
    return int(size)
