"""Is there memory for what llama.cpp is about to allocate? Asked before, because it may abort.

Large buffers that cannot be had make llama.cpp return NULL; small ones make it
end the process. So the whole is asked for at once here, and given back: an
untouched mapping takes microseconds, and fails where a limit (ulimit -v, a
commit limit) would make a part of it fail.
"""

from __future__ import annotations

import contextlib
import mmap
import re
import sys
from collections.abc import Sequence
from pathlib import Path

from gemma_cli.errors import DoesNotFitError
from gemma_cli.machine.memory import SMALLEST_CTX, Plan

_MIB = 1 << 20
# A vocabulary of 262,144 tokens, tensor infos and buffers while reading.
_LOAD = 256 * _MIB
# Graphs, batches, what each evaluation allocates for itself, and the modules that
# the first answer imports (NumPy's alone map 98 MiB).
_CONTEXT = 224 * _MIB
_TINY_CTX = 256  # less than this saves nothing
_NO_MEMORY = re.compile(r"bad_alloc|alloc|insufficient memory|out of memory|reserve", re.IGNORECASE)
# What llama.cpp says where it is the host's memory; a GPU's is named in many ways.
_HOST = re.compile(r"\bCPU|_Host\b|bad_alloc|insufficient memory|failed to allocate buffer of size")


class NoMemoryError(DoesNotFitError):
    """Memory that the plan counted on cannot be had.

    weights: it was for those, not for a context. on_gpu: a GPU's, not the host's.
    """

    def __init__(self, message: str, hint: str | None, *, weights: bool, on_gpu: bool) -> None:
        super().__init__(message, hint)
        self.weights, self.on_gpu = weights, on_gpu


def check_load(path: Path, parts: Sequence[Path]) -> None:
    """Raise NoMemoryError unless the files can be mapped beside what a load needs."""
    with contextlib.ExitStack() as held:
        try:
            for part in parts:
                file = held.enter_context(part.open("rb"))
                held.enter_context(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
            _borrow(_LOAD)
        except (OSError, MemoryError, ValueError) as error:
            raise no_load(path, _said(error)) from error


def check_context(plan: Plan) -> None:
    """Raise NoMemoryError unless the host has memory for the plan's KV cache and buffers."""
    host = plan.shares[0]
    try:
        _borrow(host.kv + host.compute + _CONTEXT)
    except (OSError, MemoryError, ValueError) as error:
        raise no_context(plan, _said(error)) from error


def is_memory(reason: str) -> bool:
    """Whether llama.cpp's reason for a failure is a lack of memory."""
    return _NO_MEMORY.search(reason) is not None


def is_gpus(reason: str, gpu_layers: int) -> bool:
    """Whether that memory is a GPU's. gpu_layers: how many were to go there."""
    return gpu_layers > 0 and _HOST.search(reason) is None


def no_load(path: Path, reason: str, *, on_gpu: bool = False) -> NoMemoryError:
    fewer = "fewer layers on the GPU (--gpu-layers N), " if on_gpu else ""
    return NoMemoryError(
        f"there is too little memory{' on the GPU' if on_gpu else ''} to load {path.name} "
        f"({path.stat().st_size // _MIB} MiB): {reason}",
        f"try {fewer}a smaller quantization (gemma pull NAME:q4_0) or a smaller Gemma "
        "(gemma list --available)",
        weights=True,
        on_gpu=on_gpu,
    )


def no_context(plan: Plan, reason: str, *, on_gpu: bool = False) -> NoMemoryError:
    ways = ["a smaller quantization (gemma pull NAME:q4_0)"]
    if plan.kv_type == "f16":
        ways.insert(0, "a quantized KV cache (--kv-type q8_0)")
    if plan.n_ctx > _TINY_CTX:
        floor = SMALLEST_CTX if plan.n_ctx > SMALLEST_CTX else _TINY_CTX
        ways.insert(0, f"a smaller context (--ctx {max(plan.n_ctx // 2, floor)})")
    kv = sum(share.kv for share in plan.shares) // _MIB
    compute = sum(share.compute for share in plan.shares) // _MIB
    return NoMemoryError(
        f"there is too little memory{' on the GPU' if on_gpu else ''} for a context of "
        f"{plan.n_ctx} tokens (KV cache {kv} MiB, compute {compute} MiB): {reason}",
        f"try {', '.join(ways[:-1])}{' or ' if ways[1:] else ''}{ways[-1]}",
        weights=False,
        on_gpu=on_gpu,
    )


def _said(error: BaseException) -> str:
    return getattr(error, "strerror", None) or str(error) or "no memory"


def _borrow(size: int) -> None:
    if sys.platform == "win32":
        mmap.mmap(-1, size).close()  # counts against the commit limit
    else:
        mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANON).close()
