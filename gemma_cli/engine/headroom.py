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
# Graphs, batches and what each evaluation allocates for itself.
_CONTEXT = 96 * _MIB
_NO_MEMORY = re.compile(r"bad_alloc|alloc|insufficient memory|out of memory|reserve", re.IGNORECASE)


def check_load(path: Path, parts: Sequence[Path]) -> None:
    """Raise DoesNotFitError unless the files can be mapped beside what a load needs."""
    with contextlib.ExitStack() as held:
        try:
            for part in parts:
                file = held.enter_context(part.open("rb"))
                held.enter_context(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
            _borrow(_LOAD)
        except (OSError, MemoryError, ValueError) as error:
            raise no_load(path, _said(error)) from error


def check_context(plan: Plan) -> None:
    """Raise DoesNotFitError unless the host has memory for the plan's KV cache and buffers."""
    host = plan.shares[0]
    try:
        _borrow(host.kv + host.compute + _CONTEXT)
    except (OSError, MemoryError, ValueError) as error:
        raise no_context(plan, _said(error)) from error


def is_memory(reason: str) -> bool:
    """Whether llama.cpp's reason for a failure is a lack of memory."""
    return _NO_MEMORY.search(reason) is not None


def no_load(path: Path, reason: str) -> DoesNotFitError:
    return DoesNotFitError(
        f"there is too little memory to load {path.name}: {reason}",
        "try a smaller quantization (gemma pull NAME:q4_0) or a smaller Gemma "
        "(gemma list --available)",
    )


def no_context(plan: Plan, reason: str) -> DoesNotFitError:
    smaller = max(plan.n_ctx // 2, min(SMALLEST_CTX, plan.n_ctx))
    quantized = ", a quantized KV cache (--kv-type q8_0)" if plan.kv_type == "f16" else ""
    return DoesNotFitError(
        f"there is too little memory for a context of {plan.n_ctx} tokens: {reason}",
        f"try a smaller context (--ctx {smaller}){quantized} "
        "or a smaller quantization (gemma pull NAME:q4_0)",
    )


def _said(error: BaseException) -> str:
    return getattr(error, "strerror", None) or str(error) or "no memory"


def _borrow(size: int) -> None:
    if sys.platform == "win32":
        mmap.mmap(-1, size).close()  # counts against the commit limit
    else:
        mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANON).close()
