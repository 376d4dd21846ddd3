"""What llama.cpp itself says it would allocate for a plan: nothing is allocated, no weight read."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gemma_cli.engine.context import context_params
from gemma_cli.engine.library import C
from gemma_cli.engine.model import ModelParams, quiet_backend
from gemma_cli.errors import EngineError
from gemma_cli.machine.memory import Plan
from gemma_cli.models.ggml import file_name

_MIB = 1 << 20
_SIZE = r"=\s*([\d.]+) MiB"


@dataclass(frozen=True, slots=True)
class Simulated:
    """Bytes by llama.cpp's own accounting, per buffer type ("CPU", "CPU_REPACK", "CUDA0" ...).

    kv: of all devices together.
    """

    kv: int
    compute: dict[str, int]
    flash_attention: bool


class Simulation:
    """A model opened without its weights; ask it about as many plans as you like, then close it.

    Only for files that were admitted: llama.cpp aborts on some hostile metadata.
    """

    def __init__(
        self,
        path: Path,
        gpu_layers: int = 0,
        split: Sequence[int] = (),
        experts_on_host: Sequence[int] = (),
    ) -> None:
        layout = ModelParams(gpu_layers, split, experts_on_host)
        params = layout.value
        # Any other load mode aborts under no_alloc.
        params.no_alloc, params.load_mode = True, C.LLAMA_LOAD_MODE_NONE
        self._log = quiet_backend()
        self._pointer, said = self._log.read(
            lambda: C.llama_model_load_from_file(file_name(path), params)
        )
        if not self._pointer:
            raise EngineError(f"llama.cpp cannot plan for {path.name}: {_last_error(said)}")

    @property
    def pointer(self) -> Any:
        """llama.cpp's model."""
        return self._pointer

    def ask(self, plan: Plan) -> Simulated:
        """What a context by this plan takes. EngineError if llama.cpp refuses it."""
        params: Any = context_params(plan)
        context, said = self._log.read(lambda: C.llama_init_from_model(self._pointer, params))
        if not context:
            raise EngineError(
                f"llama.cpp makes no context of {plan.n_ctx} tokens: {_last_error(said)}"
            )
        C.llama_free(context)
        kv = sum(float(size) for size in re.findall(rf"llama_kv_cache: size {_SIZE}", said))
        return Simulated(
            int(kv * _MIB),
            _compute_buffers(said),
            "Flash Attention enabled" in said or "flash_attn    = enabled" in said,
        )

    def close(self) -> None:
        if self._pointer:
            C.llama_model_free(self._pointer)
            self._pointer = None


def _compute_buffers(said: str) -> dict[str, int]:
    sizes: Counter[str] = Counter()
    for name, size in re.findall(rf"(\S+) compute buffer size {_SIZE}", said):
        sizes[name] += int(float(size) * _MIB)
    return dict(sizes)


def _last_error(said: str) -> str:
    lines = [line for line in said.splitlines() if "error" in line or "failed" in line]
    return (lines or said.splitlines() or ["it did not say why"])[0].strip()
